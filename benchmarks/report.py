"""Results as a table and as plots. By itself: ``python benchmarks/report.py results.json`` writes both anew."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from alternate import Spread, spread

PEERS = ("ddp, default buckets", "ddp, tuned buckets")
MOTETS = ("motet", "motet, tuned buckets")
Row = dict[str, Any]


def best(row: Row, names: tuple[str, ...]) -> list[float]:
    """Return the seconds of the fastest, by median, of several methods."""
    present = [row["seconds"][name] for name in names if name in row["seconds"]]
    return min(present, key=lambda seconds: spread(seconds).median)


def ratio(slow: list[float], fast: list[float]) -> Spread:
    """Return how many times as long ``slow`` took, repeat by repeat."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def bound_seconds(row: Row, with_kernel: bool = True) -> list[float]:
    """Return the bound in each repeat; at will without what the kernel does for the network on the workers' cores."""
    return [
        b["units"] * max(b["compute"] - (0 if with_kernel else b["kernel"]), b["network"], b["longest_job"])
        for b in row["bounds"]
    ]


def figures(row: Row) -> dict[str, Spread]:
    """Return what a row says: speed-ups, what the solo costs would allow, efficiency.

    The physical limits, as parts of Motet's time: what the loops alone compute, and the bytes at the link's rate. What
    is between them and the bound is gloo's and the kernel's.
    """
    peer, motet, bound = best(row, PEERS), best(row, MOTETS), bound_seconds(row)
    found = {"over DDP": ratio(peer, motet), "allowed": ratio(peer, bound), "efficiency": ratio(bound, motet)}
    found["without the kernel"] = ratio(bound_seconds(row, with_kernel=False), motet)
    found["loops alone"] = ratio([b["units"] * b["loops"] for b in row["bounds"]], motet)
    if row["rate"]:
        sent = row["sent_mb"]["motet"] * 8e6 / int(row["rate"].removesuffix("bit"))
        found["bytes over rate"] = ratio([sent] * len(motet), motet)
    others = (("over side by side", "side by side"), ("over no overlap", "no overlap"), ("over lock step", "lock step"))
    return found | {key: ratio(row["seconds"][name], motet) for key, name in others if name in row["seconds"]}


COLUMNS = (
    *("over DDP", "allowed", "efficiency", "without the kernel"),
    *("over side by side", "over no overlap", "over lock step"),
    *("loops alone", "bytes over rate"),
)


def table(results: dict[str, Any]) -> str:
    """Return a table in Markdown, medians with quartiles."""
    on = results["machine"]
    lines = [
        f"{on['date']}, {on['cpu']}, {on['cores']} cores, load {on['load']:.1f} at the beginning, torch {on['torch']}, "
        f"commit {on['commit']}. Links: {on['links']}.",
        "",
        "| set | workers | link | rate | Σ(c+x) / Σn, s a unit | " + " | ".join(COLUMNS) + " | sent, MB |",
        "|" + "---|" * (len(COLUMNS) + 6),
    ]
    for one in results["sets"]:
        workers = f"{one['workers']}{'' if one['core_each'] else ' (cores shared)'}"
        for row in one["links"]:
            found = figures(row)
            shown = [str(found[column]) if column in found else "" for column in COLUMNS]
            compute, network = (spread([b[key] for b in row["bounds"]]).median for key in ("compute", "network"))
            rate = f"{int(row['rate'].removesuffix('bit')) / 1e6:.0f} Mbit/s" if row["rate"] else "no limit"
            start = [one["set"], workers, row["link"], rate, f"{compute:.3f} / {network:.3f}"]
            lines.append("| " + " | ".join([*start, *shown, f"{row['sent_mb']['motet']:.0f}"]) + " |")
    if any(one["memory_mb"] for one in results["sets"]):
        lines += [
            "",
            "| set | workers | one after another | side by side | Motet | Motet / side by side |",
            "|" + "---|" * 6,
        ]
    for one in results["sets"]:
        if peaks := one["memory_mb"]:
            shown = " | ".join(f"{peaks[m]:.0f} MB" for m in ("ddp", "side by side", "motet"))
            share = peaks["motet"] / peaks["side by side"]
            lines.append(f"| {one['set']} | {one['workers']} | {shown} | {share:.2f} |")
    return "\n".join(lines) + "\n"


