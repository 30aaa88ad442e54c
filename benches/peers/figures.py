"""Computes medians, ratios with their intervals, and tables in Markdown from the cells of a run. It has no side effects."""
import random
from dataclasses import dataclass
from statistics import median

OURS = "Pillion"
RESAMPLES = 4000


@dataclass(frozen=True)
class Measure:
    key: str
    title: str
    digits: int
    is_better_low: bool = True


MEASURES = [
    Measure("cpu_us", "CPU µs per request", 1),
    Measure("p50_ms", "p50 ms", 2),
    Measure("p99_ms", "p99 ms", 2),
    Measure("rps", "requests/s", 0, is_better_low=False),
    Measure("idle_bytes_caller", "bytes, caller's", 0),
    Measure("idle_bytes_application", "bytes, application's", 0),
    Measure("rss_mb_caller", "RSS MB, caller's", 1),
    Measure("rss_mb_application", "RSS MB, application's", 1),
]


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def interval(values):
    """Bootstrap 95 % interval of the median."""
    chance = random.Random(7)
    medians = [median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return quantile(medians, 0.025), quantile(medians, 0.975)


class Results:
    """A run as `benches/side-by-side` writes it."""

    def __init__(self, run):
        self.run = run
        self.peers = list(run["versions"])
        self.titles = run["titles"]

    def values(self, peer, scenario, measure):
        """Returns the values by round."""
        cells = [cell for cell in self.run["cells"] if (cell["peer"], cell["scenario"]) == (peer, scenario)]
        return {cell["round"]: cell["figures"][measure.key] for cell in cells if measure.key in cell["figures"]}

    def ratio(self, peer, scenario, measure):
        """Returns the median and the interval of Pillion's value divided by the peer's in each round, or None."""
        ours, theirs = self.values(OURS, scenario, measure), self.values(peer, scenario, measure)
        ratios = [ours[one] / theirs[one] for one in ours if theirs.get(one)]
        return (median(ratios), *interval(ratios)) if ratios and peer != OURS else None

    def rows(self):
        """Yields each measure with each scenario that has it."""
        return [(measure, scenario) for measure in MEASURES for scenario in self.titles
                if any(self.values(peer, scenario, measure) for peer in self.peers)]


def number(value, measure):
    return f"{value:,.{measure.digits}f}"


def cell(results, peer, scenario, measure):
    values = list(results.values(peer, scenario, measure).values())
    if not values:
        return "–"
    text, ratio = number(median(values), measure), results.ratio(peer, scenario, measure)
    if ratio:
        return f"{text} · {ratio[0]:.2f} ({ratio[1]:.2f}–{ratio[2]:.2f})"
    return f"{text} ({number(min(values), measure)}–{number(max(values), measure)})" if peer == OURS else text


def table(results):
    """Formats Pillion's value as median (least–most), a peer's as median · Pillion/peer (95 % interval)."""
    lines = ["| measure | where | " + " | ".join(results.peers) + " |", "|---" * (len(results.peers) + 2) + "|"]
    for measure, scenario in results.rows():
        cells = [cell(results, peer, scenario, measure) for peer in results.peers]
        lines.append(f"| {measure.title} | {results.titles[scenario]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def is_ahead(ratio, measure):
    """Whether the peer is better throughout the interval."""
    return ratio[1] > 1 if measure.is_better_low else ratio[2] < 1


def ahead(results):
    """Lists, for each peer and measure, the scenarios in which the peer is better throughout the interval."""
    lines = []
    for peer in results.peers:
        for measure in MEASURES:
            ratios = {title: results.ratio(peer, scenario, measure) for scenario, title in results.titles.items()}
            where = [f"{title} {ratio[0]:.2f} ({ratio[1]:.2f}–{ratio[2]:.2f})"
                     for title, ratio in ratios.items() if ratio and is_ahead(ratio, measure)]
            lines += [f"- {peer}, {measure.title}: {'; '.join(where)}."] if where else []
    return "\n".join(lines) or "- Nowhere."


def about(results):
    run = results.run
    versions = ", ".join(f"{peer} {version}" for peer, version in run["versions"].items())
    return (f"{run['made']}, {run['machine']}. {run['rounds']} interleaved rounds of {run['seconds']} s, one worker each. "
            f"{versions}.")


PLOTS = """![CPU per request by scenario and peer](plots/cpu.svg)

![Latency from p50 to p99 by scenario and peer](plots/latency.svg)"""


def section(results):
    """Returns the text between the markers of docs/performance.md."""
    return (f"{about(results)}\n\nPillion: median (least–most). A peer: its median · Pillion's figure over the peer's, "
            f"median over rounds (95 % interval).\n\n{table(results)}\n\n{PLOTS}\n\n### Where a peer is ahead\n\n"
            "With the whole interval of the ratio, Pillion's figure over the peer's:\n\n" + ahead(results))
