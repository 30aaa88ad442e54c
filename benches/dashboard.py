#!/usr/bin/env python3
"""What a dashboard that is open in ten browsers costs the data path and the DNS proxy.

    cargo build --release && benches/dashboard.py [--tabs] [--page docs/explain.md]

The way: client → caller's sidecar → mutual TLS → application's sidecar → nginx with 1 KiB of answer, over loopback, one
worker each. Requests come at a fixed rate (open loop), and questions to the caller's DNS proxy at another, each from a
process of its own. Each round measures without readers of the caller's `/events`, and with ten; every second round in the
other order. The figure to read is the ratio within a round, with readers over without: its median over the rounds and the
bootstrap 95 % interval of that median. An interval that contains 1.00 shows no difference.

The readers take the stream as ten browsers elsewhere would. With `--tabs` each round also measures with the page open in
ten tabs of a Chromium on this machine, whose drawing takes CPU from everything else that is measured here.
"""
import argparse
import asyncio
import contextlib
import multiprocessing
import selectors
import socket
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/support"))
from peers import load, proxies, scenarios  # noqa: E402
from peers.figures import interval  # noqa: E402
from peers.machine import machine  # noqa: E402
from peers.process import HOST, free_ports  # noqa: E402

READERS = 10
MARKERS = ("<!-- ten browsers -->\n", "<!-- end of ten browsers -->")
# A question for the address of `next`.
QUESTION = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + b"\x04next\x00" + struct.pack(">2H", 1, 1)
MEASURES = {"request p50 ms": "p50_ms", "request p99 ms": "p99_ms", "DNS p50 ms": "dns_p50_ms", "DNS p99 ms": "dns_p99_ms"}


class Watched(proxies.Pillion):
    """A caller's sidecar with a DNS proxy and an admin port at known places."""

    def __init__(self, binary):
        super().__init__(binary)
        self.admin, self.dns = free_ports(2)

    def config(self, role, way, place):
        text = super().config(role, way, place)
        if role == proxies.APPLICATION:
            return text
        return text.replace(f"admin: {{ listen: {HOST}:0 }}", f"admin: {{ listen: {HOST}:{self.admin} }}") + \
            f'dns: {{ listen: ["{HOST}:{self.dns}"], upstream: ["{HOST}:9"] }}\n'


def ask_names(port, seconds, rate):
    """Asks at evenly spaced times. A question that waits for the answer to the one before counts from when it was due."""
    times, began = [], time.perf_counter() + 0.01
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(load.PATIENCE)
        asking.connect((HOST, port))
        for nth in range(rate * seconds):
            due = began + nth / rate
            if (pause := due - time.perf_counter()) > 0:
                time.sleep(pause)
                due = time.perf_counter()
            asking.send(QUESTION)
            answer = asking.recv(512)
            times.append((time.perf_counter() - due) * 1000)
            if answer[3] & 15 or not struct.unpack(">H", answer[6:8])[0]:
                raise load.LoadFailed(f"a name was not answered: {answer!r}")
    return {"dns_" + name: value for name, value in load.latency(times).items()}


@contextlib.contextmanager
def nobody(_):
    yield


@contextlib.contextmanager
def readers(admin):
    """Ten clients that read the stream of events."""
    streams, read, ends = selectors.DefaultSelector(), [0], threading.Event()
    for _ in range(READERS):
        stream = socket.create_connection((HOST, admin))
        stream.sendall(f"GET /events HTTP/1.1\r\nhost: {HOST}\r\naccept: text/event-stream\r\n\r\n".encode())
        streams.register(stream, selectors.EVENT_READ)

    def follow():
        while not ends.is_set():
            for key, _ in streams.select(0.2):
                read[0] += key.fileobj.recv(1 << 20).count(b"data: ")

    following = threading.Thread(target=follow)
    following.start()
    began = time.monotonic()
    try:
        yield
    finally:
        ends.set()
        following.join()
        for key in list(streams.get_map().values()):
            key.fileobj.close()
    if read[0] < READERS * int(time.monotonic() - began - 1):
        raise load.LoadFailed(f"ten readers got {read[0]} events in all")


