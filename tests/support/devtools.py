"""Drives a headless Chromium by its DevTools protocol: starts it, opens tabs, and waits for what happens in them."""
import asyncio
import contextlib
import json
import subprocess
import tempfile
import urllib.request

import websockets

FAULTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
KEYS = {"Tab": 9, "Enter": 13}
PATIENCE = 120  # seconds, of one wait


class Tab:
    def __init__(self, socket):
        self.socket, self.number, self.faults, self.is_loaded = socket, 0, [], False

    async def call(self, method, **parameters):
        self.number += 1
        await self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            told = await self.told()
            if told.get("id") == self.number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                return told["result"]

    async def told(self):
        """The next message of the browser."""
        told = json.loads(await asyncio.wait_for(self.socket.recv(), PATIENCE))
        if told.get("method") in FAULTS:
            self.faults.append(told["params"])
        self.is_loaded |= told.get("method") == "Page.loadEventFired"
        return told

    async def value(self, expression):
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["text"] + ": " + expression)
        return result["result"].get("value")

    async def until(self, expression):
        """The page tells when it changes; nothing is polled."""
        await self.value(
            "new Promise((done) => { const look = () => (" + expression + ") ? done(true) : 0;"
            " new MutationObserver(look).observe(document.body, { childList: true, subtree: true, attributes: true }); look(); })"
        )

    async def press(self, key, text=None):
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            code = KEYS[key]
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)

    async def look_like(self, width, scheme, height=900, scale=1):
        """A screen of this size, with a reader who prefers this scheme of colours."""
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 600)
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def open(self, url):
        self.is_loaded = False
        await self.call("Page.navigate", url=url)
        while not self.is_loaded:
            await self.told()


@contextlib.contextmanager
def chromium():
    """Gives the port of a browser that runs until the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0",
                   "--user-data-dir=" + profile, "about:blank"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            yield port_of(browser)
        finally:
            browser.kill()
            browser.wait()


def port_of(browser):
    """The browser tells its port on standard error, once it listens."""
    for line in browser.stderr:
        if "DevTools listening on" in line:
            return line.split(":")[-1].split("/")[0]
    raise RuntimeError("the browser did not start")


def asked(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
        return json.load(answer)


@contextlib.asynccontextmanager
async def tab(port):
    """A tab with a profile of its own, as another browser has it: one profile opens at most six connections to a server."""
    async with connected(asked(port, "/json/version")["webSocketDebuggerUrl"]) as browser:
        profile = (await browser.call("Target.createBrowserContext"))["browserContextId"]
        target = await browser.call("Target.createTarget", url="about:blank", browserContextId=profile)
        async with connected(f"ws://127.0.0.1:{port}/devtools/page/{target['targetId']}") as opened:
            for domain in ("Runtime", "Log", "Page"):
                await opened.call(domain + ".enable")
            yield opened


@contextlib.asynccontextmanager
async def connected(address):
    async with websockets.connect(address, max_size=None) as socket:
        yield Tab(socket)
