"""One TCP connection: `dial.py HOST PORT [--send TEXT] [--line] [--greet]`. Prints its result as one JSON line.

TEXT may have escapes. Reads to the end, or with `--line` to the end of the first line. With `--greet` a line
`connected` is printed first, and there is no time limit.
`end`: line, eof, reset, refused, unreachable, or timeout.
"""

import argparse
import json
import socket

PATIENCE = 20

words = argparse.ArgumentParser()
words.add_argument("host")
words.add_argument("port", type=int)
words.add_argument("--send", default="")
words.add_argument("--line", action="store_true")
words.add_argument("--greet", action="store_true")
words = words.parse_args()


def talk():
    """Returns the bytes that came, and how the connection ended."""
    received = b""
    try:
        with socket.create_connection((words.host, words.port), PATIENCE) as io:
            if words.greet:
                print("connected", flush=True)
                io.settimeout(None)
            try:
                io.sendall(words.send.encode().decode("unicode_escape").encode("latin-1"))
                while piece := io.recv(4096):
                    received += piece
                    if words.line and b"\n" in received:
                        return received, "line"
                return received, "eof"
            except (ConnectionResetError, BrokenPipeError):
                return received, "reset"
    except ConnectionResetError:
        return received, "reset"
    except ConnectionRefusedError:
        return received, "refused"
    except TimeoutError:
        return received, "timeout"
    except OSError:
        return received, "unreachable"


received, end = talk()
print(json.dumps({"received": received.decode("latin-1"), "end": end}))
