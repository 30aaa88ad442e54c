"""A WebSocket client: `websocket_client.py HOST:PORT`. Makes every kind of use of a WebSocket, and prints a
line for each."""

import asyncio
import hashlib
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

AT_ONCE = 50
MEBIBYTE = 1024 * 1024


def say(*words):
    print(*words, flush=True)


def dial(path="/", **more):
    return connect(f"ws://{sys.argv[1]}{path}", open_timeout=25, max_size=16 * MEBIBYTE, **more)


async def echoes():
    async with dial() as socket:
        await socket.send("grüß dich")
        say("text", await socket.recv())
        binary = os.urandom(MEBIBYTE)
        await socket.send(binary)
        answer = await socket.recv()
        say("binary", len(answer), hashlib.sha256(answer).digest() == hashlib.sha256(binary).digest())
        await socket.send(piece for piece in ("in ", "three ", "frames"))
        say("fragments", await socket.recv())
        await (await socket.ping(b"are you there?"))
        say("pong")
    say("closed by us", socket.close_code)


async def plainly():
    """Without compression: a proxy must not change these frames either."""
    async with dial(compression=None) as socket:
        await socket.send("x" * 100)
        say("uncompressed", len(await socket.recv()))


async def closes():
    for code in (1000, 1001, 1011, 3000, 4999):
        async with dial(f"/close/{code}") as socket:
            heard = await socket.recv()
            try:
                await socket.recv()
            except ConnectionClosed as closed:
                say(heard, closed.rcvd.code, closed.rcvd.reason)


async def refused():
    try:
        async with dial("/refuse"):
            say("let in")
    except InvalidStatus as refusal:
        say("refused", refusal.response.status_code, refusal.response.body.decode().strip())


async def many():
    everybody_is_in = asyncio.Barrier(AT_ONCE)

    async def one(number):
        async with dial() as socket:
            await everybody_is_in.wait()
            for turn in range(20):
                await socket.send(f"{number}.{turn}")
                if await socket.recv() != f"{number}.{turn}":
                    return False
            return True

    say("at once", sum(await asyncio.gather(*map(one, range(AT_ONCE)))))


async def main():
    await echoes()
    await plainly()
    await closes()
    await refused()
    await many()


asyncio.run(main())
