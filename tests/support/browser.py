"""Opens the dashboard in a headless Chromium and prints what a reader finds there, as one line of JSON.

    browser.py URL SERVICE REQUESTS     waits until the row of SERVICE (outbound/orders) counts REQUESTS

It talks to the browser by its DevTools protocol. It looks at the page as a person at a desk does, then with the keyboard
alone, then in the dark on a phone. At last it runs page_stories.js, whose events are made up.
"""
import asyncio
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
from devtools import chromium, tab  # noqa: E402

URL, SERVICE, REQUESTS = sys.argv[1], sys.argv[2], int(sys.argv[3])
ROW = f"document.querySelector('tr[data-service=\"{SERVICE}\"]')"
STORIES = Path(__file__).with_name("page_stories.js").read_text()
# Tabs until the first failure has the focus; there are fewer elements than that.
MOST_TABS = 100


async def page(browser, width, scheme):
    await browser.look_like(width, scheme)
    await browser.open(URL)
    await browser.until(f"{ROW} && Number({ROW}.dataset.requests) >= {REQUESTS}")


async def look(browser):
    await page(browser, 1100, "light")
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
            " !(element.ariaHidden || element.textContent.trim() || element.getAttribute('aria-label') || element.getAttribute('aria-labelledby'))).length"
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
    await page(browser, 390, "dark")
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
    with chromium() as port:
        async with tab(port) as browser:
            print(json.dumps(await look(browser)), flush=True)


asyncio.run(main())
