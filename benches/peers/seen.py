"""From the cells of benches/resilience.py to what stands in docs/reliability.md. Pure, but for `write`."""
import sys
from collections import Counter
from statistics import median

from .replicas import FAULTS

MARKERS = ("<!-- resilience -->", "<!-- end of resilience -->")
BUSY_MS = 8  # p99 without a proxy: a quiet machine adds little to the 5 ms of a replica
OURS, DIRECT = "Pillion", "no proxy"
TIMES = {"p50_ms": "p50 ms", "p99_ms": "p99 ms"}


def cells(run, peer, fault, phase="measured"):
    return [cell[phase] for cell in run["cells"] if (cell["peer"], cell["fault"]) == (peer, fault)]


def faults(run):
    return [fault for fault in FAULTS if cells(run, OURS, fault)]


def failed(run, peer, fault, phase="measured"):
    """How many requests failed, and of how many, over all rounds."""
    found = cells(run, peer, fault, phase)
    requests = sum(one["requests"] for one in found)
    return requests - sum(one["succeeded"] for one in found), requests


def times(run, peer, fault, key):
    return [one[key] for one in cells(run, peer, fault) if one[key] is not None]


def success(run, peer, fault, phase="measured"):
    bad, requests = failed(run, peer, fault, phase)
    if not requests:
        return "–"
    # Rounded down: what is written as 100 % is all of them.
    return f"{(requests - bad) * 10_000 // requests / 100:.2f} % ({bad:,})" if bad else "100 %"


def span(run, peer, fault, key):
    values = times(run, peer, fault, key)
    return f"{median(values):.1f} ({min(values):.1f}–{max(values):.1f})" if values else "–"


def rows(run, peers):
    for fault in faults(run):
        yield FAULTS[fault], "success", [success(run, peer, fault) for peer in peers]
        for key, title in TIMES.items():
            yield "", title, [span(run, peer, fault, key) for peer in peers]
        yield "", "success while warming up", [success(run, peer, fault, "warm_up") for peer in peers]


def table(run):
    peers = list(run["versions"])
    head = ["| one replica of three | at the caller | " + " | ".join(peers) + " |", "|---" * (len(peers) + 2) + "|"]
    return "\n".join(head + [f"| {where} | {what} | " + " | ".join(got) + " |" for where, what, got in rows(run, peers)])


def ahead(run):
    """Where a peer does better: fewer failed requests, or times that are all below ours."""
    lines = []
    for peer in [one for one in run["versions"] if one != OURS]:
        for fault in faults(run):
            if failed(run, peer, fault)[0] < failed(run, OURS, fault)[0]:
                lines.append(f"- {peer}, {FAULTS[fault]}: success {success(run, peer, fault)} to {success(run, OURS, fault)}.")
            for key, title in TIMES.items():
                theirs, ours = times(run, peer, fault, key), times(run, OURS, fault, key)
                if theirs and ours and max(theirs) < min(ours):
                    lines.append(f"- {peer}, {FAULTS[fault]}: {title} {span(run, peer, fault, key)} to "
                                 f"{span(run, OURS, fault, key)}.")
    return "\n".join(lines) or "- Nowhere."


def causes(run):
    """What the failures of the measured phase were."""
    lines = []
    for peer in run["versions"]:
        for fault in faults(run):
            why = sum((Counter(one["failures"]) for one in cells(run, peer, fault)), Counter())
            if why:
                kinds = ", ".join(f"{count:,} × {kind}" for kind, count in why.most_common())
                lines.append(f"- {peer}, {FAULTS[fault]}: {kinds}.")
    return "\n".join(lines) or "- None."


def about(run):
    versions = ", ".join(f"{peer} {version}" for peer, version in run["versions"].items())
    return (f"{run['made']}, {run['machine']}. {versions}. {run['rate']} requests per second, {run['rounds']} rounds of "
            f"{run['seconds']:g} s, each after {run['warm_up']:g} s of warm-up.")


def without(run):
    if not times(run, DIRECT, "none", "p99_ms"):
        return ""
    p50, p99 = (span(run, DIRECT, "none", key) for key in TIMES)
    is_busy = median(times(run, DIRECT, "none", "p99_ms")) > BUSY_MS
    busy = " The machine had other work meanwhile: these are trial figures." if is_busy else ""
    return f"Without a proxy, all well: p50 {p50} ms, p99 {p99} ms.{busy}\n\n"


def section(run):
    return (f"{about(run)}\n\nSuccess is of all rounds, with the number of failed requests in brackets. p50 and p99 are of "
            f"successful requests: median over the rounds (least–most).\n\n{table(run)}\n\n{without(run)}"
            "**Where a peer is ahead** (fewer failures, or times that are all below Pillion's):\n\n"
            f"{ahead(run)}\n\n**Failures after the warm-up:**\n\n{causes(run)}")


def write(page, run):
    """Puts the section between the markers."""
    text = page.read_text()
    if any(marker not in text for marker in MARKERS):
        sys.exit(f"{page} has no place for the table: it needs the lines {MARKERS[0]} and {MARKERS[1]}")
    before, after = text.partition(MARKERS[0])[0], text.partition(MARKERS[1])[2]
    page.write_text(f"{before}{MARKERS[0]}\n{section(run)}\n{MARKERS[1]}{after}")
