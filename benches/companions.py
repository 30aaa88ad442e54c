#!/usr/bin/env python3
"""What the companions cost a sidecar: memory and CPU when they have nothing to do, and the latency of requests while a log storm
is shipped.

    cargo build --release && benches/companions.py [--binary BINARY] [--rounds 5]

- idle: the resident memory (RssAnon: without pages of the program's file) and the CPU time of a minute, of a sidecar without
  companions and of one with all of them: a log source with a sink, a synced file and a synced folder, a cache, and metrics of the application's process.
- storm: client → sidecar → nginx with 1 KiB of answer at a fixed rate (open loop), while another process writes 20 MB of lines a
  second into a file that is shipped over HTTP to another nginx, and while nobody writes. Each round measures all cases, every second
  one in the other order. The figure to read is the ratio within a round. On a machine with few CPUs the writer and the receiver take
  CPU from everything else that is measured here: `storm, not shipped` has the writer alone, and in `storm, sent by tail` the program
  tail(1) sends the same lines to the same receiver, without reading them, and the sidecar ships nothing.
"""
import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.dont_write_bytecode = True
from peers import load  # noqa: E402
from peers.machine import machine  # noqa: E402
from peers.process import HOST, Process, free_ports  # noqa: E402

LINE = b'{"level":"info","message":"' + b"x" * 110 + b'"}\n'
STORM = ("import sys, time\nwith open(sys.argv[1], 'ab', buffering=0) as file:\n"
         "    lines = bytes.fromhex(sys.argv[2]) * 1500\n    due = time.monotonic()\n"
         "    while True:\n        file.write(lines)\n        due += len(lines) / 20e6\n"
         "        time.sleep(max(0, due - time.monotonic()))\n")


def nginx(folder, name, servers):
    own = folder / name
    own.mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = " ".join(f"{kind}_temp_path {own}/{kind};" for kind in kinds)
    (own / "nginx.conf").write_text(
        f"user root; daemon off; worker_processes 1; pid {own}/pid; error_log stderr; events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; keepalive_requests 10000000; {temp} {servers} }}\n")
    return Process(["nginx", "-e", "stderr", "-c", str(own / "nginx.conf")], folder, f"{name}.log")


def origin(folder, port):
    return nginx(folder, "origin", f"server {{ listen {HOST}:{port}; location / {{ return 200 '{'x' * load.BODY_BYTES}'; }} }}")


def receiver(folder, port):
    """Reads a batch to its end before it answers, for which it asks a second server: `return` alone answers the head. At /endless it
    answers the head, and reads and forgets the body."""
    answer = f"unix:{folder}/answer"
    return nginx(folder, "receiver",
                 f"server {{ listen {answer}; return 200; }} server {{ listen {HOST}:{port}; client_max_body_size 0; "
                 f"client_body_buffer_size 2m; location / {{ proxy_pass http://{answer}; proxy_pass_request_body off; "
                 "proxy_set_header content-length ''; } location /endless { lingering_time 1h; return 200; } }")


def companions(folder, sink, app):
    shared = folder / "shared"
    (shared / "folder").mkdir(parents=True, exist_ok=True)
    (shared / "folder" / "key").write_text("value\n")
    (shared / "file").write_text("value\n")
    (folder / "logs").mkdir(exist_ok=True)
    return (f'logs:\n  sources: {{ app: {{ files: ["{folder}/logs/*.log"] }} }}\n'
            f'  sinks: {{ hook: {{ http: "http://{HOST}:{sink}/" }} }}\n  checkpoint: {folder}/state\n'
            f'sync:\n  one: {{ from: "file://{shared}/file", to: {folder}/one }}\n'
            f'  all: {{ from: "file://{shared}/folder/", to: {folder}/all }}\n', f", process_metrics: {{ port: {app} }}")


