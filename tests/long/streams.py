#!/usr/bin/env python3
"""Streams as gRPC uses them, through a pair of sidecars and without: both must have the same outcome.

    tests/long/streams.py target/release/pillion [SECONDS OF SILENCE]

grpcio at both ends, and Node's http2 at both ends (where there is a `node`). Messages of one byte to 4 MiB in both
directions, a caller that pauses, a server that pauses, 1,000 streams that are all open on one connection at the same time,
and a stream on which nothing moves for ten minutes with `stream_idle_timeout: off` at both sidecars. Needs grpcio; exits 1
on a difference.
"""

import asyncio
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

import grpc
import grpc.aio

HOST = "127.0.0.1"
GRPC_APP, NODE_APP = 19080, 19081
CALLER_GRPC, CALLER_NODE = 19090, 19091
INBOUND = 19106
CALLER_ADMIN, APP_ADMIN = 19100, 19101
STREAMS = 1000
RUNS = ["direct", "sidecars"]
SIZES = [1, 2, 1023, 16384, 65535, 65536, 1 << 20, 4 << 20]
PIECES, PIECE = 512, 64 << 10
PAUSE = 5
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
           ("grpc.http2.max_pings_without_data", 0), ("grpc.use_local_subchannel_pool", 1)]


def message(size, nth):
    seed = hashlib.sha256(f"{size} {nth}".encode()).digest()
    return (seed * (size // 32 + 1))[:size]


# --- the server: the name of the method says what it does


class Service(grpc.GenericRpcHandler):
    """Echo, a large answer, a late reader, and streams that wait until all are open."""

    def __init__(self):
        self.open = {run: 0 for run in RUNS}
        self.all_open = {run: asyncio.Event() for run in RUNS}

    def service(self, details):
        _, run, name = details.method.split("/")
        methods = {"Echo": self.echo, "Large": self.large, "Late": self.late, "Together": self.together(run)}
        return grpc.stream_stream_rpc_method_handler(methods[name])

    async def echo(self, requests, _context):
        async for request in requests:
            yield request

    async def large(self, requests, _context):
        async for _ in requests:
            for nth in range(PIECES):
                yield message(PIECE, nth)

    async def late(self, requests, _context):
        await asyncio.sleep(PAUSE)
        digest = hashlib.sha256()
        async for request in requests:
            digest.update(request)
        yield digest.digest()

    def together(self, run):
        async def wait_for_all(requests, _context):
            self.open[run] += 1
            if self.open[run] == STREAMS:
                self.all_open[run].set()
            await self.all_open[run].wait()
            async for request in requests:
                yield request
        return wait_for_all


async def serve():
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers([Service()])
    server.add_insecure_port(f"{HOST}:{GRPC_APP}")
    await server.start()
    await server.wait_for_termination()


# --- the caller


def call(channel, run, method):
    return channel.stream_stream(f"/{run}/{method}")()


async def sizes(channel, run):
    for size in SIZES:
        stream = call(channel, run, "Echo")
        for nth in range(3):
            await stream.write(message(size, nth))
            assert await stream.read() == message(size, nth), size
        await stream.done_writing()
        assert await stream.read() == grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK


async def paused_caller(channel, run):
    stream = call(channel, run, "Large")
    await stream.write(b"x")
    await stream.done_writing()
    for nth in range(PIECES):
        if nth == 10:
            await asyncio.sleep(PAUSE)
        assert await stream.read() == message(PIECE, nth), nth
    assert await stream.read() == grpc.aio.EOF


async def paused_server(channel, run):
    stream = call(channel, run, "Late")
    digest = hashlib.sha256()
    for nth in range(PIECES):
        digest.update(message(PIECE, nth))
        await stream.write(message(PIECE, nth))
    await stream.done_writing()
    assert await stream.read() == digest.digest()


async def thousand_streams(channel, run):
    async def one(nth):
        stream = call(channel, run, "Together")
        for turn in range(10):
            await stream.write(message(100, nth + turn))
            assert await stream.read() == message(100, nth + turn), nth
        await stream.done_writing()
        assert await stream.read() == grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK
    await asyncio.gather(*[one(nth) for nth in range(STREAMS)])


async def silent(channel, run, seconds):
    stream = call(channel, run, "Echo")
    for nth in range(2):
        await stream.write(message(10, nth))
        assert await stream.read() == message(10, nth)
        if nth == 0:
            await asyncio.sleep(seconds)
    await stream.done_writing()
    assert await stream.read() == grpc.aio.EOF


async def outcome(what, *arguments):
    try:
        await asyncio.wait_for(what(*arguments), arguments[-1] + 60 if what is silent else 120)
        return "good"
    except Exception as error:  # whatever it is: the outcomes are compared
        return repr(error)[:300]


async def grpcio(run, port, seconds):
    async with grpc.aio.insecure_channel(f"{HOST}:{port}", options=OPTIONS) as channel:
        quiet = asyncio.create_task(outcome(silent, channel, run, seconds))
        outcomes = {what.__name__: await outcome(what, channel, run)
                    for what in [sizes, paused_caller, paused_server, thousand_streams]}
        outcomes["silent"] = await quiet
    return outcomes


# --- the same scenarios with Node's http2


NODE = r"""
const http2 = require('http2');
const [role, port, streams, seconds] = [process.argv[1], ...process.argv.slice(2, 5).map(Number)];
const run = process.argv[5];
const headers = path => ({':method': 'POST', ':path': path, 'content-type': 'application/octet-stream'});
if (role === 'serve') {
  const together = {};
  const server = http2.createServer({maxSessionMemory: 1000, settings: {maxConcurrentStreams: 100000}});
  server.on('stream', (stream, asked) => {
    stream.on('error', () => {});
    stream.respond({':status': 200});
    if (asked[':path'] === '/echo') return stream.pipe(stream);
    const open = together[asked[':path']] ??= [];
    open.push(stream);
    if (open.length === streams) for (const one of open) one.pipe(one);
  });
  server.listen(port, '127.0.0.1');
} else {
  const session = http2.connect(`http://127.0.0.1:${port}`, {maxSessionMemory: 1000});
  const ask = (path, body, pause) => new Promise((good, bad) => {
    const stream = session.request(headers(path));
    let size = 0;
    stream.on('error', bad);
    stream.on('response', answer => answer[':status'] === 200 || bad(new Error(`status ${answer[':status']}`)));
    stream.on('data', piece => {
      size += piece.length;
      if (pause && size > 100000) { stream.pause(); setTimeout(() => stream.resume(), pause); pause = 0; }
    });
    stream.on('end', () => size === body.length ? good() : bad(new Error(`${size} of ${body.length} bytes`)));
    stream.on('close', () => bad(new Error(`closed with ${stream.rstCode}`)));
    stream.end(body);
  });
  const quiet = () => new Promise((good, bad) => {
    const stream = session.request(headers('/echo'));
    let turn = 0;
    stream.on('error', bad);
    stream.on('data', () => turn++ ? stream.end() : setTimeout(() => stream.write('b'), seconds * 1000));
    stream.on('end', () => turn === 2 ? good() : bad(new Error(`ended after ${turn}`)));
    stream.on('close', () => bad(new Error(`closed with ${stream.rstCode}`)));
    stream.write('a');
  });
  const outcome = what => what.then(() => 'good', error => String(error));
  (async () => {
    const silent = outcome(quiet());
    const outcomes = {};
    outcomes.sizes = await outcome((async () => { for (const size of [1, 16384, 65536, 1 << 20, 4 << 20]) await ask('/echo', Buffer.alloc(size, 'x')); })());
    outcomes.paused_caller = await outcome(ask('/echo', Buffer.alloc(32 << 20, 'x'), 5000));
    outcomes.thousand_streams = await outcome(Promise.all(Array.from({length: streams}, () => ask(`/together/${run}`, Buffer.alloc(1000, 'x')))));
    outcomes.silent = await silent;
    console.log(JSON.stringify(outcomes));
    session.destroy();
  })();
}
"""


async def node(run, port, seconds):
    import json
    child = await asyncio.create_subprocess_exec("node", "-e", NODE, "--", "ask", str(port), str(STREAMS), str(seconds), run,
                                                 stdout=asyncio.subprocess.PIPE)
    try:
        out, _ = await asyncio.wait_for(child.communicate(), seconds + 300)
        return json.loads(out)
    except Exception as error:
        child.kill()
        return {"all": repr(error)}


# --- processes and their environment


def write_files(folder):
    off = "stream_idle_timeout: off"
    (folder / "app.yaml").write_text(
        f"admin: {{ listen: {HOST}:{APP_ADMIN} }}\nmetrics: {{ listen: {HOST}:0 }}\noutbound: off\naccess_log: off\n"
        f"identity: {{ directory: certs/app }}\n"
        f"inbound: {{ listen: {HOST}:{INBOUND}, app: {HOST}:{GRPC_APP}, mtls: strict, {off},\n"
        f"  ports: {{ {GRPC_APP}: {{ protocol: http2 }} }} }}\n")
    (folder / "app-node.yaml").write_text(
        (folder / "app.yaml").read_text().replace(str(GRPC_APP), str(NODE_APP))
        .replace(str(INBOUND), str(INBOUND + 1)).replace(str(APP_ADMIN), str(APP_ADMIN + 1)))
    service = "{ listen: %s:%d, endpoints: ['%s:%d'], tls: mutual, protocol: http2, " + off + " }"
    (folder / "caller.yaml").write_text(
        f"admin: {{ listen: {HOST}:{CALLER_ADMIN} }}\nmetrics: {{ listen: {HOST}:0 }}\ninbound: off\naccess_log: off\n"
        f"identity: {{ directory: certs/caller }}\noutbound: {{ listen: {HOST}:0 }}\nservices:\n"
        f"  grpc: {service % (HOST, CALLER_GRPC, HOST, INBOUND)}\n  node: {service % (HOST, CALLER_NODE, HOST, INBOUND + 1)}\n")


def until_ready(port):
    for _ in range(200):
        try:
            if urllib.request.urlopen(f"http://{HOST}:{port}/ready", timeout=1).status == 200:
                return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"no sidecar is ready at port {port}")


async def compare(name, run, direct, through, seconds):
    outcomes = await asyncio.gather(run(RUNS[0], direct, seconds), run(RUNS[1], through, seconds))
    for what in outcomes[0]:
        print(f"{name:7} {what:17} direct: {outcomes[0][what]:10} sidecars: {outcomes[1].get(what)}")
    return outcomes[0] == outcomes[1] and set(outcomes[0].values()) == {"good"}


async def main():
    pillion = pathlib.Path(sys.argv[1]).absolute()
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 600
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_files(folder)
        subprocess.run([pillion, "certs", "ca", "--out", "ca"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        for who in ["app", "caller"]:
            subprocess.run([pillion, "certs", "issue", "--ca", "ca", "--spiffe-id", f"spiffe://cluster.local/ns/default/sa/{who}",
                            "--out", f"certs/{who}"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        commands = [[pillion, "run", "-c", file] for file in ["app.yaml", "app-node.yaml", "caller.yaml"]]
        commands.append([sys.executable, __file__, "serve"])
        has_node = shutil.which("node") is not None
        if has_node:
            commands.append(["node", "-e", NODE, "--", "serve", str(NODE_APP), str(STREAMS)])
        children = [subprocess.Popen(command, cwd=folder) for command in commands]
        try:
            for port in [APP_ADMIN, APP_ADMIN + 1, CALLER_ADMIN]:
                until_ready(port)
            await asyncio.sleep(1)
            runs = [compare("grpcio", grpcio, GRPC_APP, CALLER_GRPC, seconds)]
            if has_node:
                runs.append(compare("node", node, NODE_APP, CALLER_NODE, seconds))
            good = [await run for run in runs] if seconds < 60 else await asyncio.gather(*runs)
        finally:
            for child in children:
                child.kill()
                child.wait()
    sys.exit(0 if all(good) else 1)


asyncio.run(serve() if sys.argv[1] == "serve" else main())
