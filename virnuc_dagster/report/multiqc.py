"""MultiQC custom content: a bar of verdicts and columns of the general statistics, one sample a batch.

Format: MultiQC documentation, "Custom content", files named `*_mqc.json`. Several batches under one folder end up in
one plot, because the ids are equal.
"""

from collections.abc import Mapping
from typing import Any

from virnuc_dagster.classify.consensus import Verdict

_COLOURS = {
    Verdict.VIRAL: "#c04a00",
    Verdict.UNCERTAIN: "#8a6d00",
    Verdict.NON_VIRAL: "#0063a6",
    Verdict.NO_OPEN_FRAME: "#6c7580",
    Verdict.TOO_SHORT: "#b0b7be",
    Verdict.INCOMPLETE: "#9a2468",
}


def verdicts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Make the plot of sequences by verdict, a bar a batch."""
    return {
        "id": "virnuc_verdicts",
        "section_name": "VirNucPro",
        "description": "Input sequences by verdict. “No open frame” is no evidence for or against a virus.",
        "plot_type": "bargraph",
        "pconfig": {"id": "virnuc_verdicts_plot", "title": "VirNucPro: sequences by verdict", "ylab": "sequences"},
        "categories": {v.value: {"name": v.value, "color": _COLOURS[v]} for v in _COLOURS},
        "data": {summary["batch"]: {v.value: summary["verdicts"].get(v.value, 0) for v in _COLOURS}},
    }


def columns(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Make the columns of MultiQC's table of general statistics."""
    windows = summary["windows"]
    scored = 100 * (summary["scored_windows"] + summary["fallback_windows"]) / windows if windows else 0.0
    unknown = 100 * summary["unknown_bases"] / summary["bases"] if summary["bases"] else 0.0
    count = {"format": "{:,d}", "min": 0}
    return {
        "id": "virnuc_general",
        "plot_type": "generalstats",
        "headers": {
            "viral": {"title": "Viral", "description": "Sequences called viral", "scale": "Oranges", **count},
            "sequences": {"title": "Sequences", "description": "Input sequences", "scale": "Greys", **count},
            "scored_percent": {
                "title": "% scored", "description": "Windows that could be scored", "suffix": "%", "min": 0,
                "max": 100, "format": "{:,.1f}", "scale": "Blues",
            },
            "unknown_percent": {
                "title": "% unknown", "description": "Bases other than A, C, G, T", "suffix": "%", "min": 0,
                "max": 100, "format": "{:,.1f}", "scale": "Reds",
            },
        },
        "data": {
            summary["batch"]: {
                "viral": summary["verdicts"][Verdict.VIRAL.value],
                "sequences": summary["sequences"],
                "scored_percent": round(scored, 1),
                "unknown_percent": round(unknown, 1),
            }
        },
    }  # fmt: skip
