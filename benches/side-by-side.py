#!/usr/bin/env python3
"""Pillion beside nginx, HAProxy and Envoy: CPU per request, latency, requests per second and memory.

    cargo build --release && benches/side-by-side.py                             measures everything, prints the table
    benches/side-by-side.py --out results.json --page docs/performance.md        keeps the results as well, and writes the page
    benches/side-by-side.py --from results.json --page docs/performance.md       writes the page and its plots from kept results

The way: client → caller's proxy → mutual TLS 1.3 → application's proxy → nginx with 1 KiB of answer, everything on this
machine over loopback, one worker for each proxy, the same certificates and the same cipher for all. Load comes from
h2load (64 and 256 connections, HTTP/2), from `pillion bench` (fixed rates) and from openssl s_time (handshakes). What is not installed is left out; name Envoy's binary in $ENVOY.

How to read it. **CPU per request** is user and system time of the proxies over the requests answered; it is the figure
to compare. Requests per second and latency under full load depend on the CPU that the load generator and the application
leave. Latency at a fixed rate contains the times of the generator and of the application.
Each round measures every scenario with every peer, after an unmeasured warm-up, so a drift of the machine affects them all.
A ratio is taken within a round. The table has its median over the rounds and the bootstrap 95 % interval of that median.
An interval that contains 1.00 decides nothing. No other program may use the CPU meanwhile. Seven rounds of 3 s take about half an hour.

Memory: RSS before any request, and what RSS without pages of files grows by for each of 2,000 connections that idle after
one request.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
from peers import figures, load, process, proxies, scenarios  # noqa: E402
from peers.machine import machine  # noqa: E402

MARKERS = ("<!-- table -->", "<!-- end of table -->")
HERE = Path(__file__).parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pillion", nargs="?", default="target/release/pillion", help="the binary (%(default)s)")
    parser.add_argument("--scenario", default="all", 
                        help="all, some of " + ",".join(one.name for one in scenarios.SCENARIOS) + ", or `versions`: HTTP/1.1 "
                             "and HTTP/2 between the sidecars, from 1 to 256 callers")
    parser.add_argument("--peers", default="nginx,haproxy,envoy", help="beside Pillion (%(default)s); none: alone")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement")
    parser.add_argument("--out", help="write every round to this file, as JSON")
    parser.add_argument("--from", dest="kept", help="measure nothing: take this file")
    parser.add_argument("--page", help="put the table into this page, and plots into `plots` beside it")
    return parser.parse_args()


def chosen_scenarios(names):
    sets = {"all": scenarios.SCENARIOS, "versions": scenarios.VERSIONS}
    if names in sets:
        return sets[names]
    known = {one.name: one for one in scenarios.SCENARIOS}
    wanted = names.split(",")
    if unknown := [name for name in wanted if name not in known]:
        sys.exit(f"there is no scenario {unknown[0]}; there are {', '.join(known)}")
    return [known[name] for name in wanted]


def raise_open_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def attempt(proxy, scenario, certs, seconds):
    """Returns the figures of one measurement; or prints why there are none, and returns None."""
    try:
        with scenarios.stage(proxy, scenario.way, certs) as stage:
            return scenario.measure(stage, seconds)
    except (load.LoadFailed, process.NotStarted, OSError, subprocess.TimeoutExpired) as why:
        print(f"{proxy.name}, {scenario.title}: not measured. {why}", flush=True)
        return None


def measured(options):
    """Runs every round, and writes the results after each cell."""
    chosen = chosen_scenarios(options.scenario)
    found = proxies.installed(options.pillion, ["pillion", *options.peers.split(",")])
    run = {"made": time.strftime("%d %B %Y"), "machine": machine(), "rounds": options.rounds, "seconds": options.seconds,
           "versions": {proxy.name: proxy.version() for proxy in found},
           "titles": {one.name: one.title for one in chosen}, "cells": []}
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as folder:
        certs = Path(folder)
        certs.chmod(0o755)
        scenarios.certificates(options.pillion, certs)
        for nth in range(options.rounds):
            order = found[nth % len(found):] + found[:nth % len(found)]  # none has a fixed neighbour before it
            for scenario in chosen:
                for proxy in [one for one in order if one.takes(scenario.way)]:
                    got = attempt(proxy, scenario, certs, options.seconds)
                    if got:
                        run["cells"].append({"round": nth, "scenario": scenario.name, "peer": proxy.name, "figures": got})
                        print(nth, scenario.name, proxy.name, {key: round(value, 2) for key, value in got.items()}, flush=True)
                    if options.out:
                        Path(options.out).write_text(json.dumps(run, indent=1) + "\n")
    return run


def write_page(page, results):
    """Writes the section between the markers of the page, and draws the plots."""
    text = page.read_text()
    if any(marker not in text for marker in MARKERS):
        sys.exit(f"{page} has no place for the table: it needs the lines {MARKERS[0]} and {MARKERS[1]}")
    before, after = text.partition(MARKERS[0])[0], text.partition(MARKERS[1])[2]
    page.write_text(f"{before}{MARKERS[0]}\n{figures.section(results)}\n{MARKERS[1]}{after}")


def main():
    options = arguments()
    if options.kept:
        run = json.loads(Path(options.kept).read_text())
    else:
        if not os.access(options.pillion, os.X_OK):
            sys.exit(f"{options.pillion} is not there: build it with `cargo build --release`, or name another binary")
        raise_open_files()
        load.PILLION = options.pillion
        run = measured(options)
    results = figures.Results(run)
    if options.page:
        import plot
        write_page(Path(options.page), results)
        plot.draw(results, Path(options.page).parent / "plots")
    print("\n" + figures.section(results))


main()
