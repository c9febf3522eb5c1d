"""The UI as a person uses it, in headless Chromium, on a running `virnuc up`: look, drop, click, break, see it in red.

One server and one browser for all; the tests go on from each other, in the order of the file.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kits.browser import chromium, needs_chromium
from kits.ui import Web, running
from kits.waiting import wait_until

ASSETS = ("sequence_batch", "dnabert_s_embeddings", "esm2_embeddings", "predictions", "batch_report", "store_audit")
OPEN_GROUPS = ",".join(f"global@global:{group}" for group in ("sequences", "embeddings", "verdicts", "operations"))
SHARDS = 3


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    needs_chromium()
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def web(home) -> Iterator[Web]:
    with running(home, shard_size="10", inbox_settle_seconds="1", inbox_poll_seconds="1", threads="1") as web:
        yield web


@pytest.fixture(scope="module")
def page(web) -> Iterator:
    with chromium(1800, 900, f"http://127.0.0.1:{web.port}") as page:
        yield page


def committed(home: Path, stage: str) -> dict[str, dict]:
    """Shard -> its record."""
    paths = (home / "store" / stage).glob("*/*.done")
    return {path.name.removesuffix(".pt.done"): json.loads(path.read_text()) for path in paths}


def shot(page, name: str) -> None:
    """Keep a picture of the page for the README, if VIRNUC_SCREENSHOTS names a folder."""
    if folder := os.environ.get("VIRNUC_SCREENSHOTS"):
        page.wait_for_load_state("networkidle")
        time.sleep(1)
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_a_dropped_file_becomes_a_report_without_a_click(home, web):
    coding = {"a": "GCTGCC", "b": "GACCTG"}.items()
    (home / "inbox" / "a.fasta").write_text("".join(f">{name}\n{codons * 85}\n" for name, codons in coding))
    (home / "inbox" / "c.fasta.gz").write_bytes(b"\x1f\x8b\x08\x00 not an archive")

    wait_until(lambda: len(list((home / "reports").glob("*/report.html"))) == 1)

    assert "c.fasta.gz" in (home / "inbox" / "rejected" / "c.fasta.gz.reason.txt").read_text()
    assert len(committed(home, "predictions")) == SHARDS


def test_the_graph_shows_every_asset_with_its_status(page):
    page.goto(f"/asset-groups?expanded={OPEN_GROUPS}")
    for asset in ASSETS:
        page.locator("svg").get_by_text(asset, exact=True).wait_for()
    wait_until(lambda: page.get_by_text("100% filled").count() == 5)
    assert page.get_by_text(re.compile(r"\d / \d Passed")).count() >= 5
    shot(page, "lineage")


def test_sensors_and_schedules_are_on(page):
    page.goto("/automation")
    names = ("inbox_arrivals", "batch_progress", "failure_alert", "late_alert", "scheduled_backfill", "scheduled_audit")
    for name in names:
        page.get_by_text(name, exact=True).wait_for()
    wait_until(lambda: page.locator("input:checked").count() == len(names))


def test_a_report_is_one_click_away(home, page):
    (batch, *_) = sorted(path.name for path in (home / "reports").iterdir())
    page.goto(f"/assets/batch_report?view=partitions&partition={batch}")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=re.compile(rf"{batch}.report\.html")).first.click()

    assert opened.value.title() == f"{batch} · VirNucPro"
    opened.value.close()


def test_a_partition_range_is_materialized_from_the_page(home, page):
    for path in (home / "store" / "predictions").glob("*/*"):
        path.unlink()

    page.goto("/assets/predictions?view=partitions")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("All", exact=True).click()
    dialog.get_by_text(f"{SHARDS} partitions", exact=True).wait_for()
    dialog.get_by_role("button", name="Launch backfill").click()

    wait_until(lambda: len(committed(home, "predictions")) == SHARDS)
    page.goto("/runs")
    page.get_by_text(re.compile("Success|Completed")).first.wait_for()


def test_the_histogram_is_shown(home, page):
    page.goto(f"/assets/predictions?view=partitions&partition={min(committed(home, 'predictions'))}")
    page.get_by_text("score histogram").first.wait_for()
    page.get_by_text("mean_P_virus").first.wait_for()
    page.get_by_text("0.9 – 1.0").first.wait_for()
    shot(page, "predictions")


def test_all_checks_of_a_healthy_store_succeed_and_raise_no_alert(home, web, page):
    page.goto("/assets/esm2_embeddings?view=checks")
    page.get_by_role("button", name="Execute all").click()

    (run,) = wait_until(lambda: [run for run in web.runs_of_checks() if run["status"] in ("SUCCESS", "FAILURE")])

    assert run["status"] == "SUCCESS"
    page.goto("/assets/esm2_embeddings?view=checks&checkDetail=integrity")
    page.locator("button[role=tab]", has_text="Partitions").click()
    page.get_by_text(f"Passed ({SHARDS})").wait_for()
    assert not any('"run_failed"' in path.read_text() for path in (home / "logs").glob("*.jsonl"))


def test_a_flipped_bit_turns_the_integrity_check_red(home, page):
    shard, record = sorted(committed(home, "esm2_embeddings").items())[0]
    (data,) = (home / "store" / "esm2_embeddings").glob(f"*/{record['file']}")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))

    page.goto("/assets/esm2_embeddings?view=checks")
    page.get_by_role("button", name="Execute all").click()
    page.get_by_text("integrity", exact=True).first.click()
    page.get_by_text("Failed", exact=True).first.wait_for()
    page.goto("/assets/esm2_embeddings?view=checks&checkDetail=integrity")
    page.locator("button[role=tab]", has_text="Partitions").click()

    page.get_by_text("Failed (1)").wait_for()
    page.get_by_text(f"Passed ({SHARDS - 1})").wait_for()
    page.get_by_text(shard, exact=True).filter(visible=True).first.click()
    page.get_by_text(re.compile("corrupted: digest differs")).first.wait_for()
    shot(page, "integrity-check")
