"""`python plot.py RESULT.json PICTURE.png`, in the benchmark's own environment."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any


def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    """One panel for each row that has peers, on a logarithmic scale."""
    from matplotlib import pyplot as plt  # type: ignore[import-not-found]  # not in `.venv`

    compared = [row for row in rows if row["peers"]]
    figure, panels = plt.subplots(len(compared), 1, figsize=(8, 1.7 * len(compared)))
    for row, panel in zip(compared, panels, strict=True):
        values = {
            name: statistics.median(reading["value"] for reading in readings)
            for name, readings in row["figures"].items()
            if readings and not any(reading["failed"] for reading in readings)
        }
        names = list(values)[::-1]
        bars = panel.barh(names, [values[name] for name in names], color="#8aa")
        if "orchestrator" in names:
            bars[names.index("orchestrator")].set_color("#c52")
        panel.bar_label(bars, fmt="%.3g", padding=3, fontsize=7)
        panel.set_xscale("log")
        better = "less" if "CPU" in row["what"] else "more"
        panel.set_title(f"{row['what']} ({better} is better)", fontsize=8, loc="left")
        panel.tick_params(labelsize=7)
        panel.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"], Path(sys.argv[2]))
