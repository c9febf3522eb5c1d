"""Training curves as one SVG: loss on `fit` and on `dev` by step, a panel for each curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _MARGIN = 360, 240, 42
_LINES = (("train_loss", "#7a7a7a", "fit"), ("dev_loss", "#1b6ca8", "dev"))


def curves_svg(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Draw the curves.

    Args:
        curves: Name -> entries with `step`, `train_loss` and `dev_loss`.

    Returns:
        The SVG as text; the same text for the same curves. The loss on `fit` holds helper losses too, so each line has
        a scale of its own, written at its ends.
    """
    panels = [_panel(name, entries, number) for number, (name, entries) in enumerate(curves.items())]
    size = f'width="{_WIDTH * max(1, len(panels))}" height="{_HEIGHT}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">\n'
        + '<rect width="100%" height="100%" fill="white"/>\n'
        + "".join(panels)
        + "</svg>\n"
    )


def _panel(name: str, entries: Sequence[Mapping[str, float]], number: int) -> str:
    left, top = number * _WIDTH + _MARGIN, _MARGIN
    width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    last = max((entry["step"] for entry in entries), default=1)
    parts = [f'<text x="{left}" y="20" font-weight="bold">{escape(name)}</text>']
    parts.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#ccc"/>')
    parts.append(f'<text x="{left + width}" y="{_HEIGHT - 24}" text-anchor="end">step {last:,.0f}</text>')
    for row, (key, colour, label) in enumerate(_LINES):
        values = [entry[key] for entry in entries]
        low, high = min(values, default=0.0), max(values, default=1.0)
        span = (high - low) or 1.0
        points = " ".join(
            f"{left + width * entry['step'] / last:.1f},{top + height * (high - entry[key]) / span:.1f}"
            for entry in entries
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        legend = f"loss on {label}: {high:.3f} (top) to {low:.3f} (bottom)"
        parts.append(f'<text x="{left}" y="{_HEIGHT - 24 + 13 * row}" fill="{colour}">{legend}</text>')
    return "\n".join(parts) + "\n"
