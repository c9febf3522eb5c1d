"""Small batches share runs, and one that fails, ends its run or is removed is no matter of the others."""

import json
from collections import Counter
from math import ceil

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from kits.automation import Platform, sequences

from virnuc_dagster.orchestration.partitions import forget_batch, runs_at_work
from virnuc_dagster.stages.batch import SEQUENCES
from virnuc_dagster.stages.keys import batch_checkpoint
from virnuc_dagster.stages.shards import EmbeddingStage
from virnuc_dagster.upkeep.removal import batch_files, remove_batch

RANGE = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
SHARED, BATCHES, STEP = "virnuc/shared", "virnuc/batches", "virnuc/step"


@pytest.fixture
def platform(tmp_path) -> Platform:
    return Platform(tmp_path, {"shard_size": 100, "batches_per_run": 8})


def fill(platform: Platform, number: int) -> list[str]:
    """So many small files in the inbox, taken in; returns the batches in the order of their files."""
    for n in range(number):
        platform.drop(f"f{n:03}.fa", sequences(n))
    for request in platform.tick("inbox_arrivals"):
        platform.carry_out(request)
    return sorted(key.batch for key in platform.store.list(SEQUENCES))


def steps(requests: list[dg.RunRequest]) -> Counter[str]:
    return Counter(request.tags[STEP] for request in requests)


def complete(platform: Platform, batch: str) -> bool:
    return json.loads(platform.report(batch)["summary.json"])["complete"]


@pytest.fixture
def broken(monkeypatch) -> set[str]:
    """Beginnings of shards that cannot be embedded."""
    names: set[str] = set()
    real = EmbeddingStage.prepare

    def prepare(stage, shard):
        if shard.startswith(tuple(names)):
            raise RuntimeError("the device fell off the bus")
        return real(stage, shard)

    monkeypatch.setattr(EmbeddingStage, "prepare", prepare)
    return names


def test_many_files_share_few_runs_and_a_bad_batch_and_a_bad_file_cost_only_a_few_more(platform, broken):
    platform = platform.with_settings(files_per_tick=15)
    files = {f"f{n:03}.fa": sequences(n) for n in range(24)}
    for name, text in files.items():
        platform.drop(name, text)
    platform.drop("f010.pdf.fa", b"%PDF-1.4")
    broken.add("f011-")

    requests = platform.settle()

    batches = {key.batch.partition("-")[0]: key.batch for key in platform.store.list(SEQUENCES)}
    good = {batch for name, batch in batches.items() if name != "f011"}
    bad = batches["f011"]
    assert len(batches) == 24
    assert {batch for batch in batches.values() if not complete(platform, batch)} == {bad}
    assert "the device fell off the bus" in platform.ledger.batch(bad).reason
    assert not any(platform.ledger.batch(batch).reason for batch in good)
    for name, batch in batches.items():  # the sequence of its own file and no other, in the store and in the report
        assert platform.store.load(batch_checkpoint(SEQUENCES, batch))["sequence"] == files[f"{name}.fa"].split()[1::2]
        rows = platform.report(batch)["sequences.tsv"].decode().splitlines()[1:]
        assert [row.split("\t")[:2] for row in rows] == [["s0", "510"]]
    for stage, check in (("esm2_embeddings", "health"), ("predictions", "alignment")):
        green = {key for key, status in platform.statuses(stage, check).items() if status == "SUCCEEDED"}
        assert green == {f"{batch}__0001" for batch in good}
    assert platform.statuses("batch_report", "conservation") == dict.fromkeys(good, "SUCCEEDED") | {bad: "FAILED"}

    of_step = Counter(request.tags.get(STEP, "take in") for request in requests)
    assert of_step["take in"] == ceil(25 / 15)
    shared = ceil(15 / 8) + ceil(9 / 8)  # what one run takes in goes on together
    assert shared <= of_step["shards"] <= shared + 3  # its neighbours on both sides once more, and the bad one alone
    assert of_step["predictions"] == 0  # it has no other shard
    assert shared <= of_step["report"] <= shared + 3


def killed(platform: Platform, request: dg.RunRequest) -> None:
    """What is left of a run whose process was killed, and that is not tried again."""
    create_run_for_test(platform.instance, "x", tags=request.tags, status=dg.DagsterRunStatus.FAILURE)


