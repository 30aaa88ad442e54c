"""The caller: GET requests at evenly spaced times, whether or not what came before has been answered (open loop).

A request takes a kept connection that is free, or a new one. Its time counts from when it was due. It succeeds with a
whole answer of status 200 within a second of that time; nothing is sent again by the caller.
"""
import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

from .figures import quantile
from .replicas import BODY_BYTES, run

PATIENCE = 1.0
REQUEST = b"GET / HTTP/1.1\r\nHost: replicas\r\n\r\n"


@dataclass
class Tally:
    """What came of the requests of one phase."""
    milliseconds: list = field(default_factory=list)
    late: list = field(default_factory=list)  # of the caller itself: from when a request was due to its sending
    failures: Counter = field(default_factory=Counter)
    replicas: Counter = field(default_factory=Counter)

    def figures(self):
        succeeded = len(self.milliseconds)
        times = {key: round(quantile(self.milliseconds, share), 2) if succeeded else None
                 for key, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0))}
        return {"requests": succeeded + self.failures.total(), "succeeded": succeeded, **times,
                "caller_late_p99_ms": round(quantile(self.late, 0.99), 2) if self.late else None,
                "answered_by": dict(sorted(self.replicas.items())), "failures": dict(self.failures)}


class Exchange(asyncio.Protocol):
    """A connection, and the request that it carries."""

    def __init__(self, caller):
        self.caller, self.transport, self.request = caller, None, None

    def connection_made(self, transport):
        self.transport = transport

    def send(self, due, tally):
        loop = asyncio.get_running_loop()
        self.request, self.read = (due, tally), b""
        self.timer = loop.call_at(due + PATIENCE, self.give_up)
        tally.late.append((loop.time() - due) * 1000)
        self.transport.write(REQUEST)

    def data_received(self, data):
        if not self.request:
            return self.transport.abort()
        self.read += data
        head, end, body = self.read.partition(b"\r\n\r\n")
        length = content_length(head) if end else None
        if length is None or len(body) < length:
            return None
        status = head.split(b" ", 2)[1].decode()
        is_good = status == "200" and length == BODY_BYTES
        self.finish(None if is_good else f"status {status}", body.split()[0].decode() if is_good else None)
        if b"connection: close" in head.lower():
            self.transport.close()
        else:
            self.caller.free.append(self)

    def finish(self, failure, replica=None):
        (due, tally), self.request = self.request, None
        self.timer.cancel()
        if failure:
            tally.failures[failure] += 1
        else:
            tally.milliseconds.append((asyncio.get_running_loop().time() - due) * 1000)
            tally.replicas[replica] += 1
        self.caller.ended()

    def give_up(self):
        self.finish(f"no answer within {PATIENCE:g} s")
        self.transport.abort()

    def connection_lost(self, _why):
        if self in self.caller.free:
            self.caller.free.remove(self)
        if self.request:
            self.finish("the connection ended before the answer did")


def content_length(head):
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


class Caller:
    """Begins at a point of the monotonic clock; the first `warm` seconds have a tally of their own."""

    def __init__(self, address, begin, warm, seconds, rate):
        self.host, _, self.port = address.rpartition(":")
        self.begin, self.warm, self.seconds, self.rate = begin, warm, seconds, rate
        self.phases = {"warm_up": Tally(), "measured": Tally()}
        self.free, self.open, self.all_ended = [], round((warm + seconds) * rate), asyncio.Event()

    async def drive(self):
        tasks = set()
        for nth in range(self.open):
            due = self.begin + nth / self.rate
            await asyncio.sleep(due - time.monotonic())
            tally = self.phases["warm_up" if nth < round(self.warm * self.rate) else "measured"]
            if self.free:
                self.free.pop().send(due, tally)
            else:
                task = asyncio.create_task(self.connect(due, tally))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        await self.all_ended.wait()
        return {name: tally.figures() for name, tally in self.phases.items()}

    async def connect(self, due, tally):
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(due + PATIENCE):
                _, exchange = await loop.create_connection(lambda: Exchange(self), self.host, self.port)
        except OSError as why:  # TimeoutError is one
            tally.failures[f"no connection: {type(why).__name__}"] += 1
            self.ended()
        else:
            exchange.send(due, tally)

    def ended(self):
        self.open -= 1
        if not self.open:
            self.all_ended.set()


async def called(address, *numbers):
    return await Caller(address, *map(float, numbers)).drive()


def play(words):
    """`ADDRESS BEGIN WARM SECONDS RATE`: prints the figures of both phases as JSON."""
    print(json.dumps(run(called(*words))))
