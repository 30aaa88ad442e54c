#!/usr/bin/env python3
"""What the caller sees of one faulty replica of three, through Pillion, Envoy, HAProxy and nginx.

    benches/resilience.py target/release/pillion --out benches/resilience.json --page docs/reliability.md
    benches/resilience.py --from benches/resilience.json --page docs/reliability.md       the page alone, from a kept run

The way: caller → one proxy → three replicas, HTTP/1.1 in plaintext over loopback, one worker each. The configurations
stand in peers/resilience: further tries on another replica and ejection of replicas that fail, for each proxy as well as
it can. What is not installed is left out; name Envoy's binary in $ENVOY.

All proxies are measured at the same time, each with replicas and a caller of its own, so that whatever disturbs the
machine meets them all. Their load begins at the same moment, 1 ms apart, so that no two requests are due at once; the
first ten seconds are warm-up. Five rounds take about eleven minutes, in which nothing else may run.
"""
import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
from peers import process, proxies, replicas, seen, steady  # noqa: E402
from peers.machine import machine  # noqa: E402

HERE = Path(__file__).resolve().parent
PROGRAMS = {"replicas": replicas.play, "caller": steady.play}
START_SECONDS = 1  # the callers start in it
ORDER = ("Pillion", "Envoy", "HAProxy", "nginx")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pillion", nargs="?", default="target/release/pillion", help="the binary (%(default)s)")
    parser.add_argument("--faults", default=",".join(replicas.FAULTS), help="some of %(default)s")
    parser.add_argument("--peers", default="envoy,haproxy,nginx", help="beside Pillion (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=float, default=10, help="seconds of load before a measurement (%(default)s)")
    parser.add_argument("--seconds", type=float, default=8, help="of a measurement (%(default)s)")
    parser.add_argument("--rate", type=int, default=250, help="requests per second (%(default)s)")
    parser.add_argument("--out", help="write every round to this file, as JSON")
    parser.add_argument("--from", dest="kept", help="measure nothing: take this file")
    parser.add_argument("--page", help="put the table into this page")
    return parser.parse_args()


class Measurement:
    """A proxy (or none), the replicas behind it and the caller before it, each a process."""

    def __init__(self, proxy, folder):
        self.proxy, self.folder = proxy, Path(folder)
        self.folder.chmod(0o755)  # nginx's worker is another user
        self.processes = []

    def start(self, fault, seed):
        """Starts replicas and proxy."""
        self.address, *behind = [f"{process.HOST}:{port}" for port in process.free_ports(4)]
        self.run([*this("replicas"), fault, str(seed), *behind], "replicas.log").until_listening(port_of(behind[0]))
        if self.proxy:
            command = self.proxy.command(proxies.CALLER, str(self.configured(behind)))
            self.run(command, "proxy.log").until_listening(port_of(self.address))
        else:
            self.address = behind[0]

    def call(self, begin, options):
        """Starts the load, which begins at `begin` of the monotonic clock."""
        numbers = map(str, (begin, options.warm_up, options.seconds, options.rate))
        self.caller = self.run([*this("caller"), self.address, *numbers], "caller.log")

    def run(self, command, log):
        self.processes.append(process.Process(command, self.folder, log))
        return self.processes[-1]

    def configured(self, behind):
        """The proxy's file, with the addresses in it."""
        text = (HERE / "peers" / "resilience" / f"{self.proxy.name.lower()}{self.proxy.suffix}").read_text()
        for name, address in zip(("CALLER", "FIRST", "SECOND", "THIRD"), (self.address, *behind)):
            for word, value in ((name, address), (f"{name}_PORT", str(port_of(address)))):
                text = text.replace(f"@{word}@", value)
        file = self.folder / f"proxy{self.proxy.suffix}"
        file.write_text(text.replace("@FOLDER@", str(self.folder)))
        return file

    def result(self):
        """What the caller has printed. It ends by itself, a second after its last request at the latest."""
        said = self.caller.log.read_text() if self.caller.child.wait(steady.PATIENCE + 10) == 0 else None
        if said is None:
            raise process.NotStarted(f"the caller failed: {self.caller.log.read_text()[-400:]}")
        return {"peer": self.proxy.name if self.proxy else seen.DIRECT, **json.loads(said)}

    def end(self):
        for one in reversed(self.processes):
            one.kill()


def port_of(address):
    return int(address.rpartition(":")[2])


def this(program):
    return [sys.executable, str(Path(__file__).resolve()), program]


def measured(options):
    """Runs every round; what has been measured is written after each fault."""
    found = proxies.installed(options.pillion, ["pillion", *options.peers.split(",")])
    found.sort(key=lambda one: ORDER.index(one.name))
    run = {"made": time.strftime("%d %B %Y"), "machine": machine(),
           "versions": {proxy.name: proxy.version() for proxy in found},
           **{key: getattr(options, key) for key in ("rounds", "warm_up", "seconds", "rate")}, "cells": []}
    for nth in range(options.rounds):
        for fault in options.faults.split(","):
            for got in together([*found, None] if fault == "none" else found, fault, nth, options):
                run["cells"].append({"round": nth, "fault": fault, **got})
                print_cell(run["cells"][-1])
            if options.out:
                Path(options.out).write_text(written(run))
    return run


def together(found, fault, seed, options):
    """What the caller of each proxy has seen, all at the same time."""
    with contextlib.ExitStack() as stack:
        all_of_them = []
        for proxy in found:
            one = Measurement(proxy, stack.enter_context(tempfile.TemporaryDirectory(prefix="resilience-")))
            stack.callback(one.end)
            one.start(fault, seed)
            all_of_them.append(one)
        begin = time.monotonic() + START_SECONDS
        for nth, one in enumerate(all_of_them):
            one.call(begin + nth / len(all_of_them) / options.rate, options)
        time.sleep(START_SECONDS + options.warm_up + options.seconds)
        return [one.result() for one in all_of_them]


def print_cell(cell):
    warm, got = cell["warm_up"], cell["measured"]
    print(f"{cell['round']} {cell['fault']:7} {cell['peer']:8} {got['succeeded']}/{got['requests']} p50 {got['p50_ms']} "
          f"p99 {got['p99_ms']} max {got['max_ms']} {got['answered_by']} {got['failures'] or ''} | warm-up "
          f"{warm['succeeded']}/{warm['requests']} p99 {warm['p99_ms']} {warm['failures'] or ''}", flush=True)


def written(run):
    """JSON with a line for each cell."""
    head = json.dumps({**run, "cells": []}, indent=1)[:-len("[]\n}")]
    return head + "[\n  " + ",\n  ".join(map(json.dumps, run["cells"])) + "\n ]\n}\n"


def main():
    if sys.argv[1:2] and sys.argv[1] in PROGRAMS:
        return PROGRAMS[sys.argv[1]](sys.argv[2:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    options = arguments()
    if unknown := set(options.faults.split(",")) - set(replicas.FAULTS):
        sys.exit(f"there is no fault {unknown.pop()}; there are {', '.join(replicas.FAULTS)}")
    if not options.kept and not os.access(options.pillion, os.X_OK):
        sys.exit(f"{options.pillion} is not there: build it with `cargo build --release`, or name another binary")
    run = json.loads(Path(options.kept).read_text()) if options.kept else measured(options)
    if options.page:
        seen.write(Path(options.page), run)
    print("\n" + seen.section(run))


main()