@contextlib.contextmanager
def tabs(admin):
    """The page in ten tabs with profiles of their own, each of which has drawn an event."""
    from devtools import chromium, tab
    is_open, ends = threading.Event(), threading.Event()

    async def hold(port):
        async with contextlib.AsyncExitStack() as opened:
            for _ in range(READERS):
                page = await opened.enter_async_context(tab(port))
                await page.open(f"http://{HOST}:{admin}/")
                await page.until("document.getElementById('state').textContent === 'live'")
            is_open.set()
            await asyncio.to_thread(ends.wait)

    with chromium() as port:
        holding = threading.Thread(target=lambda: asyncio.run(hold(port)))
        holding.start()
        try:
            if not is_open.wait(load.PATIENCE):
                raise load.LoadFailed("ten tabs did not open")
            yield
        finally:
            ends.set()
            holding.join()


def measured(one, proxy, options, who):
    """The figures of one measurement, with the CPU time that the caller's sidecar took."""
    with who(proxy.admin), multiprocessing.Pool(2) as pool:
        before = one.cpu_us([proxies.CALLER])
        names = pool.apply_async(ask_names, (proxy.dns, options.seconds, options.names))
        requests = pool.apply_async(load.open_loop, (one.place.client, options.seconds, options.rate))
        figures = {**names.get(load.PATIENCE), **requests.get(load.PATIENCE)}
        figures["cpu_ms"] = (one.cpu_us([proxies.CALLER]) - before) / options.seconds / 1000
        return figures


def rounds(options):
    """For each way of looking its figures by round."""
    proxy, whos = Watched(options.pillion), {"nobody": nobody, "ten readers": readers}
    if options.tabs:
        whos["ten tabs"] = tabs
    results = {who: [] for who in whos}
    with tempfile.TemporaryDirectory(prefix="dashboard-") as folder:
        certs = Path(folder)
        certs.chmod(0o755)
        scenarios.certificates(options.pillion, certs)
        with scenarios.stage(proxy, scenarios.HTTP1, certs) as one:
            measured(one, proxy, options, nobody)  # warms everything
            for nth in range(options.rounds):
                for who, how in list(whos.items())[::1 if nth % 2 else -1]:
                    results[who].append(measured(one, proxy, options, how))
                    print(nth, who, {name: round(value, 3) for name, value in results[who][-1].items()}, flush=True)
    return results


def spread(values):
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def table(results, options):
    others = [who for who in results if who != "nobody"]
    lines = ["| | nobody looks | " + " | ".join(f"{who} | ratio" for who in others) + " |", "|---" * (2 + 2 * len(others)) + "|"]
    for title, key in {**MEASURES, "caller's sidecar, ms of CPU per second": "cpu_ms"}.items():
        without, cells = [one[key] for one in results["nobody"]], []
        for who in others:
            ratios = [one[key] / base for one, base in zip(results[who], without)]
            low, high = interval(ratios)
            cells += [spread([one[key] for one in results[who]]), f"{median(ratios):.2f} ({low:.2f}–{high:.2f})"]
        lines.append(f"| {title} | {spread(without)} | " + " | ".join(cells) + " |")
    about = (f"{time.strftime('%d %B %Y')}, {machine()}. {options.rounds} interleaved rounds of {options.seconds} s, {options.rate:,} requests "
             f"and {options.names} questions a second. Median (least–most); ratio: median over the rounds (95 % interval).")
    return f"{about}\n\n" + "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pillion", nargs="?", default="target/release/pillion", help="the binary (%(default)s)")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=5, help="of one measurement (%(default)s)")
    parser.add_argument("--rate", type=int, default=1000, help="requests per second (%(default)s)")
    parser.add_argument("--names", type=int, default=200, help="questions to the DNS proxy per second (%(default)s)")
    parser.add_argument("--tabs", action="store_true", help="measure with ten tabs of a Chromium here, too")
    parser.add_argument("--page", help="put the table into this page")
    options = parser.parse_args()
    load.PILLION = str(Path(options.pillion).resolve())
    text = table(rounds(options), options)
    print("\n" + text)
    if options.page:
        page = Path(options.page)
        before, _, rest = page.read_text().partition(MARKERS[0])
        page.write_text(f"{before}{MARKERS[0]}{text}{MARKERS[1]}{rest.partition(MARKERS[1])[2]}")


main()
