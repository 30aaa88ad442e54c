#!/usr/bin/env python3
"""What the companions cost a sidecar: memory and CPU when they have nothing to do, and the latency of requests while a log storm
is shipped.

    cargo build --release && benches/companions.py [--binary BINARY] [--rounds 5]

- idle: the resident memory (RssAnon: without pages of the program's file) and the CPU time of a minute, of a sidecar without
  companions and of one with all of them: a log source with a sink, a synced file and a synced folder, a cache, and metrics of the application's process.
- storm: client → sidecar → nginx with 1 KiB of answer at a fixed rate (open loop), while another process writes 20 MB of lines a
  second into a file that is shipped over HTTP, and while nobody writes. Each round measures both, every second one in
  the other order. The figure to read is the ratio within a round. On a machine with few CPUs the writer and the receiver take CPU
  from everything else that is measured here; `storm, not shipped` has the writer alone.
"""
import argparse
import contextlib
import http.server
import subprocess
import sys
import tempfile
import threading
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


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def nginx(folder, port):
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"user root; daemon off; worker_processes 1; pid {folder}/pid; error_log stderr; events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; keepalive_requests 10000000; {temp} server {{ listen {HOST}:{port}; "
        f"location / {{ return 200 '{'x' * load.BODY_BYTES}'; }} }} }}\n")
    return Process(["nginx", "-e", "stderr", "-c", str(folder / "nginx.conf")], folder, "nginx.log")


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


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", default=str(Path(__file__).resolve().parents[1] / "target/release/pillion"))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--rate", type=int, default=1000)
    options.add_argument("--idle-seconds", type=int, default=60)
    chosen = options.parse_args()
    load.PILLION = chosen.binary
    print(machine())
    receiver = http.server.ThreadingHTTPServer((HOST, 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    sink = receiver.server_address[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        app, port = free_ports(2)
        origin = nginx(folder, app)
        origin.until_listening(app)
        idle(chosen.binary, folder, app, sink, chosen.idle_seconds)
        one = sidecar(chosen.binary, folder, "storm", (port, app), True, sink)
        cases = {"nobody writes": contextlib.nullcontext, "storm, shipped": lambda: storm(folder / "logs/app.log"),
                 "storm, not shipped": lambda: storm(folder / "elsewhere/app.log")}
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
            one.end()
            origin.end()
        for case, rounds in seen.items():
            p50, p99 = (median(of[key] for of in rounds) for key in ("p50_ms", "p99_ms"))
            ratio = median(of["p99_ms"] / base["p99_ms"] for of, base in zip(rounds, seen["nobody writes"]))
            print(f"{case}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99 over nobody's {ratio:.2f}")


main()
