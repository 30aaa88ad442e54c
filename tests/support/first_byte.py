"""Measures the time to the greeting of servers that speak first: `first_byte.py COUNT KIND HOST PORT BYPASS`.

Makes COUNT connections to HOST, one after the other, and after each one a connection to the same server at BYPASS.
KIND (`line` or `mysql`) says when a greeting is complete, and which part of it is always the same. Sends nothing.
Prints one JSON line: the medians in milliseconds, and the greetings.
"""

import json
import socket
import statistics
import sys
import time

PATIENCE = 20


def line(greeting):
    return greeting if greeting.endswith(b"\n") else None


def mysql(greeting):
    """The server's version; the rest differs for each connection. A packet begins with its length (three bytes) and number."""
    whole = len(greeting) >= 4 and len(greeting) == 4 + int.from_bytes(greeting[:3], "little")
    return greeting[4 : greeting.index(0, 4)] if whole else None


def greeted(kind, address):
    """Returns the milliseconds to the first byte, and the greeting."""
    began, first, greeting = time.perf_counter(), None, b""
    with socket.create_connection(address, PATIENCE) as io:
        while (said := kind(greeting)) is None:
            piece = io.recv(4096)
            first = first or time.perf_counter()
            if not piece:
                return 1000 * (first - began), b"cut short: " + greeting
            greeting += piece
    return 1000 * (first - began), said


count, kind, host, port, bypass = sys.argv[1:]
kind = {"line": line, "mysql": mysql}[kind]
took, said = {host: [], bypass: []}, {host: set(), bypass: set()}
for _ in range(int(count)):
    for to in took:
        milliseconds, text = greeted(kind, (to, int(port)))
        took[to].append(milliseconds)
        said[to].add(text.decode("latin-1"))
print(
    json.dumps(
        {
            "through": statistics.median(took[host]),
            "direct": statistics.median(took[bypass]),
            "said_through": sorted(said[host]),
            "said_direct": sorted(said[bypass]),
        }
    )
)
