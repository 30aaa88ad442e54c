"""Many short connections: `short.py COUNT KIND HOST PORT`, KIND `http` or `raw`. Prints how many
succeeded.

Each sends one request, reads the whole answer, and closes; several are open at once.
"""

import asyncio
import sys

AT_ONCE = 16
ASKED = {"http": b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "raw": b"\0ping\n"}
ENDS = {"http": b"\r\n\r\nweb\n", "raw": b"raw:\0ping\n"}


async def ask(kind, host, port):
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(ASKED[kind])
        heard = b""
        while not heard.endswith(ENDS[kind]):
            piece = await reader.read(4096)
            if not piece:
                return 0
            heard += piece
        return 1
    finally:
        writer.close()


async def several(count, *where):
    return sum([await ask(*where) for _ in range(count)])


async def main(count, kind, host, port):
    each = int(count) // AT_ONCE
    print(sum(await asyncio.gather(*(several(each, kind, host, int(port)) for _ in range(AT_ONCE)))))


asyncio.run(main(*sys.argv[1:]))
