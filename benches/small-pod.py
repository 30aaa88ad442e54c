#!/usr/bin/env python3
"""A pair of sidecars in cgroups of the size that a pod gives them: requests per second, CPU, memory.

    cargo build --release && sudo benches/small-pod.py            128 MiB and 0.2 CPU for each sidecar
    sudo benches/small-pod.py BINARY --memory 64 --cpu 0.1        other limits

The way is that of side-by-side.py: client → caller's sidecar → mutual TLS 1.3 → application's sidecar → nginx with 1 KiB of
answer. Each sidecar has a cgroup of its own, of version 1 or 2, whichever the machine has; client and nginx have none. At
each rate requests leave at even distances for some seconds. A rate is served if every request is answered and 99 % of them
within 100 ms. `held` is what a cgroup holds without pages of files: by this `limits.max_memory` measures. `throttled` is the
share of the kernel's periods (100 ms) in which the sidecar had used up its CPU. Needs root, nginx and h2load.
"""
import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
from peers import load, process, proxies, scenarios  # noqa: E402
from peers.machine import machine  # noqa: E402

MIB = 1 << 20
PERIOD_US = 100_000
RATES = [250, 500, 750, 1000, 1250, 1500, 2000, 2500, 3000, 4000, 5000]
LATE_MS = 100
IDLE = 2000
SERVICES = 10_000
WAYS = {"HTTP/1.1 between": scenarios.HTTP1, "HTTP/2 between": scenarios.HTTP2_BETWEEN}


class Cgroup:
    """A cgroup with a limit of memory and of CPU."""

    def __init__(self, name, memory, cpu):
        root = Path("/sys/fs/cgroup")
        self.is_v1 = (root / "memory").is_dir()
        folders = [root / "memory" / name, root / "cpu" / name] if self.is_v1 else [root / name] * 2
        if not self.is_v1:
            with contextlib.suppress(OSError):
                (root / "cgroup.subtree_control").write_text("+memory +cpu")
        self.memory, self.cpu = folders
        for folder in folders:
            folder.mkdir(exist_ok=True)
        quota = int(cpu * PERIOD_US)
        if self.is_v1:
            (self.memory / "memory.limit_in_bytes").write_text(str(memory))
            (self.cpu / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.cpu / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (self.memory / "memory.max").write_text(str(memory))
            (self.cpu / "cpu.max").write_text(f"{quota} {PERIOD_US}")

    def prefix(self):
        enter = "".join(f"echo $$ > {folder}/cgroup.procs; " for folder in {self.memory, self.cpu})
        return ["sh", "-c", enter + 'exec "$@"', "sh"]

    def held(self):
        """Bytes without pages of files."""
        stat = dict(line.split() for line in (self.memory / "memory.stat").read_text().splitlines())
        before = "total_" if self.is_v1 else ""
        files = sum(int(stat[before + name]) for name in ("inactive_file", "active_file"))
        now = "memory.usage_in_bytes" if self.is_v1 else "memory.current"
        return int((self.memory / now).read_text()) - files

    def kills(self):
        file = "memory.oom_control" if self.is_v1 else "memory.events"
        lines = (self.memory / file).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def periods(self):
        """The periods so far in which there was work, and those in which the CPU was used up."""
        stat = dict(line.split() for line in (self.cpu / "cpu.stat").read_text().splitlines())
        return int(stat["nr_periods"]), int(stat["nr_throttled"])

    def remove(self):
        for folder in {self.memory, self.cpu}:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.1)


class Confined(proxies.Pillion):
    """Pillion, each role in its cgroup, and with `services` further services at the caller's side."""

    def __init__(self, binary, groups, services=0):
        super().__init__(binary)
        self.groups, self.services = groups, services

    def command(self, role, file):
        return self.groups[role].prefix() + super().command(role, file)

    def outbound(self, way, place):
        more = (f"  s{nth}: {{ endpoints: ['10.{nth >> 16}.{nth >> 8 & 255}.{nth & 255}:80'], hosts: [s{nth}.example] }}\n"
                for nth in range(self.services))
        return super().outbound(way, place) + "".join(more)


def mb(number):
    return f"{number / 1e6:.1f} MB"


def share(before, after):
    periods, throttled = (after[nth] - before[nth] for nth in range(2))
    return f"{100 * throttled / periods:.0f} %" if periods else "0 %"


