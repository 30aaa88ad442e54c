"""A WebSocket server: prints its port, then serves until its input ends.

/          echoes every message, text as text and binary as binary
/refuse    is answered 403
/close/N   says one message and closes with code N
/stall     is never answered
"""

import asyncio
import sys

from websockets.asyncio.server import serve

LARGE = 16 * 1024 * 1024


async def admit(connection, request):
    if request.path == "/refuse":
        return connection.respond(403, "not for you\n")
    if request.path == "/stall":
        await asyncio.Event().wait()
    return None


async def handle(connection):
    path = connection.request.path
    if path.startswith("/close/"):
        await connection.send("going")
        await connection.close(int(path.rsplit("/", 1)[1]), "as you asked")
        return
    async for message in connection:
        await connection.send(message)


async def main():
    async with serve(handle, "127.0.0.1", 0, process_request=admit, max_size=LARGE, open_timeout=None) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
