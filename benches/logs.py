#!/usr/bin/env python3
"""Log shippers on the same file: lines per second on one core, CPU per MB, and memory.

    cargo build --release && benches/logs.py             the binary of target/release
    benches/logs.py BINARY --lines 1000000               another one, fewer lines
    benches/logs.py --rounds 5                           more rounds; the median is printed

Each shipper gets core 0 alone; the receiver, which only counts, has the other ones. The file has JSON and text in turn, 150 bytes
a line, and is there before the shipper starts, so that it is as fast as it can be. `lines/s` is from the start of the process
to the last line. CPU is user and system of the process and its children. Pillion sends syslog over TCP, as rsyslog and
Fluent Bit do here, and JSON over HTTP besides. rsyslog (`rsyslogd`), Fluent Bit (`fluent-bit`) and Vector (`vector`) take part
where they are in PATH.
"""
import argparse
import http.server
import json
import os
import shutil
import socket
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Counter:
    """Counts what arrives: lines of a TCP stream that have a mark, or of the bodies of requests."""

    def __init__(self, mark):
        self.count, self.lock = 0, threading.Lock()
        counter = self

        class Stream(socketserver.BaseRequestHandler):
            def handle(self):
                rest = b""
                while data := self.request.recv(1 << 20):
                    data = rest + data
                    counter.add(data.count(mark))
                    # a mark may be divided between two reads
                    rest = data[-(len(mark) - 1):]

        class Request(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                counter.add(self.body().count(mark))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def body(self):
                if (length := self.headers.get("content-length")) is not None:
                    return self.rfile.read(int(length))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *_):
                pass

        self.tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Stream)
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Request)
        for server in (self.tcp, self.http):
            server.handle_error = lambda *_: None  # a shipper that is killed resets its connections
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def add(self, count):
        with self.lock:
            self.count += count

    def tcp_port(self):
        return self.tcp.server_address[1]

    def http_port(self):
        return self.http.server_address[1]


def pillion(binary, folder, log, sink):
    file = folder / "pillion.yaml"
    file.write_text(f"""
inbound: off
outbound: off
admin: {{ listen: "127.0.0.1:0" }}
metrics: off
logs: {{ sources: {{ app: {{ files: "{log}" }} }}, sinks: {{ bench: {{ {sink} }} }}, checkpoint: "{folder}/state" }}
""")
    return [binary, "run", "-c", str(file)]


def rsyslog(folder, log, counter):
    file = folder / "rsyslog.conf"
    file.write_text(f"""
module(load="imfile")
global(workDirectory="{folder}")
main_queue(queue.type="LinkedList" queue.size="50000")
input(type="imfile" File="{log}" Tag="app")
action(type="omfwd" target="127.0.0.1" port="{counter.tcp_port()}" protocol="tcp" template="RSYSLOG_SyslogProtocol23Format" TCP_Framing="octet-counted")
""")
    return ["rsyslogd", "-n", "-f", str(file), "-i", str(folder / "rsyslog.pid")]


def fluent_bit(folder, log, counter):
    file = folder / "fluent-bit.conf"
    file.write_text(f"""
[SERVICE]
    flush 1
[INPUT]
    name tail
    path {log}
    read_from_head on
    db {folder}/fluent-bit.db
    mem_buf_limit 8MB
[OUTPUT]
    name http
    match *
    host 127.0.0.1
    port {counter.http_port()}
    format json_lines
""")
    return ["fluent-bit", "-q", "-c", str(file)]


def vector(folder, log, counter):
    file = folder / "vector.yaml"
    file.write_text(f"""
data_dir: {folder}
sources: {{ app: {{ type: file, include: ["{log}"], read_from: beginning }} }}
sinks:
  out: {{ type: http, inputs: [app], uri: "http://127.0.0.1:{counter.http_port()}/", encoding: {{ codec: json }}, framing: {{ method: newline_delimited }} }}
""")
    return ["vector", "-q", "-c", str(file)]


def stat(pid):
    """CPU seconds, and the most resident memory in MiB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu = sum(int(field) for field in fields[11:15]) / TICKS
    peak = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmHWM"))
    return cpu, int(peak.split()[1]) / 1024


def write(log, lines, mark):
    with log.open("w") as file:
        for number in range(lines):
            if number % 2:
                file.write(f"2026-11-28 17:40:01,123 INFO [main] org.example.Orders - {mark} {number:08} shipped to the customer in the next street {'y' * 30}\n")
            else:
                file.write(json.dumps({"time": "2026-11-28T17:40:01.123Z", "level": "info", "msg": f"{mark} {number:08} shipped", "n": number, "user": "z" * 40}) + "\n")


def run(command, counter, lines, patience):
    counter.count, began = 0, time.monotonic()
    process = subprocess.Popen(["taskset", "-c", "0", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while counter.count < lines and process.poll() is None and time.monotonic() - began < patience:
            time.sleep(0.005)
        took = time.monotonic() - began
        if counter.count < lines:
            return None
        return (took, *stat(process.pid))
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default="target/release/pillion")
    parser.add_argument("--lines", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    mark = "order-of-the-bench"
    counter = Counter(mark.encode())
    if os.cpu_count() > 1:
        os.sched_setaffinity(0, range(1, os.cpu_count()))
    results = {}
    with tempfile.TemporaryDirectory(prefix="pillion-bench-") as root:
        log = Path(root) / "app.log"
        write(log, options.lines, mark)
        megabytes = log.stat().st_size / 1e6
        for round_ in range(options.rounds):
            folder = Path(root) / f"round-{round_}"
            folder.mkdir()
            over_tcp, over_http = f'syslog: "tcp://127.0.0.1:{counter.tcp_port()}"', f'http: "http://127.0.0.1:{counter.http_port()}"'
            peers = {"Pillion, syslog": pillion(options.binary, folder, log, over_tcp)}
            if shutil.which("rsyslogd"):
                peers["rsyslog, syslog"] = rsyslog(folder, log, counter)
            for name, command, make in [("Fluent Bit, HTTP", "fluent-bit", fluent_bit), ("Vector, HTTP", "vector", vector)]:
                if shutil.which(command):
                    peers[name] = make(folder, log, counter)
            for name, command in peers.items():
                results.setdefault(name, []).append(run(command, counter, options.lines, 300))
            shutil.rmtree(folder / "state", ignore_errors=True)
            results.setdefault("Pillion, HTTP", []).append(run(pillion(options.binary, folder, log, over_http), counter, options.lines, 300))
    print(f"{options.lines} lines, {megabytes:.0f} MB, one core, median of {options.rounds}")
    print(f"{'':20}{'lines/s':>12}{'CPU ms/MB':>12}{'peak MiB':>10}")
    for name, rounds in results.items():
        done = [of for of in rounds if of is not None]
        if not done:
            print(f"{name:20}{'not all lines came':>34}")
            continue
        took, cpu, peak = (statistics.median(of) for of in zip(*done))
        print(f"{name:20}{options.lines / took:>12,.0f}{cpu * 1000 / megabytes:>12.2f}{peak:>10.1f}")


if __name__ == "__main__":
    sys.exit(main())
