"""The report page in a real browser: nothing on the console, and search, sort, filter, keyboard and figures at work."""

import pytest
from kits.browser import chromium, needs_chromium, open_report
from kits.report import content, many, page, scored

from virnuc_dagster.classify.consensus import Source, WindowScore, score_sequence

ROWS = "[...document.querySelectorAll('#grid tbody tr[data-row]')]"


@pytest.fixture(scope="module")
def browser():
    needs_chromium()
    with chromium() as window:
        window.console_lines = []
        window.on("console", lambda line: window.console_lines.append(line.text))
        window.on("pageerror", lambda error: window.console_lines.append(str(error)))
        yield window


def opened(browser, path, sequences, **facts):
    path.write_bytes(page(content(sequences, **facts)))
    browser.console_lines.clear()
    open_report(browser, path)


def shown(browser) -> list[str]:
    return browser.evaluate(f"{ROWS}.map((row) => row.cells[1].textContent)")


def heading(browser, key: str):
    return browser.locator(f"th[data-key={key}]")


def test_search_filter_and_sort(browser, tmp_path):
    names = [("Beta_1", 0.2), ("alpha_2", 0.9), ("Alpha_10", 0.5), ("gamma", None), ("alpha_3", 0.8)]
    sequences = [scored(name, 500, [value and ("frame", value)]) for name, value in names]
    opened(browser, tmp_path / "r.html", sequences, mapped=5)

    assert shown(browser) == ["alpha_2", "alpha_3", "Alpha_10", "Beta_1", "gamma"]
    browser.fill("#search", "ALPHA")
    assert shown(browser) == ["alpha_2", "alpha_3", "Alpha_10"]
    assert browser.inner_text("#count") == "3 of 5 sequences"
    browser.select_option("#verdict", "viral")
    assert shown(browser) == ["alpha_2", "alpha_3"]
    browser.select_option("#verdict", "")
    browser.fill("#search", "")
    heading(browser, "id").get_by_role("button").click()
    assert shown(browser) == sorted(name for name, _ in names)
    heading(browser, "score").get_by_role("button").click()
    assert shown(browser) == ["alpha_2", "alpha_3", "Alpha_10", "Beta_1", "gamma"]
    heading(browser, "score").get_by_role("button").click()
    assert shown(browser)[0] == "gamma"
    assert heading(browser, "score").get_attribute("aria-sort") == "ascending"
    assert browser.console_lines == []


def test_every_window_is_drawn_at_its_place_and_gaps_are_left(browser, tmp_path):
    windows = [("frame", 0.9), None, ("fallback", 0.8), ("frame", 0.7)]
    opened(browser, tmp_path / "r.html", [scored("s", 2000, windows)])
    browser.wait_for_selector("#trace-scroll svg path", state="attached")

    lines = browser.evaluate(
        "[...document.querySelectorAll('#trace-scroll svg > path')].map((p) => [p.getAttribute('stroke'),"
        " p.getAttribute('stroke-dasharray'), p.getAttribute('d').split('M').length - 1,"
        " p.getBBox().x, p.getBBox().width])"
    )
    drawn = [line for line in lines if line[0] and line[1] is None and line[2] == 2]
    dashed = [line for line in lines if line[1]]
    width = browser.evaluate("document.querySelector('#trace-scroll svg').width.baseVal.value") - 60

    assert [line[2] for line in dashed] == [1, 1]  # P(virus) and P(others) of the one window by fallback
    for _, _, _, x, wide in dashed:
        assert (x - 44) / width == pytest.approx(0.5, abs=0.01)
        assert wide / width == pytest.approx(0.25, abs=0.01)
    assert len(drawn) == 2  # two windows from frames, both scores
    gaps = [line for line in lines if line[0] is None]
    assert sum(line[2] for line in gaps) == 3  # the strip below: two from frames, one hatched gap


