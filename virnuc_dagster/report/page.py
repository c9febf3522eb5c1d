"""The batch report as one self-contained HTML page: no network, and nothing in it that varies between calls.

Data goes in as base64 (`pack`), text as escaped text, and a content security policy admits exactly the page's own
script and style, by their digests. What the page shows without scripts, and on paper, is written here; the rest is
drawn by `static/*.js`.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from virnuc_dagster.classify.consensus import Reason, Verdict
from virnuc_dagster.embedding.registry import ENCODERS
from virnuc_dagster.models.spec import Thresholds
from virnuc_dagster.report import paths, rows, tables
from virnuc_dagster.report.embedding_map import EmbeddingMap
from virnuc_dagster.report.pack import pack

#: Rows of the table that paper and script-less browsers show.
STILL_ROWS = 100
_SCRIPTS = ("data.js", "table.js", "trace.js", "figures.js", "main.js")
_MAP_STEPS = 4095

_CITATION = f"""
<p>The method: Li J. et al., <em>VirNucPro: an identifier for the identification of viral short sequences using
six-frame translation and large language models</em>, Briefings in Bioinformatics 2025, 26(3), bbaf224.</p>
<p>Its encoders: {"; ".join(encoder.citation for encoder in ENCODERS if encoder.citation)}.</p>
<p>Name the model bundle, its digests and the version of virnuc-dagster given above.</p>"""


@dataclass
class PageContent:
    """The parts that a page is made of.

    Attributes:
        summary: Counts as `BatchCounts.summary` makes them.
        rows: The sequences to show.
        bins: Verdict -> number of sequences in each bin of the score, of all sequences.
        warnings: Sentences on coverage and quality.
        facts: Name -> text of what decided the numbers.
        window_length: Bases a window.
        thresholds: Of the bundle.
        roll_up: How window scores become a sequence's score, in words.
        embeddings: The map, or None if there is nothing to map.
        verdicts: Of every sequence, in input order.
    """

    summary: Mapping[str, Any]
    rows: rows.PageRows
    bins: Mapping[Verdict, Sequence[int]]
    warnings: Sequence[str]
    facts: Mapping[str, str]
    window_length: int
    thresholds: Thresholds
    roll_up: str
    embeddings: EmbeddingMap | None = None
    verdicts: Sequence[Verdict] = ()


@cache
def _static(*names: str) -> str:
    folder = files("virnuc_dagster.report") / "static"
    return "\n".join((folder / name).read_text("utf-8") for name in names)


def _digest(text: str) -> str:
    """Name exactly this script or style as a source of the content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def page(content: PageContent) -> bytes:
    """Make the page; equal contents give equal bytes."""
    style = "\n" + _static("report.css")
    script = '\n(() => {\n"use strict";\n' + _static(*_SCRIPTS) + "\n})();\n"
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
    shown = content.rows.rows()
    values = {
        "policy": policy,
        "style": style,
        "script": script,
        "batch": escape(content.summary["batch"]),
        "headline": escape(_headline(content.summary)),
        "alerts": _alerts(content),
        "cards": "".join(_cards(content.summary)),
        "options": "".join(f"<option>{escape(name)}</option>" for name in content.summary["verdicts"]),
        "rows": "".join(_still_row(row) for row in content.rows.best(STILL_ROWS)),
        "still": escape(_still_note(content.rows)),
        "map": _map_figure(content.embeddings),
        "explanation": _explanation(content, shown),
        "facts": "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in content.facts.items()),
        "provenance": paths.PROVENANCE,
        "run": paths.RUN,
        "citation": _CITATION,
        "sequences_data": pack(_data_facts(content, shown), rows.row_columns(shown) | _map_columns(content)),
        "windows_data": pack({}, rows.window_columns(shown)),
    }
    return Template(_static("report.html")).substitute(values).encode()


