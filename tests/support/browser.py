"""Opens the dashboard in a headless Chromium and prints what a reader finds there, as one line of JSON.

    browser.py URL SERVICE REQUESTS     waits until the row of SERVICE (outbound/orders) counts REQUESTS

It talks to the browser by its DevTools protocol. It looks at the page as a person at a desk does, then with the keyboard
alone, then in the dark on a phone. At last it runs page_stories.js, whose events are made up.
"""
import asyncio
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import websockets

URL, SERVICE, REQUESTS = sys.argv[1], sys.argv[2], int(sys.argv[3])
ROW = f"document.querySelector('tr[data-service=\"{SERVICE}\"]')"
STORIES = Path(__file__).with_name("page_stories.js").read_text()
FAULTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
# Tabs until the first failure has the focus; there are fewer elements than that.
MOST_TABS = 100


class Browser:
    def __init__(self, socket):
        self.socket, self.number, self.faults, self.is_loaded = socket, 0, [], False

    async def call(self, method, **parameters):
        self.number += 1
        await self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            told = await self.told()
            if told.get("id") == self.number:
                return told["result"]

    async def told(self):
        """The next message of the browser."""
        told = json.loads(await self.socket.recv())
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
            code = {"Tab": 9, "Enter": 13}[key]
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)

    async def page(self, width, scheme):
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.is_loaded = False
        await self.call("Page.navigate", url=URL)
        while not self.is_loaded:
            await self.told()
        await self.until(f"{ROW} && Number({ROW}.dataset.requests) >= {REQUESTS}")


async def look(browser):
    for domain in ("Runtime", "Log", "Page"):
        await browser.call(domain + ".enable")
    await browser.page(1100, "light")
    found = {
        "row": await browser.value(f"({{ ...{ROW}.dataset }})"),
        "state": await browser.value("document.getElementById('state').textContent"),
        "failures": await browser.value("document.querySelectorAll('#failures details').length"),
        "map": await browser.value("document.getElementById('map').getAttribute('aria-label')"),
        "heat": await browser.value("document.getElementById('heat').getAttribute('aria-label')"),
        "light": await browser.value("getComputedStyle(document.body).backgroundColor"),
        # what a screen reader has no name for
        "unnamed": await browser.value(
            "[...document.querySelectorAll('a, button, select, table, svg, canvas, section')].filter((element) =>"
            " !(element.textContent.trim() || element.getAttribute('aria-label') || element.getAttribute('aria-labelledby'))).length"
        ),
        "foreign": await browser.value("performance.getEntriesByType('resource').filter((entry) => !entry.name.startsWith(location.origin)).length"),
    }
    for _ in range(MOST_TABS):
        if await browser.value("document.activeElement.tagName") == "SUMMARY":
            break
        await browser.press("Tab")
    await browser.press("Enter", "\r")
    await browser.until("document.querySelector('#failures details[open] .stage')")
    found["opened"] = await browser.value("document.querySelector('#failures details[open]').textContent")
    await browser.page(390, "dark")
    found["dark"] = await browser.value("getComputedStyle(document.body).backgroundColor")
    found["overflow"] = await browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    found["faults"] = browser.faults
    found["stories"] = await stories(browser)
    return found


async def stories(browser):
    await browser.call("Page.addScriptToEvaluateOnNewDocument", source=STORIES)
    await browser.call("Page.navigate", url=URL)
    await browser.value("new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))")
    return await browser.value("stories()")


async def main():
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--user-data-dir=" + profile, "about:blank"]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            # the browser tells its port on standard error, once it listens
            for line in browser.stderr:
                if "DevTools listening on" in line:
                    port = line.split(":")[-1].split("/")[0]
                    break
            else:
                raise RuntimeError("the browser did not start")
            address = page_of(port)
            async with websockets.connect(address, max_size=None) as socket:
                print(json.dumps(await look(Browser(socket))), flush=True)
        finally:
            browser.kill()
            browser.wait()


def page_of(port):
    """The address of the browser's only tab."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
        tabs = json.load(answer)
    return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")


asyncio.run(main())