def sidecar(binary, folder, name, ports, with_companions, sink):
    port, app = ports
    more, of_metrics = companions(folder, sink, app) if with_companions else ("", "")
    cache = ", cache: { max: 64MiB }" if with_companions else ""
    (folder / f"{name}.yaml").write_text(
        f"workers: 1\ninbound: off\noutbound: {{ listen: {HOST}:0 }}\nadmin: {{ listen: {HOST}:0 }}\n"
        f"metrics: {{ listen: {HOST}:0{of_metrics} }}\n{more}"
        f'services: {{ app: {{ listen: {HOST}:{port}, tls: off, protocol: http1, endpoints: ["{HOST}:{app}"]{cache} }} }}\n')
    process = Process([binary, "run", "-c", str(folder / f"{name}.yaml")], folder, f"{name}.log")
    process.until_listening(port)
    return process


def idle(binary, folder, app, sink, seconds):
    for name in ("without", "with"):
        port, = free_ports(1)
        one = sidecar(binary, folder, name, (port, app), name == "with", sink)
        try:
            time.sleep(5)  # until the work of the start has ended
            began = one.cpu_us()
            time.sleep(seconds)
            cpu = (one.cpu_us() - began) / seconds / 10_000
            print(f"idle, {name} companions: RssAnon {one.rss(('RssAnon:',)) / 1e6:.2f} MB, RSS {one.rss() / 1e6:.2f} MB, "
                  f"{cpu:.3f} % of a core", flush=True)
        finally:
            one.end()


@contextlib.contextmanager
def storm(file):
    file.parent.mkdir(exist_ok=True)
    writer = subprocess.Popen([sys.executable, "-c", STORM, str(file), LINE.hex()])
    try:
        yield
    finally:
        writer.kill()
        writer.wait()
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def storm_sent_by_tail(file, sink):
    head = "POST /endless HTTP/1.1\\r\\nhost: sink\\r\\ncontent-length: 1000000000000\\r\\n\\r\\n"
    send = f'exec 3<>/dev/tcp/{HOST}/{sink}; printf "{head}" >&3; exec tail -q -n +1 -F "$0" >&3'
    with storm(file):
        sender = subprocess.Popen(["bash", "-c", send, str(file)], stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            sender.kill()
            sender.wait()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", type=lambda path: str(Path(path).resolve()), default=str(Path(__file__).resolve().parents[1] / "target/release/pillion"))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--rate", type=int, default=1000)
    options.add_argument("--idle-seconds", type=int, default=60)
    chosen = options.parse_args()
    load.PILLION = chosen.binary
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        app, sink, port = free_ports(3)
        servers = [origin(folder, app), receiver(folder, sink)]
        servers[0].until_listening(app)
        servers[1].until_listening(sink)
        idle(chosen.binary, folder, app, sink, chosen.idle_seconds)
        one = sidecar(chosen.binary, folder, "storm", (port, app), True, sink)
        elsewhere = folder / "elsewhere/app.log"
        cases = {"nobody writes": contextlib.nullcontext, "storm, shipped": lambda: storm(folder / "logs/app.log"),
                 "storm, not shipped": lambda: storm(elsewhere),
                 "storm, sent by tail": lambda: storm_sent_by_tail(elsewhere, sink)}
        seen = {case: [] for case in cases}
        try:
            load.open_loop(port, 2, chosen.rate, 16)
            for nth in range(chosen.rounds):
                for case in list(cases)[:: 1 if nth % 2 == 0 else -1]:
                    with cases[case]():
                        time.sleep(1)
                        seen[case].append(load.open_loop(port, 5, chosen.rate, 16))
                    time.sleep(2)
        finally:
            for process in [one, *servers]:
                process.end()
        for case, rounds in seen.items():
            p50, p99 = (median(of[key] for of in rounds) for key in ("p50_ms", "p99_ms"))
            ratio = median(of["p99_ms"] / base["p99_ms"] for of, base in zip(rounds, seen["nobody writes"]))
            print(f"{case}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99 over nobody's {ratio:.2f}")


main()