def covers(platform: Platform, request: dg.RunRequest, batch: str) -> bool:
    keys = platform.instance.get_dynamic_partitions("shards")
    first, last = (keys.index(request.tags[tag]) for tag in RANGE)
    return any(key.startswith(batch) for key in keys[first : last + 1])


def test_a_batch_that_ends_its_run_ends_up_alone(platform):
    batches = fill(platform, 9)
    poison, runs = batches[4], []
    for _ in range(20):
        for request in platform.tick("batch_progress"):
            runs.append(request)
            if request.tags[STEP] in ("shards", "predictions") and covers(platform, request, poison):
                killed(platform, request)
            else:
                platform.carry_out(request)

    assert [batch for batch in batches if not complete(platform, batch)] == [poison]
    assert not any(platform.ledger.batch(batch).reason for batch in batches if batch != poison)
    assert platform.ledger.batch(poison).failures == 1
    # all of them; then by twos and threes; then those that went with it one by one
    assert runs[0].tags[BATCHES] == "8"
    alone = [r.tags["virnuc/batch"] for r in runs if r.tags[STEP] == "shards" and BATCHES not in r.tags]
    assert poison in alone
    assert len(alone) <= 3


def test_a_batch_that_is_removed_while_its_run_is_at_work_does_not_fail_the_others(platform, monkeypatch):
    batches = fill(platform, 4)
    (request,) = platform.tick("batch_progress")
    assert request.tags[BATCHES] == "4"
    assert all(runs == [] for runs in (runs_at_work(platform.instance, batch) for batch in batches))
    real = EmbeddingStage.prepare

    def prepare(stage, shard):
        if shard.startswith(batches[0]) and platform.ledger.batch(batches[1]):
            platform.ledger.forget_batch(batches[1])
            forget_batch(platform.instance, batches[1])
            remove_batch(
                platform.store, platform.home, batch_files(platform.store, platform.settings.reports, batches[1])
            )
        return real(stage, shard)

    monkeypatch.setattr(EmbeddingStage, "prepare", prepare)

    assert platform.carry_out(request).success
    others = platform.settle()

    assert all(complete(platform, batch) for batch in batches if batch != batches[1])
    assert not (platform.settings.reports / batches[1]).exists()
    assert steps(others) == {"report": 1}


@pytest.mark.parametrize("gone", [0, 3], ids=["the first", "the last"])
def test_a_batch_at_an_end_of_a_range_that_is_removed_costs_the_others_another_run(platform, gone):
    batches = fill(platform, 4)
    (request,) = platform.tick("batch_progress")
    platform.ledger.forget_batch(batches[gone])
    forget_batch(platform.instance, batches[gone])

    killed(platform, request)
    platform.settle()

    assert all(complete(platform, batch) for batch in batches if batch != batches[gone])
    assert all(platform.ledger.batch(batch).failures == 0 for batch in batches if batch != batches[gone])


def groups(requests: list[dg.RunRequest]) -> list[list[str]]:
    """First and last batch of each run, or the one that it is of."""
    found = []
    for request in requests:
        ends = [request.tags[tag].rsplit("__", 1)[0] for tag in RANGE if tag in request.tags]
        found.append(sorted(set(ends)) or [request.tags["dagster/partition"]])
    return found


def test_a_large_batch_has_runs_of_its_own_and_small_ones_on_both_sides_share(platform):
    platform = platform.with_settings(shared_frames=20)
    for n, of_file in enumerate((1, 1, 30, 1, 1)):
        platform.drop(f"{n}.fa", sequences(n, of_file))
    platform.carry_out(*platform.tick("inbox_arrivals"))
    a, b, large, c, d = sorted(key.batch for key in platform.store.list(SEQUENCES))

    requests = platform.tick("batch_progress")

    assert groups(requests) == [[a, b], [large], [c, d]]
    assert [request.tags.get(BATCHES) for request in requests] == ["2", None, "2"]
    assert [SHARED in request.tags for request in requests] == [True, False, True]
    assert [platform.ledger.batch(batch).shared != "" for batch in (a, b, large, c, d)] == [1, 1, 0, 1, 1]
