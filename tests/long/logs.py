"""Writes numbered lines through rotations of every kind, kills the sidecar that ships them again and again, and counts what
arrives. logs.sh says what must hold.
"""
import argparse
import array
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

BATCH = 256 * 1024
NUMBER = re.compile(rb"number=(\d+);")
# an action of `_bulk`, and the number in its document
DOCUMENT = re.compile(rb'"_id":"([^"]+)"\}\}\n[^\n]*?number=(\d+);')


class Ids:
    """The ids of documents that are there already, as hashes: 10 million strings would take a gigabyte."""

    def __init__(self):
        self.hashes = [array.array("q") for _ in range(1 << 18)]

    def add(self, id_):
        """Whether it is a new one."""
        hash_ = hash(id_)
        hashes = self.hashes[hash_ % len(self.hashes)]
        if hash_ in hashes:
            return False
        hashes.append(hash_)
        return True


class Sink:
    """Counts how often each number has come. Some requests are refused or stall; `kind` is `http` or `bulk`."""

    def __init__(self, kind, lines, dice):
        self.counts, self.lock, self.dice, self.is_calm = bytearray(lines), threading.Lock(), dice, False
        self.ids, self.conflicts = Ids(), 0
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status, answer = sink.bulk(body) if kind == "bulk" else sink.take(body)
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

            def handle(self):
                try:
                    super().handle()
                except (ConnectionError, BrokenPipeError):
                    pass  # the sidecar was killed

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def is_bad(self):
        """Decides whether this request is refused. Some stall, and half of these are taken then: also after a kill."""
        roll = 1.0 if self.is_calm else self.dice.random()
        if roll < 0.04:
            time.sleep(1)
        return 0.02 <= roll < 0.1

    def note(self, number):
        self.counts[number] = min(255, self.counts[number] + 1)

    def take(self, body):
        if self.is_bad():
            return 503, b"busy"
        with self.lock:
            for number in NUMBER.findall(body):
                self.note(int(number))
        return 200, b"ok"

    def bulk(self, body):
        """One document of a batch is sent back as busy in some batches. An id that is there already is a conflict."""
        if self.is_bad():
            return 429, b"busy"
        statuses = []
        with self.lock:
            busy = not self.is_calm and self.dice.random() < 0.2
            for id_, number in DOCUMENT.findall(body):
                if busy and len(statuses) == 3:
                    statuses.append(429)
                elif self.ids.add(id_):
                    self.note(int(number))
                    statuses.append(201)
                else:
                    self.conflicts += 1
                    statuses.append(409)
        items = [{"create": {"status": status}} for status in statuses]
        return 200, json.dumps({"errors": any(s != 201 for s in statuses), "items": items}).encode()

    def missing(self):
        return self.counts.count(0)

    def twice(self):
        return sum(count - 1 for count in self.counts if count > 1)


def line(number, dice):
    text = f"number={number}; " + "x" * dice.randrange(120)
    match number % 4:
        case 0:
            return json.dumps({"time": "2026-11-28T17:40:01Z", "level": "info", "msg": text, "n": number}) + "\n"
        case 1:
            return f"2026-11-28 17:40:01 WARN {text}\n"
        case 2:
            return f"2026-11-28 17:40:01 ERROR {text}\n  at one\n  at two\n"
        case _:
            return f'level=info msg="{text}"\n'


class Sidecar:
    """Ships all names that files get: one that is written and renamed while the sidecar starts is found by its new name."""

    def __init__(self, binary, folder, sinks):
        self.binary, self.file = binary, folder / "pillion.yaml"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        http_sink, bulk_sink = (f"http://127.0.0.1:{sink.server.server_port}" for sink in sinks)
        self.file.write_text(f"""
inbound: off
outbound: off
admin: {{ listen: "127.0.0.1:0" }}
metrics: {{ listen: "127.0.0.1:{self.port}" }}
logs:
  sources: {{ app: {{ files: "{folder}/app*.log*", multiline: {{ starts: '^\\S' }} }} }}
  sinks:
    hook: {{ http: "{http_sink}" }}
    search: {{ elasticsearch: "{bulk_sink}", index: app }}
  checkpoint: "{folder}/state"
  batch: {{ max: {BATCH}, every: 200ms }}
""")
        self.start()

    def start(self):
        self.process = subprocess.Popen([self.binary, "run", "-c", self.file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()

    def metric(self, name):
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10).read().decode()
        except OSError:
            return None
        values = [float(row.rsplit(" ", 1)[1]) for row in text.splitlines() if row.startswith(name)]
        return sum(values) if values else None


def rotate(path, kind, round_, sidecar, sinks, written):
    match kind:
        case "rename":
            path.rename(path.with_suffix(f".log.{round_}"))
        case "new name":
            path.rename(path.with_name(f"{path.stem}-{round_}.log"))
        case "delete":
            # only what was delivered may be deleted while the sidecar may be killed
            settle(sidecar, sinks, written)
            path.unlink()
        case "truncate":
            settle(sidecar, sinks, written)
            os.truncate(path, 0)


def settle(sidecar, sinks, written, patience=600):
    """Waits until both sinks have all of the first `written` lines and the sidecar has noted it."""
    for sink in sinks:
        sink.is_calm = True
    until = time.monotonic() + patience
    while any(sink.counts.find(0, 0, written) >= 0 for sink in sinks) or sidecar.metric("pillion_logs_lag_bytes") != 0:
        if time.monotonic() > until:
            raise SystemExit(f"not delivered: {[sink.counts.count(0, 0, written) for sink in sinks]} lines, lag {sidecar.metric('pillion_logs_lag_bytes')}")
        time.sleep(0.05)
    for sink in sinks:
        sink.is_calm = False


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary")
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice, folder = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="pillion-logs-"))
    sinks = [Sink("http", options.lines, random.Random(2)), Sink("bulk", options.lines, random.Random(3))]
    sidecar, began = Sidecar(options.binary, folder, sinks), time.monotonic()
    rounds = options.kills * 4
    kinds, written, per_round = ["rename", "new name", "rename", "truncate", "rename", "delete"], 0, options.lines // rounds
    try:
        for round_ in range(rounds):
            path = folder / f"app{round_ % 3}.log"
            last = options.lines if round_ == rounds - 1 else written + per_round
            with path.open("a") as file:
                while written < last:
                    some = min(last, written + 1000)
                    file.write("".join(line(number, dice) for number in range(written, some)))
                    file.flush()
                    written = some
            if round_ % 4 == 3:
                time.sleep(dice.random() * 0.3)  # in the middle of its requests
                sidecar.kill()
            rotate(path, kinds[round_ % len(kinds)], round_, sidecar, sinks, written)
        settle(sidecar, sinks, written)
        took = time.monotonic() - began
        twice, most = [sink.twice() for sink in sinks], options.kills * (BATCH // 120)
        print(f"{written} lines, {options.kills} kills, {rounds} rotations, {took:.0f} s: missing {[sink.missing() for sink in sinks]}, "
              f"twice {twice} (at most {most} over HTTP and 0 by ids), {sinks[1].conflicts} conflicts of ids")
        if any(sink.missing() for sink in sinks) or twice[0] > most or twice[1]:
            raise SystemExit(1)
    finally:
        sidecar.process.kill()
        sidecar.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
