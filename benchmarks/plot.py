"""Draws what the benchmarks measured: the README's picture.

    python benchmarks/plot.py benchmarks/results/epyc-2core docs/speed.svg

Needs matplotlib (the extra `bench`).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

OURS = "#1f6f8b"
THEIRS = {
    "MindSpore": "#d98e04",
    "safetensors": "#9aa5ab",
    "torch.save": "#b8c0c4",
    "torch DCP": "#d5dadd",
}
LIMIT = "#b03a2e"
DURABLE_WORDS = ("fdatasync", "sync_file_range", "O_DIRECT")
MODES = ("plain", "CRC", "AES-256-GCM", "AES-256-CBC", "SM4-CBC")


def speeds(folder: Path, benchmark: str) -> tuple[dict[str, float], dict[str, Any]]:
    """GB/s of every entry of the large payload, by its median time, and the report."""
    report = json.loads((folder / f"{benchmark}.json").read_text())
    scenario = next(iter(report["scenarios"].values()))
    return {
        result["name"]: scenario["nbytes"] / 1e9 / statistics.median(result["seconds"])
        for result in scenario["results"]
    }, report


def bars(
    axes: Any, title: str, groups: dict[str, dict[str, float]], colours: dict[str, str]
) -> None:
    """A group of bars for each mode, one a library, with their values."""
    shown = [mode for mode in groups if groups[mode]]
    libraries = [name for name in colours if any(name in groups[mode] for mode in shown)]
    width = 0.8 / len(libraries)
    for index, library in enumerate(libraries):
        places = [
            (place + width * (index - (len(libraries) - 1) / 2), groups[mode][library])
            for place, mode in enumerate(shown)
            if library in groups[mode]
        ]
        drawn = axes.bar(*zip(*places, strict=True), width, color=colours[library], label=library)
        axes.bar_label(drawn, fmt="%.2g", fontsize=6)
    axes.set_xticks(range(len(shown)), shown, fontsize=7)
    axes.set_ylabel("GB/s", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title(title, loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def own(folder: Path, axes: Any, action: str) -> str:
    """Our saves or loads, and the raw loops that they are held to."""
    measured, report = speeds(folder, f"host_{action}")
    prefix = f"mindckpt {action} "
    ours = {name.removeprefix(prefix): v for name, v in measured.items() if name.startswith(prefix)}
    groups = {
        mode: {
            label: ours[key]
            for label, key in (("page cache", mode), ("durable", f"{mode}, durable"))
            if key in ours
        }
        for mode in MODES
    }
    bars(axes, f"mindckpt, {action}", groups, {"page cache": OURS, "durable": "#7fb3c4"})
    for is_durable, style in ((False, "--"), (True, ":")):
        loops = [
            speed
            for name, speed in measured.items()
            if name.startswith("raw") and is_durable == any(word in name for word in DURABLE_WORDS)
        ]
        if loops:
            label = f"best raw {'durable ' if is_durable else ''}loop"
            axes.axhline(max(loops), color=LIMIT, linewidth=1, linestyle=style, label=label)
    axes.legend(frameon=False, fontsize=6)
    return str(report["machine"])


def beside_peers(folder: Path, axes: Any, action: str) -> None:
    """Ours beside the others, in the rounds of peers.py."""
    measured, _ = speeds(folder, "peers")
    colours = {"mindckpt": OURS, **THEIRS}
    groups = {
        mode: {
            library: measured[f"{library} {action} {mode}"]
            for library in colours
            if f"{library} {action} {mode}" in measured
        }
        for mode in MODES
    }
    bars(axes, f"beside others, {action}", groups, colours)
    axes.legend(frameon=False, fontsize=6)


def main() -> None:
    """Reads the JSON, writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="a folder of `--results`")
    parser.add_argument("picture", type=Path, help="an SVG or PNG file to write")
    options = parser.parse_args()
    plt.rcParams["svg.hashsalt"] = "mindckpt"  # the same picture from the same figures
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
    for column, action in enumerate(("save", "load")):
        machine = own(options.results, axes[0][column], action)
        beside_peers(options.results, axes[1][column], action)
    figure.suptitle(machine, fontsize=7)
    metadata = {"Date": None} if options.picture.suffix == ".svg" else None
    figure.savefig(options.picture, metadata=metadata)


if __name__ == "__main__":
    main()
