"""The kinds of load: closed loop (as fast as answers come), fixed rate, handshakes, and idle connections."""
import contextlib
import json
import re
import socket
import subprocess
import tempfile

from .figures import quantile
from .process import HOST

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
BODY_BYTES = 1024
PATIENCE = 60
PILLION = "pillion"  # the binary that sends at fixed rates; the script names it


class LoadFailed(Exception):
    """A request of the load got no answer, or a wrong one."""


def run(command, seconds):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds + PATIENCE)
    if done.returncode:
        raise LoadFailed(f"{command[0]} failed: {done.stdout[-300:]}")
    return done.stdout


def closed_loop(port, seconds, connections, streams=1, is_http1=True):
    """h2load: each connection (or stream) sends its next request when the one before has been answered."""
    with tempfile.NamedTemporaryFile("r") as log:
        command = ["h2load", "-t", "1", "-c", str(connections), "-m", str(streams), "-D", str(seconds),
                   f"--log-file={log.name}", f"http://{HOST}:{port}/"]
        out = run(command + ["--h1"] * is_http1, seconds)
        rows = [line.split() for line in log]
    # h2load reports the status 0 for an HTTP/1.1 answer without a reason phrase: then the size of the body is checked.
    answered = [int(row[2]) / 1000 for row in rows if row[1] in ("200", "0")]
    bytes_of_bodies = int(re.search(r"\((\d+)\) data", out).group(1))
    if not answered or len(answered) < len(rows) or bytes_of_bodies < len(answered) * BODY_BYTES:
        raise LoadFailed(f"of {len(rows)} requests {len(answered)} were answered with {bytes_of_bodies} bytes: {out[-300:]}")
    return {"requests": len(answered), "rps": len(answered) / seconds, **latency(answered)}


def latency(milliseconds):
    return {"p50_ms": quantile(milliseconds, 0.5), "p99_ms": quantile(milliseconds, 0.99)}


class Exchange:
    """A kept connection, which carries one request at a time."""

    def __init__(self, port):
        self.socket = socket.create_connection((HOST, port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.length, self.got = 0, 0

    def send(self):
        self.length, self.got = 0, 0
        self.socket.sendall(REQUEST)

    def read(self):
        """Reads the available bytes. Returns whether the answer is complete."""
        piece = self.socket.recv(65536)
        if not self.length:
            # Head and body of 1 KiB may come apart, but no server here splits the head.
            head, _, _ = piece.partition(b"\r\n\r\n")
            sized = re.search(rb"(?i)content-length: *(\d+)", head)
            if not piece.startswith(b"HTTP/1.1 200") or not sized:
                raise LoadFailed(f"the answer begins with {piece[:100]!r}")
            self.length = len(head) + 4 + int(sized.group(1))
        self.got += len(piece)
        return self.got >= self.length


def open_loop(port, seconds, rate, connections=32):
    """pillion bench: sends at evenly spaced times, whether or not what came before has been answered."""
    command = [PILLION, "bench", f"http://{HOST}:{port}/", "--rate", str(rate), "--for", f"{seconds}s",
               "--connections", str(connections), "--json"]
    report = json.loads(run(command, seconds))
    if report["errors"] or report["body_bytes"] < report["requests"] * BODY_BYTES:
        raise LoadFailed(f"of {report['requests']} requests {report['errors']} failed: {report['first_error']}")
    return {key: report[key] for key in ("requests", "p50_ms", "p99_ms")}


def handshakes(port, seconds, certs, processes=2):
    """openssl s_time: a connection with a full handshake and a certificate of its own for each request."""
    command = ["openssl", "s_time", "-connect", f"{HOST}:{port}", "-new", "-time", str(seconds), "-www", "/",
               "-CAfile", f"{certs}/ca.crt", "-cert", f"{certs}/tls.crt", "-key", f"{certs}/tls.key"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                for _ in range(processes)]
    done = 0
    for child in children:
        out, _ = child.communicate(timeout=seconds + PATIENCE)
        counted = re.search(r"(\d+) connections in \d+ real seconds", out)
        if not counted:
            raise LoadFailed(f"openssl s_time failed: {out[-300:]}")
        done += int(counted.group(1))
    return {"requests": done}


@contextlib.contextmanager
def held(port, count):
    """Opens `count` connections, each with one answered request."""
    exchanges = []
    try:
        for _ in range(count):
            exchanges.append(Exchange(port))
            exchanges[-1].send()
            while not exchanges[-1].read():
                pass
        yield
    finally:
        for exchange in exchanges:
            exchange.socket.close()