def each(groups, figure):
    return " · ".join(figure(groups[role]) for role in (proxies.CALLER, proxies.APPLICATION))


def at_rate(stage, groups, rate, seconds):
    """Returns a row of the table, and whether the rate is served."""
    before, cpu = {role: group.periods() for role, group in groups.items()}, stage.cpu_us(groups)
    got = load.open_loop(stage.place.client, seconds, rate)
    cpu = (stage.cpu_us(groups) - cpu) / got["requests"]
    throttled = " · ".join(share(before[role], groups[role].periods()) for role in (proxies.CALLER, proxies.APPLICATION))
    held = each(groups, lambda group: mb(group.held()))
    row = f"| {rate:,}/s | {got['p50_ms']:.2f} | {got['p99_ms']:.2f} | {cpu:.0f} | {throttled} | {held} |"
    return row, got["p99_ms"] <= LATE_MS


def rates(binary, groups, certs, options):
    for title, way in WAYS.items():
        print(f"\n{title}\n\n| rate | p50 ms | p99 ms | CPU µs per request | throttled | held |\n|---|---|---|---|---|---|")
        with scenarios.stage(Confined(binary, groups), way, certs) as stage:
            load.open_loop(stage.place.client, 2, 200)  # the connections between the sidecars open
            for rate in RATES:
                row, is_served = at_rate(stage, groups, rate, options.seconds)
                print(row, flush=True)
                if not is_served:
                    break
            full = load.closed_loop(stage.place.client, options.seconds, 64)
            print(f"\n64 connections, as fast as answers come: {full['rps']:,.0f}/s, p50 {full['p50_ms']:.1f} ms, p99 {full['p99_ms']:.1f} ms")


def idle(binary, groups, certs):
    for title, way in WAYS.items():
        with scenarios.stage(Confined(binary, groups), way, certs) as stage:
            load.open_loop(stage.place.client, 2, 200)
            before = each(groups, lambda group: mb(group.held()))
            with load.held(stage.place.client, IDLE):
                time.sleep(3)
                after = each(groups, lambda group: mb(group.held()))
                with load.held(stage.place.client, 1):
                    pass  # one more is served
        print(f"{IDLE:,} idle connections of the application, {title}: held {before} before, {after} with them")


def services(binary, groups, certs):
    began = time.monotonic()
    with scenarios.stage(Confined(binary, groups, SERVICES), scenarios.HTTP2_BETWEEN, certs) as stage:
        ready = time.monotonic() - began
        load.open_loop(stage.place.client, 2, 200)
        row, _ = at_rate(stage, groups, 500, 3)
        print(f"{SERVICES:,} services at the caller's sidecar: both listen after {ready:.1f} s; held "
              f"{each(groups, lambda group: mb(group.held()))}; at 500/s {row}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pillion", nargs="?", default="target/release/pillion", help="the binary (%(default)s)")
    parser.add_argument("--memory", type=int, default=128, help="MiB for each sidecar (%(default)s)")
    parser.add_argument("--cpu", type=float, default=0.2, help="CPUs for each sidecar (%(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="of one rate (%(default)s)")
    parser.add_argument("--only", choices=["rates", "idle", "services"])
    return parser.parse_args()


def main():
    options = arguments()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    binary = load.PILLION = os.path.abspath(options.pillion)
    groups = {role: Cgroup(f"pillion-{role}-{os.getpid()}", options.memory * MIB, options.cpu)
              for role in (proxies.CALLER, proxies.APPLICATION)}
    print(f"{machine()}; {options.memory} MiB and {options.cpu} CPU for each sidecar; caller's · application's")
    try:
        with tempfile.TemporaryDirectory(prefix="small-pod-") as folder:
            certs = Path(folder)
            certs.chmod(0o755)
            scenarios.certificates(binary, certs)
            works = {"rates": lambda: rates(binary, groups, certs, options), "idle": lambda: idle(binary, groups, certs),
                     "services": lambda: services(binary, groups, certs)}
            for name, work in works.items():
                if options.only in (None, name):
                    try:
                        work()
                    except (load.LoadFailed, process.NotStarted, OSError, subprocess.TimeoutExpired) as why:
                        print(f"{name}: not measured to the end. {why}")
        kills = each(groups, lambda group: str(group.kills()))
        print(f"ended by the kernel: {kills}")
    finally:
        for group in groups.values():
            group.remove()


main()
