"""The report page in a real browser: nothing on the console, and search, sort, filter, keyboard and figures at work."""

import time

import pytest
from browser_kit import chromium, wait_for
from report_kit import content, many, page, scored
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

READY = "document.documentElement.dataset.ready === 'yes'"
ROWS = "[...document.querySelectorAll('#grid tbody tr[data-row]')]"


@pytest.fixture(scope="module")
def browser():
    with chromium() as window:
        yield window


def opened(browser, path, sequences, **facts):
    path.write_bytes(page(content(sequences, **facts)))
    browser.get(path.as_uri())
    wait_for(browser, READY)
    return browser


def shown(browser) -> list[str]:
    return browser.execute_script(f"return {ROWS}.map((row) => row.cells[1].textContent)")


def typed(browser, selector: str, text: str) -> None:
    browser.execute_script(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event(e.tagName === 'SELECT' ? 'change' : 'input'));",
        selector, text,
    )  # fmt: skip


def test_search_filter_and_sort(browser, tmp_path):
    names = [("Beta_1", 0.2), ("alpha_2", 0.9), ("Alpha_10", 0.5), ("gamma", None), ("alpha_3", 0.8)]
    sequences = [scored(name, 500, [value and ("frame", value)]) for name, value in names]
    opened(browser, tmp_path / "r.html", sequences, mapped=5)

    assert shown(browser) == ["alpha_2", "alpha_3", "Alpha_10", "Beta_1", "gamma"]
    typed(browser, "#search", "ALPHA")
    assert shown(browser) == ["alpha_2", "alpha_3", "Alpha_10"]
    assert browser.find_element(By.ID, "count").text == "3 of 5 sequences"
    typed(browser, "#verdict", "viral")
    assert shown(browser) == ["alpha_2", "alpha_3"]
    typed(browser, "#verdict", "")
    typed(browser, "#search", "")
    browser.find_element(By.CSS_SELECTOR, "th[data-key=id] button").click()
    assert shown(browser) == sorted(name for name, _ in names)
    browser.find_element(By.CSS_SELECTOR, "th[data-key=score] button").click()
    assert shown(browser) == ["alpha_2", "alpha_3", "Alpha_10", "Beta_1", "gamma"]
    browser.find_element(By.CSS_SELECTOR, "th[data-key=score] button").click()
    assert shown(browser)[0] == "gamma"
    heading = browser.find_element(By.CSS_SELECTOR, "th[data-key=score]")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert browser.get_log("browser") == []


def test_every_window_is_drawn_at_its_place_and_gaps_are_left(browser, tmp_path):
    windows = [("frame", 0.9), None, ("fallback", 0.8), ("frame", 0.7)]
    opened(browser, tmp_path / "r.html", [scored("s", 2000, windows)])
    wait_for(browser, "document.querySelector('#trace svg path') !== null")

    lines = browser.execute_script(
        "return [...document.querySelectorAll('#trace-scroll svg > path')].map((p) => [p.getAttribute('stroke'),"
        " p.getAttribute('stroke-dasharray'), p.getAttribute('d').split('M').length - 1,"
        " p.getBBox().x, p.getBBox().width])"
    )
    drawn = [line for line in lines if line[0] and line[1] is None and line[2] == 2]
    dashed = [line for line in lines if line[1]]
    width = browser.execute_script("return document.querySelector('#trace-scroll svg').width.baseVal.value") - 60

    assert [line[2] for line in dashed] == [1, 1]  # P(virus) and P(others) of the one window by fallback
    for _, _, _, x, wide in dashed:
        assert (x - 44) / width == pytest.approx(0.5, abs=0.01)
        assert wide / width == pytest.approx(0.25, abs=0.01)
    assert len(drawn) == 2  # two windows from frames, both scores
    gaps = [line for line in lines if line[0] is None]
    assert sum(line[2] for line in gaps) == 3  # the strip below: two from frames, one hatched gap


def test_the_keyboard_moves_through_the_table(browser, tmp_path):
    opened(browser, tmp_path / "r.html", many(400))
    title = browser.find_element(By.CSS_SELECTOR, "#trace h3").text
    browser.execute_script("document.querySelector('#grid tbody tr[tabindex=\"0\"]').focus()")
    ActionChains(browser).send_keys(*[Keys.ARROW_DOWN] * 30).perform()

    selected = browser.find_element(By.CSS_SELECTOR, "#grid tr[aria-selected=true]")
    assert selected.get_attribute("aria-rowindex") == "32"
    assert browser.find_element(By.CSS_SELECTOR, "#trace h3").text == selected.find_elements(By.TAG_NAME, "td")[1].text
    assert browser.find_element(By.CSS_SELECTOR, "#trace h3").text != title


@pytest.mark.parametrize("id_", ["</script><script>document.title='owned'</script>", "<img src=x onerror=1>", "\"x'&"])
def test_a_hostile_id_is_shown_and_does_nothing(browser, tmp_path, id_):
    opened(browser, tmp_path / "r.html", [scored(id_, 600, [("frame", 0.9), None])], mapped=3)
    assert shown(browser) == [id_]
    assert "owned" not in browser.title
    assert browser.get_log("browser") == []


def test_injected_script_does_not_run(browser, tmp_path):
    opened(browser, tmp_path / "r.html", [scored("a", 500, [None])])
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 1\">')")
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.owned = 1'; document.body.append(s)"
    )
    time.sleep(0.2)
    assert browser.execute_script("return window.owned") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


@pytest.mark.parametrize("sequences", [[], [scored("only", 2, [])], [scored("none", 900, [None, None])]])
def test_small_and_empty_batches_are_readable(browser, tmp_path, sequences):
    opened(browser, tmp_path / "r.html", sequences)
    assert len(shown(browser)) == len(sequences)
    assert browser.get_log("browser") == []


def test_twenty_thousand_sequences_are_searched_at_once(browser, tmp_path):
    opened(browser, tmp_path / "r.html", many(20_000), mapped=500)
    took = browser.execute_script(
        "const began = performance.now(); const e = document.getElementById('search'); e.value = 'node_1999';"
        "e.dispatchEvent(new Event('input')); return performance.now() - began"
    )
    assert sorted(shown(browser)) == sorted(n for n in shown(browser) if n.startswith("NODE_1999"))
    assert browser.find_element(By.ID, "count").text == "11 of 20,000 sequences"
    assert took < 1000
