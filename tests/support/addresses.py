"""Resolves a name with the C library: `addresses.py NAME`. Prints the addresses, sorted, on one line, or the error."""

import socket
import sys

try:
    found = socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM)
    print(*sorted({address[0] for *_, address in found}))
except socket.gaierror as error:
    print(error.strerror)
