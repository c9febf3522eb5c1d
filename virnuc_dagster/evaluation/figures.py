"""Figures of an evaluation as SVG: ROC curves, reliability, accuracy by category. Equal figures give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_SECTIONS = {
    "open_windows": ("windows with an open frame", "#0063a6"),
    "no_frame_windows": ("windows without", "#7a5c00"),
    "all_windows": ("all windows", "#5f6670"),
    "sequences": ("sequences", "#b34700"),
}
_SIDE, _LEFT, _TOP = 320, 56, 34
_ROW = 22
_NAMES = 130


#: Names of the figures.
FILES = ("roc.svg", "reliability.svg", "categories.svg")


def evaluation_files(found: Mapping[str, Any]) -> dict[str, bytes]:
    """Draw what `evaluation.results.figures` found: file name -> SVG."""
    drawn = (roc_svg(found), reliability_svg(found), categories_svg(found))
    return {name: text.encode() for name, text in zip(FILES, drawn, strict=True)}


def roc_svg(found: Mapping[str, Any]) -> str:
    """Draw true against false positive rate, a curve a section; undefined curves are left out, and said to be."""
    curves = [
        (f"{title}: {_area(found[name])}", colour, [tuple(point) for point in found[name]["roc"]])
        for name, (title, colour) in _SECTIONS.items()
    ]
    return _square("ROC", "false positive rate", "true positive rate", curves, dots=False)


def reliability_svg(found: Mapping[str, Any]) -> str:
    """Draw the share of viruses against the mean score of ten bins: on the diagonal, a score is a probability."""
    curves = [
        (
            f"{title}: ECE {_number(found[name]['ece'])}",
            colour,
            [(bin_["score"], bin_["virus"]) for bin_ in found[name]["reliability"]],
        )
        for name, (title, colour) in _SECTIONS.items()
    ]
    return _square("Reliability", "mean score of a bin", "share of viruses", curves, dots=True)


def categories_svg(found: Mapping[str, Any]) -> str:
    """Draw the accuracy of each category with its 95 % interval, over all windows and over sequences."""
    parts, top = [], 0
    for name in ("all_windows", "sequences"):
        title, colour = _SECTIONS[name]
        parts.append(_text(_NAMES, top + 20, f"Accuracy by category: {title}", weight="bold"))
        top += 30
        for category, entry in found[name]["by_category"].items():
            parts.append(_bar(category, entry, top, colour))
            top += _ROW
        top += 12
    return _svg(_NAMES + _SIDE + 220, top, parts)


def _bar(category: str, entry: Mapping[str, Any], top: int, colour: str) -> str:
    middle = top + _ROW // 2
    parts = [_text(_NAMES - 8, middle + 4, category, anchor="end")]
    if (accuracy := entry["accuracy"]) is None:
        return parts[0] + _text(_NAMES, middle + 4, "no score")
    parts.append(
        f'<rect x="{_NAMES}" y="{top + 4}" width="{accuracy * _SIDE:.1f}" height="{_ROW - 8}" fill="{colour}"/>'
    )
    if interval := entry["intervals"]["accuracy"]:
        low, high = (_NAMES + value * _SIDE for value in interval)
        parts.append(_line([(low, middle), (high, middle)], "#000", 2))
    note = f"{accuracy:.2f}  n {entry['n']:,}, coverage {_number(entry['coverage'])}"
    parts.append(_text(_NAMES + _SIDE + 6, middle + 4, note))
    return "".join(parts)


def _square(
    title: str, across: str, up: str, curves: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], *, dots: bool
) -> str:
    """Draw curves of (0..1, 0..1) points over the diagonal, with a legend below."""

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x * _SIDE, _TOP + (1 - y) * _SIDE

    parts = [
        _text(_LEFT, 20, title, weight="bold"),
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#9aa2ab"/>',
        _line([at(0, 0), at(1, 1)], "#c8ced5", 1),
        _text(_LEFT + _SIDE / 2, _TOP + _SIDE + 34, across, anchor="middle"),
        f'<g transform="rotate(-90 16 {_TOP + _SIDE / 2})">'
        + _text(16, _TOP + _SIDE / 2, up, anchor="middle")
        + "</g>",
    ]
    for tick in (0, 0.5, 1):
        parts.append(_text(at(tick, 0)[0], _TOP + _SIDE + 16, f"{tick:g}", anchor="middle"))
        parts.append(_text(_LEFT - 6, at(0, tick)[1] + 4, f"{tick:g}", anchor="end"))
    for number, (legend, colour, points) in enumerate(curves):
        placed = [at(x, y) for x, y in points]
        parts.append(_line(placed, colour, 2))
        if dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(_text(_LEFT, _TOP + _SIDE + 56 + 18 * number, legend, colour=colour))
    return _svg(_LEFT + _SIDE + 60, _TOP + _SIDE + 62 + 18 * len(curves), parts)


def _area(entry: Mapping[str, Any]) -> str:
    floor = entry.get("floor")
    return f"area {_number(entry['auroc'])}" + (f" (6-mer floor {_number(floor['auroc'])})" if floor else "")


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _line(points: Sequence[tuple[float, float]], colour: str, width: int) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", colour: str = "#000") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="system-ui,sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
