"""Servers that report where a connection arrived: `interceptor.py [udp:]NAME@HOST:PORT … [--transparent PORT]`.

Prints one line `ready`. Each client gets one line: NAME, the original destination, `from`, the client's address. With
--transparent the listeners accept connections to other addresses, and the one named `inbound` connects to PORT of the
original destination from the client's address: its clients get the line of that server after its own line.
"""

import socket
import struct
import sys
import threading

SO_ORIGINAL_DST = 80
MARK = 1337
PATIENCE = 20


def text(address):
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def going_to(io):
    try:
        if io.family == socket.AF_INET:
            raw = io.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
            return socket.inet_ntop(socket.AF_INET, raw[4:8]), struct.unpack("!H", raw[2:4])[0]
        raw = io.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), struct.unpack("!H", raw[2:4])[0]
    except OSError:  # not redirected
        return io.getsockname()


def transparent(io):
    if io.family == socket.AF_INET:
        io.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    else:
        io.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT


def next_line(io, port):
    """The line of the application, for a connection from the client's own address."""
    with socket.socket(io.family, socket.SOCK_STREAM) as leg:
        leg.settimeout(PATIENCE)
        transparent(leg)
        leg.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        leg.bind((io.getpeername()[0], 0))
        leg.connect((io.getsockname()[0], port))
        return leg.makefile("rb").readline()


def answer(name, io, onward):
    with io:
        line = f"{name} {text(going_to(io))} from {io.getpeername()[0]}\n".encode()
        if onward and name == "inbound":
            line = line.strip() + b", " + next_line(io, onward)
        io.sendall(line)
        io.shutdown(socket.SHUT_WR)
        io.recv(1)


def serve(name, listener, onward):
    while True:
        io, _ = listener.accept()
        threading.Thread(target=answer, args=(name, io, onward), daemon=True).start()


def serve_datagrams(name, io):
    while True:
        _, caller = io.recvfrom(512)
        io.sendto(f"{name} {text(io.getsockname())} from {caller[0]}\n".encode(), caller)


def main(words):
    onward = int(words[words.index("--transparent") + 1]) if "--transparent" in words else None
    threads = []
    for word in (word for word in words if "@" in word):
        kind, where = word.split("@")
        name, is_udp = kind.removeprefix("udp:"), kind.startswith("udp:")
        host, port = where.rsplit(":", 1)
        host = host.strip("[]")
        io = socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET,
            socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM,
        )
        if io.family == socket.AF_INET6:
            io.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        io.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if onward:
            transparent(io)
        io.bind((host, int(port)))
        if not is_udp:
            io.listen()
        target, args = (serve_datagrams, (name, io)) if is_udp else (serve, (name, io, onward))
        threads.append(threading.Thread(target=target, args=args, daemon=True))
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    threading.Event().wait()


main(sys.argv[1:])
