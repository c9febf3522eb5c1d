"""The page as bytes: what it holds, what it must not, its limits. How it behaves: tests/ui/test_report_page.py."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from kits.report import content, data_of, many, page, scored

from virnuc_dagster.report.rows import ID_MAX, NO_PROBABILITY, NO_SCORE, PageRows

HOSTILE = [
    "</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a'b&c<d", "<!--", "${batch}", "$style",
    "\u202etxt.exe", "é中😀", "x" * 5000,
]  # fmt: skip
THREE = [
    scored("first", 1200, [("frame", 0.9), None, ("fallback", 0.8)]),
    scored("none", 900, [None, None]),
    scored("short", 2, []),
]


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_equal_contents_give_equal_bytes():
    assert page(content(THREE, mapped=20)) == page(content(THREE, mapped=20))
    assert page(content(THREE)) != page(content(THREE[:2]))


def test_the_data_are_the_scores():
    html = page(content(THREE))
    table, windows = data_of(html, "sequences-data"), data_of(html, "windows-data")

    assert table["ids"] == ["first", "none", "short"]
    assert [table["verdicts"][code] for code in table["verdict"]] == ["viral", "no open frame", "too short"]
    assert table["score"].tolist() == [850_000, NO_SCORE, NO_SCORE]
    assert (table["scored"].tolist(), table["fallback"].tolist()) == ([1, 0, 0], [1, 0, 0])
    assert table["trace"].tolist() == [0, 3, 5]
    assert np.cumsum(windows["step"][:3]).tolist() == [0, 399, 798]  # method.md §1 for 1,200 bases
    assert windows["span"][:3].tolist() == [500, 500, 402]
    assert windows["virus"].tolist() == [9000, NO_PROBABILITY, 8000, NO_PROBABILITY, NO_PROBABILITY]
    assert windows["others"].tolist() == [1000, NO_PROBABILITY, 2000, NO_PROBABILITY, NO_PROBABILITY]
    assert [table["sources"][code] for code in windows["source"]] == ["frame", "none", "fallback", "none", "none"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ids_stay_text(name):
    expected = {tag for tag, _ in Tags(page(content(THREE)).decode()).found}
    html = page(content([scored(name, 600, [("frame", 0.9), None])], about=name))
    tags = Tags(html.decode()).found

    assert {tag for tag, _ in tags} <= expected
    assert not [attributes for _, attributes in tags if any(key.startswith("on") for key in attributes)]
    assert data_of(html, "sequences-data")["ids"] == [name if len(name) <= ID_MAX else name[: ID_MAX - 1] + "…"]
    assert ("Ids longer than" in html.decode()) == (len(name) > ID_MAX)


def test_only_its_own_script_and_style_may_run():
    html = page(content(THREE)).decode()
    policy = dict(part.strip().split(" ", 1) for part in Tags(html).found[3][1]["content"].split(";"))
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL).group(1)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)

    for name, text in (("script-src", script), ("style-src", style)):
        assert policy[name] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert not [tag for tag, attributes in Tags(html).found if "style" in attributes]


def test_nothing_is_fetched():
    links = [a[key] for _, a in Tags(page(content(THREE)).decode()).found for key in ("src", "href") if key in a]
    assert links == ["data:,", "provenance.json", "run.json"]
    assert "@import" not in page(content(THREE)).decode()


def test_without_scripts_the_page_still_shows_summary_and_table():
    html = page(content([*THREE, *many(300)])).decode()
    still = html[html.index('class="still"') : html.index("</section>", html.index('class="still"'))]
    assert still.count("<tr>") == 101
    assert "The first 100 of 303 sequences" in still
    assert "<noscript>" in html


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"rows_max": 50}, "This page lists 50 of 400 sequences"),
        ({"windows_max": 100}, "sequences are not in this page (it holds 100"),
        ({"trace_max": 3}, "none of sequences with more than 3)"),
    ],
)
def test_what_does_not_fit_is_said(limits, said):
    html = page(content(many(400), rows=PageRows(**limits)))
    assert said in html.decode()
    if "windows_max" in limits:
        assert 0 < len(data_of(html, "windows-data")["step"]) <= 100


def test_below_the_limits_nothing_is_said():
    html = page(content(many(400))).decode()
    assert "This page lists" not in html
    assert "not in this page (" not in html.split("<noscript>")[0]


def test_pruning_on_the_way_keeps_what_sorting_all_would():
    whole, sequences = PageRows(), list(many(500))
    few = PageRows(rows_max=40, windows_max=60)
    for sequence in sequences:
        whole.add(sequence)
        few.add(sequence)

    kept = few.rows()

    assert [row.number for row in kept] == sorted(row.number for row in whole.best(40))
    assert sum(row.windows for row in kept if row.trace) <= 60
    ranked = sorted(kept, key=lambda row: row.rank)
    assert [row.trace is not None for row in ranked] == sorted((row.trace is not None for row in ranked), reverse=True)


def test_a_hundred_thousand_sequences_stay_small():
    html = page(content(many(1_000), mapped=4_000))
    assert len(html) * 100 < 20e6  # 100,000 of these: the bench measures them, this keeps the order of magnitude