def _data_facts(content: PageContent, shown: Sequence[rows.Row]) -> dict[str, Any]:
    return {
        "ids": [row.id for row in shown],
        "verdicts": [verdict.value for verdict in rows.VERDICTS],
        "order": [verdict.value for verdict in rows.RANKED],
        "sources": rows.SOURCES,
        "reasons": [words(reason) for reason in rows.REASONS],
        "bins": {verdict.value: list(counts) for verdict, counts in content.bins.items()},
        "thresholds": {"viral": content.thresholds.viral, "non_viral": content.thresholds.non_viral},
        "explained": content.embeddings.explained if content.embeddings else (0, 0),
        "fallback": bool(content.summary["fallback_windows"]),
        "uncounted": bool(content.summary["uncounted_windows"]),
        "incomplete": not content.summary["complete"],
    }


def _map_columns(content: PageContent) -> dict[str, npt.NDArray[Any]]:
    """Round places to a 4,096th of the map: finer than a screen, coarser than any noise of the arithmetic."""
    found = content.embeddings
    empty = np.empty(0)
    x, y, sequence, virus = (found.x, found.y, found.sequence, found.virus) if found else (empty,) * 4
    return {
        "mapX": _steps(x),
        "mapY": _steps(y),
        "mapSequence": sequence.astype(np.uint32),
        "mapVirus": np.round(virus * 10_000).astype(np.uint16),
        "mapVerdict": np.array([rows.VERDICTS.index(content.verdicts[n]) for n in sequence.astype(int)], np.uint8),
    }


