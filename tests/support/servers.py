"""TCP servers of three kinds: `servers.py KIND:NAME@HOST:PORT …`. Prints one line `ready`, then JSON
events, one on each line.

http    answers each request with its own name and a line end
banner  speaks first: its own name and a line end; then echoes
echo    waits for bytes; its own name and a colon come before the first that it echoes
"""

import asyncio
import json
import resource
import sys

BACKLOG = 4096


def tell(**event):
    print(json.dumps(event), flush=True)


async def http(name, reader, writer):
    while head := await head_of(reader):
        tell(event="request", server=name, head=head.decode("latin-1"))
        body = f"{name}\n".encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()


async def head_of(reader):
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None


async def banner(name, reader, writer):
    writer.write(f"{name}\n".encode())
    await relay(reader, writer)


async def echo(name, reader, writer):
    if first := await reader.read(4096):
        writer.write(f"{name}:".encode() + first)
        await relay(reader, writer)


async def relay(reader, writer):
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()


def serving(kind, name, quiet):
    async def serve(reader, writer):
        if not quiet:
            peer, here = writer.get_extra_info("peername")[0], writer.get_extra_info("sockname")
            tell(event="accepted", server=name, peer=peer, at=here[0], port=here[1])
        try:
            await kind(name, reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    return serve


async def main(words):
    quiet = "--quiet" in words
    for word in words:
        if word == "--quiet":
            continue
        what, where = word.split("@")
        kind, name = what.split(":")
        host, port = where.rsplit(":", 1)
        kind = {"http": http, "banner": banner, "echo": echo}[kind]
        server = await asyncio.start_server(
            serving(kind, name, quiet), host.strip("[]"), int(port), backlog=BACKLOG, limit=4096
        )
        if port == "0":
            print("port", server.sockets[0].getsockname()[1], flush=True)
    print("ready", flush=True)
    await asyncio.Event().wait()


most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
asyncio.run(main(sys.argv[1:]))
