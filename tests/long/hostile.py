#!/usr/bin/env python3
"""A strict sidecar with 128 MiB of memory among hostile clients of every kind, all at once, for five minutes.

    tests/long/hostile.py target/release/pillion [SECONDS]

200 hostile HTTP/2 connections of a peer of the mesh (ten kinds, twenty of each), 2,000 silent connections without a certificate, a flood of
probes and a flood of handshakes. Meanwhile another peer of the mesh asks 500 times a second through a sidecar of its own,
and /live is asked twenty times a second. The sidecar must live, no request of the good peer may fail, and the 99th
percentile of /live must stay below 100 ms. Needs root (for a cgroup), nginx, and a release binary; exits 1 on a failure.
"""

import asyncio
import logging
import multiprocessing
import os
import pathlib
import resource
import signal
import ssl
import subprocess
import sys
import tempfile
import time

MEMORY = 128 << 20
STRANGERS = 2000
EACH_KIND = 20
GOOD_RATE, GOOD_CONNECTIONS = 500, 10
APP, INBOUND, METRICS, ADMIN = 18080, 15106, 15190, 15100
CALLER, CALLER_ADMIN, CALLER_METRICS = 15201, 15200, 15290
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HOST = "127.0.0.1"

# --- the part of HTTP/2 that a hostile client needs


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name, value):
    name, value = name.encode(), value.encode()
    return b"\0" + length(name) + name + length(value) + value


def length(text):
    if len(text) < 127:
        return bytes([len(text)])
    rest, out = len(text) - 127, bytearray([127])
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes(out + bytes([rest]))


def head(path, method="GET", more=()):
    fields = [(":method", method), (":scheme", "https"), (":path", path), (":authority", "app"), *more]
    return b"".join(field(name, value) for name, value in fields)


def settings(window):
    return frame(4, 0, 0, b"\0\4" + window.to_bytes(4, "big"))


ALL_WINDOW = settings((1 << 31) - 1) + frame(8, 0, 0, ((1 << 31) - 1 - 65535).to_bytes(4, "big"))


# --- kinds of hostile connections: each writes until it is closed


async def reads_nothing(reader, writer):
    writer.transport.pause_reading()
    writer.write(PREFACE + ALL_WINDOW)
    writer.write(b"".join(frame(1, 5, 1 + 2 * n, head("/big")) for n in range(200)))
    await silence()


async def grants_no_window(reader, writer):
    writer.write(PREFACE + settings(0))
    writer.write(b"".join(frame(1, 5, 1 + 2 * n, head("/big")) for n in range(200)))
    await drain_away(reader)


async def resets_at_once(reader, writer):
    writer.write(PREFACE + ALL_WINDOW)
    stream = 1
    while True:
        writer.write(frame(1, 5, stream, head("/big")) + frame(3, 0, stream, b"\0\0\0\x08"))
        stream += 2
        await pace(writer)


async def pings(reader, writer):
    writer.transport.pause_reading()
    writer.write(PREFACE + ALL_WINDOW)
    while True:
        writer.write(frame(6, 0, 0, b"12345678") * 10)
        await pace(writer)


async def changes_settings(reader, writer):
    writer.transport.pause_reading()
    writer.write(PREFACE)
    while True:
        writer.write(frame(4, 0, 0) * 10)
        await pace(writer)


async def never_ends_a_head(reader, writer):
    writer.write(PREFACE + ALL_WINDOW + frame(1, 1, 1, head("/")))
    while True:
        writer.write(frame(9, 0, 1, field("x-more", "y" * 4000)))
        await pace(writer)


async def sends_a_head_in_drops(reader, writer):
    writer.write(PREFACE + ALL_WINDOW)
    for byte in frame(1, 5, 1, head("/")):
        writer.write(bytes([byte]))
        await asyncio.sleep(1)


async def opens_windows_by_one(reader, writer):
    writer.write(PREFACE + settings(0) + frame(1, 5, 1, head("/big")))
    while True:
        writer.write(frame(8, 0, 1, b"\0\0\0\1"))
        await pace(writer)


async def uploads_without_end(reader, writer):
    writer.write(PREFACE + ALL_WINDOW)
    streams = [1 + 2 * n for n in range(100)]
    writer.write(b"".join(frame(1, 4, stream, head("/", "POST")) for stream in streams))
    while True:
        for stream in streams:
            writer.write(frame(0, 0, stream, b"x"))
        await pace(writer)


async def sends_large_heads(reader, writer):
    writer.write(PREFACE + ALL_WINDOW)
    large = [(f"x-{n}", "y" * 1000) for n in range(55)]
    for stream in range(1, 4001, 2):
        writer.write(frame(1, 4, stream, head("/", "POST", large)))
        await pace(writer)
    await silence()


