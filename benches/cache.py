#!/usr/bin/env python3
"""What an answer from the cache costs, and how many requests find one: Pillion beside nginx with proxy_cache.

    cargo build --release && benches/cache.py [--seconds 3] [--rounds 7] [--json]

Both stand alone between a client and the same nginx with 1 KiB of answer, over loopback and HTTP/1.1, one worker each; every
second round in the other order. Two loads:

- one target again and again (h2load, closed loop, 32 connections): CPU time of the cache per request, by the kernel's count;
- 20,000 targets of 1 KiB, asked by Zipf's law (exponent 0.9) with a scan of targets that are asked once mixed in (every
  fifth request), through a cache that holds a fifth of them: the share of requests that reach the origin.

nginx keeps its bound loosely: its manager looks every ten seconds. `kept MB` says what it held at the end; what it holds
beyond `bound MB` is an advantage of its hit rate. The figure to read is the ratio within a round: its median over the rounds and the bootstrap 95 % interval of that median.
"""
import argparse
import json
import random
import re
import socket
import sys
import tempfile
from itertools import accumulate
from pathlib import Path
from statistics import median

sys.dont_write_bytecode = True
from peers import load  # noqa: E402
from peers.figures import interval  # noqa: E402
from peers.machine import machine  # noqa: E402
from peers.process import HOST, Process, free_ports  # noqa: E402

TARGETS, ASKED, SHARE = 20_000, 40_000, 5
BODY = "x" * 1024
NGINX = """user root; daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{ access_log off; {temp} keepalive_requests 1000000; {rest} }}
"""


def nginx(folder, name, rest):
    here = Path(folder) / name
    here.mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = " ".join(f"{kind}_temp_path {here}/{kind};" for kind in kinds)
    (here / "nginx.conf").write_text(NGINX.format(folder=here, temp=temp, rest=rest))
    return Process(["nginx", "-e", "stderr", "-c", str(here / "nginx.conf")], here, "log")


def origin(folder, port):
    """Its answers live for an hour; its access log has a line for each request."""
    log = Path(folder) / "asked"
    rest = (f"log_format short '$uri'; server {{ listen {HOST}:{port}; access_log {log} short; "
            f"location / {{ add_header Cache-Control max-age=3600; return 200 '{BODY}'; }} }}")
    return nginx(folder, "origin", rest), log


class Nginx:
    name = "nginx"

    def start(self, folder, port, upstream, megabytes):
        kept = Path(folder) / "kept"
        rest = (f"proxy_cache_path {kept} levels=1:2 keys_zone=z:16m max_size={megabytes}m inactive=1h use_temp_path=off manager_files=10000 manager_sleep=10ms manager_threshold=1s; "
                f"upstream o {{ server {HOST}:{upstream}; keepalive 32; }} "
                f"server {{ listen {HOST}:{port}; location / {{ proxy_pass http://o; proxy_http_version 1.1; "
                f"proxy_set_header Connection ''; proxy_cache z; proxy_cache_lock on; }} }}")
        return nginx(folder, "cache", rest)

    def kept(self, folder, _):
        return sum(file.stat().st_size for file in (Path(folder) / "kept").rglob("*") if file.is_file()) / 1e6


class Pillion:
    name = "Pillion"

    def __init__(self, binary):
        self.binary = binary

    def start(self, folder, port, upstream, megabytes):
        file = Path(folder) / "pillion.yaml"
        file.write_text(
            "workers: 1\ninbound: off\nmetrics: off\nexplain: off\n"
            f"admin: {{ listen: {HOST}:0 }}\noutbound: {{ listen: {HOST}:0 }}\n"
            f"services:\n  bench: {{ listen: {HOST}:{port}, endpoints: [\"{HOST}:{upstream}\"], protocol: http1, "
            f"cache: {{ max: {megabytes}MiB }} }}\n")
        return Process([self.binary, "run", "-c", str(file)], folder, "log")

    def kept(self, _, bound):
        return bound  # the end-to-end test holds it to that


def zipf(seed):
    """The paths in the order in which they are asked for."""
    dice = random.Random(seed)
    weights = list(accumulate(1 / (rank + 1) ** 0.9 for rank in range(TARGETS)))
    for nth in range(ASKED):
        yield f"/once/{nth}" if nth % 5 == 4 else f"/{dice.choices(range(TARGETS), cum_weights=weights)[0]}"


def ask(port, paths):
    with socket.create_connection((HOST, port), 10) as kept, kept.makefile("rb") as answers:
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for path in paths:
            kept.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            length = 0
            while (line := answers.readline()) not in (b"\r\n", b""):
                if sized := re.match(rb"(?i)content-length: *(\d+)", line):
                    length = int(sized.group(1))
            if len(answers.read(length)) != len(BODY):
                raise load.LoadFailed(f"{path} was answered with {length} bytes")


def measured(cache, seconds, seed):
    with tempfile.TemporaryDirectory() as folder:
        port, upstream = free_ports(2)
        back, log = origin(folder, upstream)
        bound = TARGETS * 1536 // SHARE // 2**20
        front = cache.start(folder, port, upstream, bound)
        try:
            back.until_listening(upstream)
            front.until_listening(port)
            load.closed_loop(port, 1, 32)  # the answer is stored
            before = front.cpu_us()
            done = load.closed_loop(port, seconds, 32)
            cpu = (front.cpu_us() - before) / done["requests"]
            asked = len(log.read_text().splitlines())
            ask(port, zipf(seed))
            missed = len(log.read_text().splitlines()) - asked
            return {"cpu_us": cpu, "p99_ms": done["p99_ms"], "hit_rate": 1 - missed / ASKED, "rss_mb": front.rss() / 1e6,
                    "kept_mb": cache.kept(folder, bound)}
        finally:
            front.end()
            back.end()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", type=lambda path: str(Path(path).resolve()), default=str(Path(__file__).resolve().parents[1] / "target/release/pillion"))
    options.add_argument("--seconds", type=int, default=3)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--json", action="store_true")
    options = options.parse_args()
    caches = [Pillion(options.binary), Nginx()]
    rounds = []
    for nth in range(options.rounds):
        order = caches if nth % 2 == 0 else caches[::-1]
        rounds.append({cache.name: measured(cache, options.seconds, nth) for cache in order})
    if options.json:
        return print(json.dumps({"machine": machine(), "rounds": rounds}))
    print(f"bound MB  {TARGETS * 1536 // SHARE // 2**20}")
    for measure in ("cpu_us", "p99_ms", "hit_rate", "rss_mb", "kept_mb"):
        own, other = ([of[cache.name][measure] for of in rounds] for cache in caches)
        ratios = [one / two for one, two in zip(own, other)]
        low, high = interval(ratios)
        print(f"{measure:9} Pillion {median(own):9.3f}  nginx {median(other):9.3f}  "
              f"ratio {median(ratios):.2f} ({low:.2f}–{high:.2f})")


if __name__ == "__main__":
    main()
