"""Asks the server at each address: `reach.py [--from IP] [--from-port PORT] [udp:]HOST:PORT …`.

Prints one line for each address: the first line of the server; or refused, reset, timeout, unreachable.
"""

import argparse
import socket

PATIENCE = 20

words = argparse.ArgumentParser()
words.add_argument("--from", dest="source", default="")
words.add_argument("--from-port", type=int, default=0)
words.add_argument("targets", nargs="+")
words = words.parse_args()


def hear(target):
    is_udp = target.startswith("udp:")
    host, port = target.removeprefix("udp:").rsplit(":", 1)
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM) as io:
        io.settimeout(PATIENCE)
        if words.source or words.from_port:
            io.bind((words.source, words.from_port))
        io.connect((host, int(port)))
        if is_udp:
            io.send(b"?")
            return io.recv(512).decode().strip()
        return io.makefile("rb").readline().decode().strip() or "closed"


for target in words.targets:
    try:
        print(hear(target))
    except ConnectionRefusedError:
        print("refused")
    except ConnectionResetError:
        print("reset")
    except TimeoutError:
        print("timeout")
    except OSError as error:
        print("unreachable:", error)
