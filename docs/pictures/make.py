#!/usr/bin/env python3
"""Makes the pictures of the documents: the dashboard and `pillion top` from a demo that runs, and a failure from a sidecar whose
service always answers 503, so that its timeline has several attempts with their pauses.

    cargo build --release && docs/pictures/make.py        with chromium, tmux, and `pip install websockets pillow`

It waits for what the page and the terminal show, about a minute in all, and says which files it wrote. Look at them before
you commit them.
"""
import asyncio
import base64
import contextlib
import http.client
import http.server
import io
import re
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from PIL import Image

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "tests/support"))
from devtools import chromium, tab  # noqa: E402

BINARY = sys.argv[1] if len(sys.argv) > 1 else str(HERE.parents[1] / "target/release/pillion")
MARKERS = ("<!-- top -->\n", "<!-- end of top -->")
WIDE, PHONE = 1280, 390
MOST_BYTES = 150_000
MOST_TRIES = 100_000
ROW = "document.querySelector('tr[data-service=\"outbound/orders\"]')"
COUNT = f"Number({ROW}.dataset.requests)"


class Failing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving():
    """Gives the address of a server that answers 503."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def free():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def failing():
    """Gives the address of the dashboard of a sidecar, one of whose requests has failed in spite of further attempts."""
    outbound, admin, metrics = free(), free(), free()
    with serving() as endpoint, tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(
            f"inbound: off\nmetrics: {{ listen: \"{metrics}\" }}\nadmin: {{ listen: \"{admin}\" }}\noutbound: {{ listen: \"{outbound}\" }}\n"
            f"services:\n  orders: {{ endpoints: [\"{endpoint}\"], retry: {{ attempts: 2, backoff: {{ base: 25ms }} }} }}\n"
        )
        file.flush()
        running = subprocess.Popen([BINARY, "run", "-c", file.name], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            subprocess.run([BINARY, "wait", "--metrics", f"http://{metrics}"], check=True, stdout=subprocess.DEVNULL)
            if asked(outbound, "GET", "/orders/4711") != 503:
                sys.exit("the request to the failing service did not fail")
            yield admin
        finally:
            running.terminate()
            running.wait()


@contextlib.contextmanager
def demo():
    """Gives the addresses of the demo's outbound port and of its dashboard."""
    running = subprocess.Popen([BINARY, "demo"], stdout=subprocess.PIPE, text=True)
    try:
        said = ""
        while "dashboard" not in said:
            line = running.stdout.readline()
            if not line:
                sys.exit(f"{BINARY} demo ended")
            said += line
        yield [re.search(word + r" .*?http://([^/]+)/", said).group(1) for word in ("try", "dashboard")]
    finally:
        running.terminate()
        running.wait()


def asked(outbound, method, path, body=None):
    """Sends a request to the service `orders`. Returns the status."""
    connection = http.client.HTTPConnection(outbound, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body=body, headers={"Host": "orders"})
        return connection.getresponse().status


def order(outbound):
    """Sends an order, which no sidecar sends again. Returns the status."""
    return asked(outbound, "POST", "/checkout?card=4711", "{}")


async def further(page, requests):
    """Waits until the page has counted further requests. It is drawn anew with each event."""
    now = await page.value(COUNT)
    await page.until(f"{COUNT} >= {now + requests}")


def compressed(png, path):
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.name}: {image.width} x {image.height}, {size:,} bytes")
    if size > MOST_BYTES:
        sys.exit(f"{path.name} is larger than {MOST_BYTES:,} bytes")


async def picture(page, name, of="document.body", height=None):
    """Takes a part of the page, or so much of it from above."""
    box = await page.value(f"(({of}).scrollIntoView(), (({of}).getBoundingClientRect()).toJSON())")
    top = await page.value("window.scrollY")
    clip = {"x": box["x"] + await page.value("window.scrollX"), "y": box["y"] + top, "width": box["width"], "height": height or box["height"], "scale": 1}
    taken = await page.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    compressed(base64.b64decode(taken["data"]), HERE / (name + ".png"))


async def take(outbound, dashboard):
    with chromium() as port:
        async with tab(port) as page:
            await page.look_like(WIDE, "light")
            await page.open(f"http://{dashboard}/")
            await page.until(ROW)
            fail(outbound)
            await further(page, 200 * 65)  # then the last minute is full of the demo's own requests
            await page.until("document.querySelector('#endpoints .state.bad')")
            await picture(page, "dashboard-light")
            await page.look_like(WIDE, "dark")
            await further(page, 1)
            await picture(page, "dashboard-dark")
            await page.look_like(PHONE, "dark", height=844, scale=2)
            await further(page, 1)
            await picture(page, "dashboard-phone", "document.documentElement", height=844)
            check(page)


async def take_failure(dashboard):
    with chromium() as port:
        async with tab(port) as page:
            await page.look_like(860, "light")
            await page.open(f"http://{dashboard}/")
            await page.until("document.querySelector('#failures details')")
            await page.value("document.querySelector('#failures details').open = true")
            await picture(page, "failure", "document.getElementById('failures').closest('section')")
            check(page)


def check(page):
    if page.faults:
        sys.exit(f"the page had faults: {page.faults}")


def fail(outbound):
    """Sends orders, one after the other, until two have failed."""
    failed = 0
    for _ in range(MOST_TRIES):
        failed += order(outbound) >= 500
        if failed == 2:
            return
    sys.exit(f"of {MOST_TRIES} orders {failed} failed")


def tmux(*words):
    return subprocess.run(["tmux", "-u", "-f", "/dev/null", "-L", "pillion-pictures", *words], check=True, capture_output=True, text=True).stdout


def terminal(dashboard):
    """What `pillion top` shows after its first events, as text."""
    tmux("new-session", "-d", "-x", "80", "-y", "24", "sh")
    try:
        # it writes durations once it has data, and ends no line with a newline
        tmux("pipe-pane", "stdbuf -o0 tr '\\033' '\\n' | grep -q 'µs' && tmux -L pillion-pictures wait-for -S shown")
        tmux("send-keys", f"{BINARY} top --admin http://{dashboard}", "Enter")
        subprocess.run(["timeout", "60", "tmux", "-L", "pillion-pictures", "wait-for", "shown"], check=True)
        return tmux("capture-pane", "-p").rstrip()
    finally:
        tmux("kill-server")


def write_terminal(text):
    page = HERE.parent / "live.md"
    before, _, rest = page.read_text().partition(MARKERS[0])
    after = rest.partition(MARKERS[1])[2]
    text = "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
    page.write_text(f"{before}{MARKERS[0]}```\n{text}\n```\n{MARKERS[1]}{after}")
    print("live.md: the screen of pillion top")


def main():
    with demo() as (outbound, dashboard):
        asyncio.run(take(outbound, dashboard))
        write_terminal(terminal(dashboard))
    with failing() as dashboard:
        asyncio.run(take_failure(dashboard))


main()