def _steps(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    if not len(values) or values.max() == values.min():
        return np.full(len(values), _MAP_STEPS // 2, np.uint16)
    return np.round((values - values.min()) / (values.max() - values.min()) * _MAP_STEPS).astype(np.uint16)


def words(reason: Reason) -> str:
    """Write a reason as it is read: `too little known`."""
    return reason.value.replace("_", " ")


def _headline(summary: Mapping[str, Any]) -> str:
    viral = summary["verdicts"][Verdict.VIRAL.value]
    return f"{viral:,} of {summary['sequences']:,} {_plural('sequence', summary['sequences'])} called viral."


def _plural(noun: str, count: int) -> str:
    return f"{noun} is" if count == 1 else f"{noun}s are"


def _alerts(content: PageContent) -> str:
    summary, parts = content.summary, []
    if not summary["complete"]:
        missing = summary["frames"] - summary["scored_frames"]
        parts.append(
            f"<p class=stop><strong>This report is incomplete:</strong> {missing:,} of {summary['frames']:,} frames"
            " have no result yet. Sequences that need them are marked incomplete. Run the same command again to"
            " finish.</p>"
        )
    if content.warnings:
        items = "".join(f"<li>{escape(text)}</li>" for text in content.warnings)
        parts.append(f"<ul class=warnings>{items}</ul>")
    return "\n".join(parts)


def _cards(summary: Mapping[str, Any]) -> Iterable[str]:
    yield f"<li><b>{summary['sequences']:,}</b>sequences</li>"
    reasons = {Reason(name): count for name, count in summary["uncertain_reasons"].items() if count}
    for verdict in rows.RANKED:
        if verdict.value in summary["verdicts"]:
            why = [f"{count:,} {words(reason)}" for reason, count in reasons.items() if verdict is Verdict.UNCERTAIN]
            yield (
                f'<li class="verdict {verdict.value.replace(" ", "-")}"><b>{summary["verdicts"][verdict.value]:,}</b>'
                f"{escape(verdict.value)}{''.join(f'<small>{escape(text)}</small>' for text in why)}</li>"
            )
    yield f"<li><b>{summary['bases']:,}</b>bases</li>"
    if summary["unknown_bases"]:
        yield f"<li><b>{escape(unknown(summary['unknown_bases'], summary['bases']))}</b>of the bases unknown</li>"
    yield f"<li><b>{summary['scored_windows']:,} / {summary['windows']:,}</b>windows with open frames</li>"
    if summary["fallback_windows"]:
        yield f"<li><b>{summary['fallback_windows']:,}</b>windows scored by fallback</li>"
    yield f"<li><b>{summary['frames']:,}</b>open frames</li>"


def unknown(bases: int, of: int) -> str:
    """Write a share of unknown bases, empty for none; what is there is never shown as none."""
    if not bases:
        return ""
    return f"{bases / of:.1%}" if bases >= of / 1_000 else "<0.1%"


def _still_row(row: rows.Row) -> str:
    chip = row.verdict.value.replace(" ", "-")
    why = f"<small>{escape(words(row.reason))}</small>" if row.reason else ""
    return (
        f"<tr><td class=n>{row.number + 1:,}</td><td class=id>{escape(row.id)}</td><td class=n>{row.length:,}</td>"
        f"<td class=n>{escape(unknown(row.unknown, row.length))}</td>"
        f"<td class=n>{row.scored + row.fallback:,} / {row.windows:,}</td><td class=n>{tables.score(row.score)}</td>"
        f'<td><span class="chip {chip}">{escape(row.verdict.value)}</span>{why}</td></tr>'
    )


def _still_note(page_rows: rows.PageRows) -> str:
    if page_rows.total <= STILL_ROWS:
        return "All sequences: viral first, then by score."
    return (
        f"The first {STILL_ROWS:,} of {page_rows.total:,} sequences, viral first, then by score; all are in"
        f" {paths.SEQUENCES}."
    )


def _map_figure(found: EmbeddingMap | None) -> str:
    if found is None:
        return ""
    sampled = f"{len(found.x):,} of {found.frames:,}, spread evenly" if found.frames > len(found.x) else "all of them"
    return (
        "<figure><figcaption>Map of the embeddings</figcaption>"
        f"<p class=note>A point is an open frame ({sampled}); close points look alike to the"
        ' encoders.</p><p class="legend" id="map-legend"></p><canvas id="map" role="img"'
        ' aria-label="The frames on the two main axes of their embeddings"></canvas></figure>'
    )


def _explanation(content: PageContent, shown: Sequence[rows.Row]) -> str:
    viral, non_viral = content.thresholds.viral, content.thresholds.non_viral
    parts = [
        f"The score of a sequence runs from 0 (other) to 1 (virus). Roll-up of the window scores: {content.roll_up}"
        f" From {viral} on a sequence is called viral, up to {non_viral} non-viral, and uncertain in between or where"
        " too few windows could be scored.",
        f"The method needs a window (at most {content.window_length:,} bases) with a reading frame without a stop"
        " codon. “No open frame” means that nothing was scored: nothing is said about that sequence. “Too short” means"
        " fewer than three bases. Every input sequence is listed.",
        f"A window counts only if at least {content.thresholds.known_share:.0%} of the codons behind its score are"
        " known, that is made of A, C, G and T (of its six-letter words, where the fallback scored it): N hides stop"
        " codons, so the less is known, the more frames look open. “Too little known” means that too few windows count"
        f" for that reason, or that fewer than {content.thresholds.known_bases:,} bases of a sequence are known.",
        "Where P(virus) and P(others) are both high, frames of one window disagree. Probabilities are rounded to four"
        f" decimals here; {paths.WINDOWS} has them in full.",
        *_limits(content, shown),
        "The map shows the two directions in which the embeddings vary most (PCA, both encoders weighted equally). It"
        " is a picture, not evidence.",
    ]
    return "".join(f"<p>{escape(part)}</p>" for part in parts)


def _limits(content: PageContent, shown: Sequence[rows.Row]) -> Iterable[str]:
    """Say what the page does not hold."""
    if content.rows.total > len(shown):
        yield (
            f"This page lists {len(shown):,} of {content.rows.total:,} sequences, viral first, then by score; the"
            f" others are in {paths.SEQUENCES}. Counts and the score distribution are of all of them."
        )
    if untraced := sum(row.trace is None for row in shown):
        yield (
            f"The windows of {untraced:,} sequences are not in this page (it holds {content.rows.windows_max:,},"
            f" viral first, then by score, and none of sequences with more than {content.rows.trace_max:,}); they are"
            f" in {paths.WINDOWS}."
        )
    if any(row.id.endswith("…") and len(row.id) == rows.ID_MAX for row in shown):
        yield f"Ids longer than {rows.ID_MAX} letters are cut here, ending in “…”."
