"""The batch report as one self-contained HTML page: no scripts, no network, nothing that varies between calls."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from virnuc_dagster.classify.consensus import SequenceScore, Verdict
from virnuc_dagster.report import paths, tables

ROWS_MAX = 2_000

#: Colour-blind safe (Okabe and Ito), dark enough for white text.
_COLOURS = {
    Verdict.VIRAL: "#b34700",
    Verdict.NON_VIRAL: "#0063a6",
    Verdict.UNCERTAIN: "#7a5c00",
    Verdict.NO_OPEN_FRAME: "#5f6670",
    Verdict.TOO_SHORT: "#5f6670",
    Verdict.INCOMPLETE: "#8a1c5b",
}
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1d2329}
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.15rem;margin-top:2rem}
.cards{display:flex;flex-wrap:wrap;gap:.75rem;padding:0;list-style:none}
.cards li{border:1px solid #d5dae0;border-radius:.5rem;padding:.5rem 1rem;min-width:7rem}
.cards b{display:block;font-size:1.4rem;font-variant-numeric:tabular-nums}
.warning{background:#fdeaf4;border-left:.3rem solid #8a1c5b;padding:.75rem 1rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e4e8ec}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.id{overflow-wrap:anywhere}
.chip{color:#fff;border-radius:1rem;padding:.1rem .6rem;font-size:.85rem;white-space:nowrap}
.bar{display:inline-block;width:6rem;height:.6rem;background:#e4e8ec;border-radius:.3rem;margin-right:.5rem}
.bar i{display:block;height:100%;border-radius:.3rem;background:#3d4652}
"""


def page(summary: Mapping[str, Any], sequences: Sequence[SequenceScore], facts: Mapping[str, str]) -> bytes:
    """The page of one batch.

    Args:
        summary: Counts as `tables.summary` makes them.
        sequences: All sequences with their verdicts; the table shows the highest scores first, `ROWS_MAX` at most.
        facts: Name -> text of what decided the numbers (bundle, precision, digests).
    """
    body = [
        f"<h1>{escape(summary['batch'])}</h1>",
        f"<p>{_headline(summary)}</p>",
        _warning(summary),
        _cards(summary),
        _table(sequences),
        _explanation(),
        "<h2>What decided these numbers</h2><div class=wide><table>",
        *(f"<tr><th>{escape(name)}</th><td class=id>{escape(text)}</td></tr>" for name, text in facts.items()),
        "</table></div>",
    ]
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{escape(summary['batch'])} · VirNucPro</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    ).encode()


def _headline(summary: Mapping[str, Any]) -> str:
    viral = summary["verdicts"][Verdict.VIRAL.value]
    return f"<strong>{viral:,} of {summary['sequences']:,} sequences are called viral.</strong>"


def _warning(summary: Mapping[str, Any]) -> str:
    if summary["complete"]:
        return ""
    missing = summary["frames"] - summary["scored_frames"]
    return (
        f"<p class=warning><strong>This report is incomplete:</strong> {missing:,} of {summary['frames']:,} frames have"
        " no result yet. Sequences that need them are marked incomplete. Run the same command again to finish.</p>"
    )


def _cards(summary: Mapping[str, Any]) -> str:
    counts = {
        **summary["verdicts"],
        **{name: summary[name] for name in ("bases", "windows", "scored_windows", "frames")},
    }
    items = "".join(f"<li><b>{count:,}</b>{escape(name.replace('_', ' '))}</li>" for name, count in counts.items())
    return f"<ul class=cards>{items}</ul>"


def _table(sequences: Sequence[SequenceScore]) -> str:
    ranked = sorted(sequences, key=lambda s: -1.0 if s.score is None else s.score, reverse=True)[:ROWS_MAX]
    note = (
        f"<p>The {ROWS_MAX:,} highest scores of {len(sequences):,}; all are in {paths.SEQUENCES}.</p>"
        if len(sequences) > ROWS_MAX
        else ""
    )
    rows = "".join(
        f"<tr><td class=id>{escape(s.id)}</td><td class=n>{s.length:,}</td>"
        f"<td class=n>{s.scored_windows:,} / {len(s.windows):,}</td><td>{_bar(s.score)}{tables.score(s.score)}</td>"
        f'<td><span class=chip style="background:{_COLOURS[s.verdict]}">{s.verdict.value}</span></td></tr>'
        for s in ranked
    )
    return (
        f"<h2>Sequences</h2>{note}<div class=wide><table><thead><tr><th>sequence</th><th class=n>bases</th>"
        "<th class=n>scored / windows</th><th>score</th><th>verdict</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _bar(score: float | None) -> str:
    return "" if score is None else f'<span class=bar><i style="width:{score * 100:.0f}%"></i></span>'


def _explanation() -> str:
    return (
        "<h2>How to read this</h2><p>The score runs from 0 (other) to 1 (virus); it is the mean over the windows of a"
        " sequence that hold a reading frame without a stop codon. <em>no open frame</em> means that no window held"
        " one, so nothing could be scored; <em>too short</em> means fewer than three bases. Every input sequence is"
        " listed. Method: Li et al. 2025, VirNucPro, Briefings in Bioinformatics 26(3), bbaf224.</p>"
    )