def test_why_a_sequence_is_uncertain_is_in_its_row_and_windows_that_do_not_count_are_hatched(browser, tmp_path):
    windows = [WindowScore(f"masked_chunk_{n}", 499 * n, 499 * n + 500, 1, 0.1, 0.9, Source.FRAME, 0.2) for n in (0, 1)]
    masked = score_sequence("masked", 999, windows, viral=0.69, non_viral=0.33, unknown_bases=800)
    opened(browser, tmp_path / "r.html", [masked, scored("known", 600, [("frame", 0.5), None])])
    browser.wait_for_selector("#trace-scroll svg path", state="attached")

    cells = browser.evaluate(f"{ROWS}.map((row) => [row.cells[3].textContent, row.cells[6].innerText.split('\\n')])")
    heights = browser.evaluate(f"{ROWS}.map((row) => row.getBoundingClientRect().height)")
    browser.evaluate(f"{ROWS}.find((row) => row.cells[1].textContent === 'masked').click()")
    browser.wait_for_function("document.querySelector('#trace h3').textContent === 'masked'")
    fills = browser.evaluate(
        "[...document.querySelectorAll('#trace-scroll svg > path')].map((p) => p.getAttribute('fill'))"
    )

    assert cells == [["", ["uncertain", "between thresholds"]], ["80.1%", ["uncertain", "too little known"]]]
    assert heights == [34, 34], "the table counts on it"
    assert fills == ["url(#unknown)"], "no score is drawn"
    assert browser.console_lines == []


def test_the_keyboard_moves_through_the_table(browser, tmp_path):
    opened(browser, tmp_path / "r.html", many(400))
    browser.wait_for_selector("#trace-scroll svg")
    title = browser.inner_text("#trace h3")
    browser.evaluate("document.querySelector('#grid tbody tr[tabindex=\"0\"]').focus()")
    for _ in range(30):
        browser.keyboard.press("ArrowDown")

    selected = browser.locator("#grid tr[aria-selected=true]")
    assert selected.get_attribute("aria-rowindex") == "32"
    name = selected.locator("td").nth(1).inner_text()
    browser.wait_for_function("name => document.querySelector('#trace h3').textContent === name", arg=name)
    assert name != title


@pytest.mark.parametrize("id_", ["</script><script>document.title='owned'</script>", "<img src=x onerror=1>", "\"x'&"])
def test_a_hostile_id_is_shown_and_does_nothing(browser, tmp_path, id_):
    opened(browser, tmp_path / "r.html", [scored(id_, 600, [("frame", 0.9), None])], mapped=3)
    assert shown(browser) == [id_]
    assert "owned" not in browser.title()
    assert browser.console_lines == []


def test_injected_script_does_not_run(browser, tmp_path):
    opened(browser, tmp_path / "r.html", [scored("a", 500, [None])])
    # A script tag of the page's own DOM: `evaluate` itself is the debugger's and stands above the policy.
    browser.evaluate(
        "() => { window.refused = new Set();"
        "document.addEventListener('securitypolicyviolation', (event) => window.refused.add(event.effectiveDirective));"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 1\">');"
        "const s = document.createElement('script'); s.textContent = 'window.owned = 1'; document.body.append(s) }"
    )
    browser.wait_for_function("window.refused.has('script-src-attr') && window.refused.has('script-src-elem')")
    assert browser.evaluate("window.owned") is None
    assert any("Content Security Policy" in line for line in browser.console_lines)


@pytest.mark.parametrize("sequences", [[], [scored("only", 2, [])], [scored("none", 900, [None, None])]])
def test_small_and_empty_batches_are_readable(browser, tmp_path, sequences):
    opened(browser, tmp_path / "r.html", sequences)
    assert len(shown(browser)) == len(sequences)
    assert browser.console_lines == []


@pytest.mark.parametrize("number", [2_000, pytest.param(20_000, marks=pytest.mark.full)])
def test_many_sequences_are_searched_at_once(browser, tmp_path, number):
    opened(browser, tmp_path / "r.html", many(number), mapped=500)
    drawn = len(shown(browser))
    found = browser.evaluate(
        f"() => {{ const e = document.getElementById('search'); e.value = 'node_{number // 10 - 1}';"
        f"e.dispatchEvent(new Event('input')); return {ROWS}.length }}"
    )
    assert drawn < 200, "rows that nobody sees are not drawn"
    assert found == 11, "within the event, without another turn"
    assert all(name.startswith(f"NODE_{number // 10 - 1}") for name in shown(browser))
    assert browser.inner_text("#count") == f"11 of {number:,} sequences"