def write(results: dict[str, Any], folder: Path) -> None:
    """Write ``table.md`` and the plots."""
    (folder / "table.md").write_text(table(results), encoding="utf-8")
    for num_workers in {one["workers"] for one in results["sets"]}:
        sets = [one for one in results["sets"] if one["workers"] == num_workers]
        _plot_times(sets, folder / f"times-{num_workers}-workers.svg")
        _plot_efficiency(sets, folder / f"efficiency-{num_workers}-workers.svg")


METHODS = {
    "no overlap": "#b0b0b0",
    "ddp, default buckets": "#9ecae1",
    "ddp, tuned buckets": "#4292c6",
    "side by side": "#fdae6b",
    "lock step": "#fdd835",
    "motet": "#238b45",
}


def _plot_times(sets: list[dict[str, Any]], path: Path) -> None:
    """Draw the time of every method, over that of plain DDP at its best, where the link is balanced."""
    from matplotlib import pyplot as plt

    rows = [(one["set"], row) for one in sets for row in one["links"] if row["link"] in ("balanced", "unshaped")]
    rows = [(name, row) for name, row in rows if row["link"] == "balanced"] or rows
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(1.6 + 1.7 * len(rows), 3.6), layout="constrained")
    width = 0.8 / len(METHODS)
    for number, (method, color) in enumerate(METHODS.items()):
        points = []
        for place, (_, row) in enumerate(rows):
            seconds = best(row, MOTETS) if method == "motet" else row["seconds"].get(method)
            if seconds:
                points.append((place + (number - (len(METHODS) - 1) / 2) * width, ratio(seconds, best(row, PEERS))))
        heights = [s.median for _, s in points]
        errors = [[s.median - s.low for _, s in points], [s.high - s.median for _, s in points]]
        label = {"motet": "Motet"}.get(method, method.replace("ddp", "DDP"))
        axes.bar([x for x, _ in points], heights, width, yerr=errors, color=color, label=label, error_kw={"lw": 0.8})
    for place, (_, row) in enumerate(rows):
        least = ratio(bound_seconds(row), best(row, PEERS)).median
        axes.hlines(least, place - 0.42, place + 0.42, colors="black", linestyles="dotted", lw=1)
    axes.set_xticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylabel("time, over DDP one after another")
    axes.set_title(f"{sets[0]['workers']} workers, link balanced with computing; dotted: the bound", fontsize=10)
    axes.legend(fontsize=8, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def _plot_efficiency(sets: list[dict[str, Any]], path: Path) -> None:
    """Draw how much of what the solo costs allow is reached, by set and link."""
    from matplotlib import pyplot as plt

    links = [row["link"] for row in sets[0]["links"]]
    figure, axes = plt.subplots(figsize=(1.6 + 1.5 * len(sets), 3.2), layout="constrained")
    width = 0.8 / len(links)
    for number, link in enumerate(links):
        found = [figures(row)["efficiency"] for one in sets for row in one["links"] if row["link"] == link]
        places = [place + (number - (len(links) - 1) / 2) * width for place in range(len(found))]
        errors = [[s.median - s.low for s in found], [s.high - s.median for s in found]]
        axes.bar(places, [s.median for s in found], width, yerr=errors, label=link, error_kw={"lw": 0.8})
    axes.axhline(1.0, color="black", lw=0.8, linestyle="dotted")
    axes.set_xticks(range(len(sets)), [one["set"] for one in sets])
    axes.set_ylabel("bound / measured time")
    axes.set_title(f"Efficiency, {sets[0]['workers']} workers", fontsize=10)
    axes.legend(fontsize=8, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    """Write table and plots beside a file of results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    path = parser.parse_args().results
    results = json.loads(path.read_text())
    write(results, path.parent)
    print(table(results))


if __name__ == "__main__":
    main()