KINDS = [reads_nothing, grants_no_window, resets_at_once, pings, changes_settings, never_ends_a_head,
         sends_a_head_in_drops, opens_windows_by_one, uploads_without_end, sends_large_heads]


async def silence():
    await asyncio.sleep(3600)


async def drain_away(reader):
    while await reader.read(65536):
        pass


async def pace(writer):
    await writer.drain()
    await asyncio.sleep(0.02)


async def again_and_again(what):
    while True:
        try:
            await what()
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.05)


def identity(folder, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if name:
        context.load_cert_chain(f"{folder}/{name}/tls.crt", f"{folder}/{name}/tls.key")
    return context


async def hostile_connection(kind, context):
    reader, writer = await asyncio.open_connection(HOST, INBOUND, ssl=context)
    try:
        # A client that gets a GOAWAY connects again. A connection that was cut is noticed at the next write.
        await asyncio.wait_for(kind(reader, writer), 60)
    except asyncio.TimeoutError:
        pass
    finally:
        writer.transport.abort()


async def hostile_peers(folder):
    context = identity(folder, "mallory")
    each = [again_and_again(lambda kind=kind: hostile_connection(kind, context)) for kind in KINDS * EACH_KIND]
    await asyncio.gather(*each)


async def silent_stranger():
    reader, writer = await asyncio.open_connection(HOST, INBOUND)
    await reader.read(1)
    writer.transport.abort()


async def strangers(_folder):
    await asyncio.gather(*[again_and_again(silent_stranger) for _ in range(STRANGERS)])


async def handshake(context):
    reader, writer = await asyncio.open_connection(HOST, INBOUND, ssl=context)
    await reader.read(1)
    writer.transport.abort()


async def handshakes(folder):
    context = identity(folder, None)
    await asyncio.gather(*[again_and_again(lambda: handshake(context)) for _ in range(50)])


async def probe():
    reader, writer = await asyncio.open_connection(HOST, METRICS)
    writer.write(b"GET /probe/app HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    await drain_away(reader)
    writer.transport.abort()


async def probes(_folder):
    await asyncio.gather(*[again_and_again(probe) for _ in range(50)])


# --- the clients that must be served


async def ask(reader, writer, path):
    writer.write(f"GET {path} HTTP/1.1\r\nhost: orders\r\n\r\n".encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    lines = answer.lower().split(b"\r\n")
    body = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    await reader.readexactly(body)
    return int(lines[0].split()[1]), answer


async def good_peer(until, results):
    reader, writer = await asyncio.open_connection(HOST, CALLER)
    due = time.monotonic()
    while due < until:
        await asyncio.sleep(max(0, due - time.monotonic()))
        began = time.monotonic()
        try:
            status, answer = await asyncio.wait_for(ask(reader, writer, "/"), 30)
        except Exception as error:  # whatever it is, the request has failed
            status, answer = 0, repr(error).encode()
            reader, writer = await asyncio.open_connection(HOST, CALLER)
        results.append((status, time.monotonic() - began, answer if status != 200 else b""))
        due += GOOD_CONNECTIONS / GOOD_RATE


async def liveness(until, results):
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection(HOST, METRICS)
            writer.write(b"GET /live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(4096), 30)
            writer.transport.abort()
            status = int(answer.split()[1])
        except Exception as error:
            status = repr(error)
        results.append((status, time.monotonic() - began))
        await asyncio.sleep(0.05)


async def measured(seconds):
    until, good, live = time.monotonic() + seconds, [], []
    peers = [good_peer(until, good) for _ in range(GOOD_CONNECTIONS)]
    await asyncio.gather(liveness(until, live), *peers)
    return good, live


# --- processes and their environment


def in_cgroup():
    """A new memory cgroup, of whichever version the machine has; returns its folder."""
    first = pathlib.Path("/sys/fs/cgroup/memory")
    folder = (first if first.is_dir() else pathlib.Path("/sys/fs/cgroup")) / "pillion-hostile"
    folder.mkdir(exist_ok=True)
    limit = "memory.limit_in_bytes" if first.is_dir() else "memory.max"
    (folder / limit).write_text(str(MEMORY))
    return folder


def peak(cgroup):
    names = ["memory.max_usage_in_bytes", "memory.peak"]
    return next(int((cgroup / name).read_text()) for name in names if (cgroup / name).exists())


def write_files(folder):
    (folder / "html").mkdir()
    (folder / "html/index.html").write_text("fine\n")
    (folder / "html/big").write_bytes(b"x" * (1 << 20))
    kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/errors; worker_rlimit_nofile 30000;\n"
        f"events {{ worker_connections 15000; }}\n"
        f"http {{ access_log off; {paths} client_max_body_size 0; keepalive_requests 1000000;\n"
        f"server {{ listen {HOST}:{APP} backlog=4096; root {folder}/html; error_page 405 =200 $uri; }} }}\n")
    (folder / "app.yaml").write_text(
        f"admin: {{ listen: {HOST}:{ADMIN} }}\nmetrics: {{ listen: {HOST}:{METRICS} }}\noutbound: off\nworkers: 1\n"
        f"access_log: off\nidentity: {{ directory: certs/orders }}\n"
        f"inbound: {{ listen: {HOST}:{INBOUND}, app: {HOST}:{APP}, mtls: strict,\n"
        f"  probes: [{{ name: app, path: /, port: {APP} }}] }}\n")
    (folder / "caller.yaml").write_text(
        f"admin: {{ listen: {HOST}:{CALLER_ADMIN} }}\nmetrics: {{ listen: {HOST}:{CALLER_METRICS} }}\ninbound: off\n"
        f"workers: 1\naccess_log: off\nidentity: {{ directory: certs/web }}\noutbound: {{ listen: {HOST}:0 }}\n"
        f"services: {{ orders: {{ listen: {HOST}:{CALLER}, endpoints: ['{HOST}:{INBOUND}'], tls: mutual }} }}\n")


def start(command, cgroup=None, **more):
    def enter():
        if cgroup:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    return subprocess.Popen(command, preexec_fn=enter, **more)


def until_live(port):
    import http.client
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection(HOST, port, timeout=1)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    sys.exit(f"nothing listens at port {port}")


def attack(what, folder):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.disable()  # a client that is cut writes a line for each thing that it still had to say
    asyncio.run(what(folder))


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main():
    pillion, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 300
    resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.chmod(folder, 0o755)
        write_files(folder)
        subprocess.run([pillion, "certs", "ca", "--out", "ca"], cwd=folder, check=True)
        for who in ["orders", "web", "mallory"]:
            subprocess.run([pillion, "certs", "issue", "--ca", "ca", "--spiffe-id",
                            f"spiffe://cluster.local/ns/default/sa/{who}", "--out", f"certs/{who}"], cwd=folder, check=True)
        run(pillion, folder, seconds)


def run(pillion, folder, seconds):
    cgroup = in_cgroup()
    log = open(folder / "log", "w")
    nginx = start(["nginx", "-e", "stderr", "-c", f"{folder}/nginx.conf"])
    app = start([pillion, "run", "-c", "app.yaml"], cgroup, cwd=folder, stdout=log, stderr=log)
    caller = start([pillion, "run", "-c", "caller.yaml"], cwd=folder, stdout=log, stderr=log)
    until_live(METRICS)
    until_live(CALLER_METRICS)
    attackers = [multiprocessing.Process(target=attack, args=(what, folder / "certs"), daemon=True)
                 for what in [hostile_peers, strangers, handshakes, probes]]
    for attacker in attackers:
        attacker.start()
    good, live = asyncio.run(measured(seconds))
    for attacker in attackers:
        attacker.terminate()
    ended = app.poll()
    failed = [result for result in good if result[0] != 200]
    late = percentile([took for _, took in live], 0.99) * 1000
    print(f"good peer: {len(good)} requests in {seconds:.0f} s, {len(failed)} failed, "
          f"p50 {percentile([took for _, took, _ in good], 0.5) * 1000:.1f} ms, "
          f"p99 {percentile([took for _, took, _ in good], 0.99) * 1000:.1f} ms")
    print(f"/live: {len(live)} asked, {sum(status != 200 for status, _ in live)} unanswered, p99 {late:.1f} ms")
    print(f"memory of the cgroup: highest {peak(cgroup) / 1e6:.1f} MB of {MEMORY / 1e6:.1f}; "
          f"the sidecar {'lives' if ended is None else f'ended with {ended}'}")
    for status, took, answer in failed[:5]:
        print("failed:", status, f"{took:.2f} s", answer[:300])
    nginx.terminate()  # killed, it would leave its worker behind
    for child in [app, caller]:
        child.kill()
    for child in [app, caller, nginx]:
        child.wait()
    log.close()
    print("last lines of the log:", *open(folder / "log").read().splitlines()[-8:], sep="\n  ")
    cgroup.rmdir()
    is_good = ended is None and not failed and late < 100 and all(status == 200 for status, _ in live)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
