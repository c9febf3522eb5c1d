"""The model card of a trained bundle, made from its own description: no figure in it is typed by hand."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from virnuc_dagster.models.spec import BundleSpec

_RATES = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc", "average_precision", "brier", "ece")
_SECTIONS = {
    "open_windows": "windows with an open frame",
    "no_frame_windows": "windows without one (fallback)",
    "all_windows": "all windows",
    "sequences": "sequences",
}


def model_card(spec: BundleSpec, facts: Mapping[str, Any], notes: str = "") -> str:
    """Write the card.

    Args:
        spec: The bundle's description.
        facts: The bundle's `training.json`.
        notes: What only its makers know (data sources, intended use), Markdown, put first.

    Returns:
        Markdown.
    """
    parts = [f"# Model card: `{spec.name}`", spec.description, notes.strip(), "## Data", *_data(facts)]
    parts += [*_head(facts), "## Verdicts", *_verdicts(spec, facts)]
    for name, title in (("val", "Figures on `val`, scored once"), ("dev", "Figures on `dev`, by which was chosen")):
        if name in facts:
            parts += [f"## {title}", *_figures(facts[name])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data(facts: Mapping[str, Any]) -> Iterable[str]:
    counts = facts["data"]
    kinds = sorted({kind for part in counts.values() for kind in part["by_kind"]})
    yield (
        "Split by group; no group is in two parts. `fit`: learnt from. `dev`: early stopping, calibration, roll-up, "
        "thresholds. `val`: scored once. Each record and its part: `records.tsv` in the bundle."
    )
    rows = [[kind, *(f"{part['by_kind'].get(kind, 0):,}" for part in counts.values())] for kind in kinds]
    for name in ("records", "groups", "bases"):
        rows.append([f"all {name}", *(f"{part[name]:,}" for part in counts.values())])
    yield _table(["records", *(f"`{name}`" for name in counts)], rows)


def _head(facts: Mapping[str, Any]) -> Iterable[str]:
    factors = ", ".join(f"`{name}` {factor:.3f}" for name, factor in facts.get("factors", {}).items())
    if factors:
        yield f"What the log odds of each encoder's own head count for in the common head: {factors}."


def _verdicts(spec: BundleSpec, facts: Mapping[str, Any]) -> Iterable[str]:
    limits = spec.thresholds
    yield (
        f"Roll-up `{spec.roll_up}`; viral from {limits.viral}, non-viral up to {limits.non_viral}, uncertain between, "
        f"or with less than {limits.scored_share:.0%} of the windows scored or {limits.known_bases:,} bases known; a "
        "window counts from "
        f"{limits.known_share:.0%} known codons (by the fallback: six-letter words) on. All roll-ups that were tried, "
        "on `dev`, classes and categories balanced (`max` and `evidence` grow with the length and are not chosen):"
    )
    rows = [
        [f"`{name}`", *(f"{tried[key]:.3f}" for key in ("auroc", "viral", "non_viral", "right", "wrong"))]
        for name, tried in facts["roll_ups"].items()
    ]
    yield _table(["roll-up", "AUROC", "viral from", "non-viral to", "right verdicts", "wrong verdicts"], rows)


def _figures(part: Mapping[str, Any]) -> Iterable[str]:
    sections = {name: part[name] for name in _SECTIONS if name in part}
    titles = [_SECTIONS[name] for name in sections]
    rows = [["n", *(f"{figures['n']:,}" for figures in sections.values())]]
    rows.append(["coverage", *(_number(figures["coverage"]) for figures in sections.values())])
    rows += [[rate.replace("_", " "), *(_value(figures, rate) for figures in sections.values())] for rate in _RATES]
    if all("floor" in figures for figures in sections.values()):
        rows += [
            [f"{rate.replace('_', ' ')} of the 6-mer floor", *(_number(s["floor"][rate]) for s in sections.values())]
            for rate in ("auroc", "accuracy", "balanced_accuracy")
        ]
    yield _table(["", *titles], rows)
    yield "Share of right calls at a score of 0.5, by category (95 % interval; number):"
    categories = sorted({name for figures in sections.values() for name in figures["by_category"]})
    rows = [[name, *(_share(figures["by_category"].get(name)) for figures in sections.values())] for name in categories]
    yield _table(["category", *titles], rows)
    calls = part["sequences"]["verdicts"]
    yield (
        f"Verdicts: {_number(calls['called'])} of the sequences are called viral or non-viral, "
        f"{_number(calls['right'])} of these calls are right. By category:"
    )
    names = ["viral", "uncertain", "non-viral", "no open frame"]
    rows = [[name, *(f"{counts[v]:,}" for v in names)] for name, counts in calls["by_category"].items()]
    yield _table(["category", *names], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _value(figures: Mapping[str, Any], rate: str) -> str:
    interval = figures["intervals"][rate]
    return _number(figures[rate]) + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")


def _share(figures: Mapping[str, Any] | None) -> str:
    return f"{_value(figures, 'accuracy')}; {figures['n']:,}" if figures and figures["n"] else "-"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rows = [[html.escape(cell, quote=False).replace("|", r"\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
