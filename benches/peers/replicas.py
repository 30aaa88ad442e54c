"""Three replicas of an application, of which the second may have a fault. One process, on three ports.

A replica answers a request 5 ms after it has read it, with its name and 1 KiB of body.
"""
import asyncio
import gc
import random
import select
import selectors
import socket
import struct

ANSWER_SECONDS = 0.005
SLOW_SECONDS = 20 * ANSWER_SECONDS
BODY_BYTES = 1024
NAMES = ("first", "second", "third")
FAULTY = "second"
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER

FAULTS = {
    "none": "all well",
    "dead": "dead (connection refused)",
    "errors": "500 to 30 % of its requests",
    "slow": "20 times slower (100 ms)",
    "resets": "resets 10 % of its requests",
    "silent": "accepts, never answers",
}


class Precise(selectors.EpollSelector):
    """Waits to the microsecond: epoll itself would round a timer up to the next millisecond."""

    def select(self, timeout=None):
        select.select([self], [], [], timeout if timeout is None else max(timeout, 0))
        return super().select(0)


def run(work):
    """Runs a coroutine in a loop with precise timers, and without pauses for cyclic garbage."""
    gc.disable()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Precise())) as runner:
        return runner.run(work)


def answer(status, name):
    body = name.encode().ljust(BODY_BYTES)
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


class Replica(asyncio.Protocol):
    """One connection. Requests have no body and are not pipelined."""

    def __init__(self, name, fault, chance):
        self.fault, self.chance = fault if name == FAULTY else "none", chance
        self.good, self.bad = answer(b"200 OK", name), answer(b"500 Internal Server Error", name)
        self.read = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.read += data
        if self.read.endswith(b"\r\n\r\n"):
            self.read = b""
            self.act()

    def act(self):
        loop = asyncio.get_running_loop()
        if self.fault == "silent":
            return
        if self.fault == "resets" and self.chance.random() < 0.1:
            loop.call_later(ANSWER_SECONDS, self.reset)
        elif self.fault == "errors" and self.chance.random() < 0.3:
            loop.call_later(ANSWER_SECONDS, self.write, self.bad)
        else:
            loop.call_later(SLOW_SECONDS if self.fault == "slow" else ANSWER_SECONDS, self.write, self.good)

    def write(self, what):
        if not self.transport.is_closing():
            self.transport.write(what)

    def reset(self):
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        self.transport.abort()


def bound(address):
    host, _, port = address.rpartition(":")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    return listener


async def serve(fault, seed, addresses):
    loop, chance = asyncio.get_running_loop(), random.Random(seed)
    servers = []
    # The faulty one is first: when the others can be reached, it is in its state.
    for name, address in sorted(zip(NAMES, addresses), key=lambda one: one[0] != FAULTY):
        listener = bound(address)
        if name == FAULTY and fault == "dead":
            servers.append(listener)  # a port that is bound and not listened at refuses, and no other process gets it
        else:
            made = lambda name=name: Replica(name, fault, chance)  # noqa: E731
            servers.append(await loop.create_server(made, sock=listener, backlog=4096))
    await asyncio.Event().wait()


def play(words):
    """`FAULT SEED ADDRESS ADDRESS ADDRESS`: serves until it is ended."""
    fault, seed, *addresses = words
    run(serve(fault, int(seed), addresses))
