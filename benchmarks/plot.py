"""Draws what host_save.py measured: the README's picture.

    python benchmarks/plot.py benchmarks/results/host_save.json docs/host_save.svg

Needs matplotlib (the extra `bench`).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

LIBRARIES = {"mindckpt": "#1f6f8b", "MindSpore": "#c9c9c9"}
RAW_LOOPS = {"save": "raw write", "load": "raw pread, parallel"}


def speeds(scenario: dict[str, Any]) -> dict[str, float]:
    """GB/s of every entry, by its median time."""
    return {
        result["name"]: scenario["nbytes"] / 1e9 / statistics.median(result["seconds"])
        for result in scenario["results"]
    }


def draw(axes: Any, measured: dict[str, float], action: str) -> None:
    """Bars of one action for each mode, and the raw loop as a line."""
    own = f"mindckpt {action} "
    modes = [name.removeprefix(own) for name in measured if name.startswith(own)]
    present = [name for name in LIBRARIES if any(key.startswith(f"{name} ") for key in measured)]
    for shift, library in enumerate(present):
        colour = LIBRARIES[library]
        bars = [
            (mode, measured[f"{library} {action} {mode}"])
            for mode in modes
            if f"{library} {action} {mode}" in measured
        ]
        places = [modes.index(mode) + 0.4 * (shift - (len(present) - 1) / 2) for mode, _ in bars]
        drawn = axes.bar(
            places, [speed for _, speed in bars], width=0.4, color=colour, label=library
        )
        axes.bar_label(drawn, fmt="%.2f", fontsize=7)
    limit = measured[RAW_LOOPS[action]]
    axes.axhline(limit, color="#b03a2e", linewidth=1, linestyle="--", label=RAW_LOOPS[action])
    axes.set_xticks(range(len(modes)), modes, fontsize=8)
    axes.set_ylabel("GB/s")
    axes.set_title(action, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def main() -> None:
    """Reads the JSON, writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="what `host_save.py --json` wrote")
    parser.add_argument("picture", type=Path, help="an SVG or PNG file to write")
    options = parser.parse_args()
    report = json.loads(options.json.read_text())
    title, scenario = next(iter(report["scenarios"].items()))
    plt.rcParams["svg.hashsalt"] = "mindckpt"  # the same picture from the same figures
    figure, (save, load) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained")
    measured = speeds(scenario)
    draw(save, measured, "save")
    draw(load, measured, "load")
    figure.suptitle(
        f"{title}; medians of {report['rounds']} rounds\n{report['machine']}", fontsize=8
    )
    metadata = {"Date": None} if options.picture.suffix == ".svg" else None
    figure.savefig(options.picture, metadata=metadata)


if __name__ == "__main__":
    main()
