"""Small batches share runs, and one that fails, ends its run or is removed is no matter of the others."""

import json
from collections import Counter
from math import ceil

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from kits.automation import Platform, sequences

from virnuc_dagster.orchestration.automation import sharing
from virnuc_dagster.orchestration.automation.backfill import Survey
from virnuc_dagster.orchestration.partitions import forget_batch
from virnuc_dagster.stages.keys import batch_checkpoint
from virnuc_dagster.stages.pipeline import SEQUENCES
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
    assert of_step["predictions"] == 1
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


def test_finished_small_batches_between_two_are_passed_over_and_others_are_not(platform):
    batches = fill(platform, 5)
    a, b, c, d, e = batches
    for batch in (b, d):
        platform.ledger.finish(batch, "", 3)
    assert groups(platform.tick("batch_progress")) == [[a, e]]

    for batch in (a, c, e):
        platform.ledger.begin(batch, "report")
    platform.ledger.begin(d, "report", requested=True)
    platform.ledger.finish(d, "no space left", 3)  # it would fail in their run
    assert groups(platform.tick("batch_progress")) == [[a, c], [e]]


def test_batches_wait_for_company_while_earlier_runs_of_small_ones_are_unfinished(platform):
    def at_work(number: int) -> None:
        tags = {STEP: "shards", BATCHES: str(number)}
        create_run_for_test(platform.instance, "x", tags=tags, status=dg.DagsterRunStatus.STARTED)

    fill(platform, 3)
    at_work(1)
    at_work(2)
    assert platform.tick("batch_progress") == []
    fill(platform, 9)  # eight are a full run; the last waits

    (request,) = platform.tick("batch_progress")

    assert request.tags[BATCHES] == "8"
    assert sum(entry.requested_at == 0 for entry in platform.ledger.active(100)) == 1


def test_the_backfill_and_what_follows_a_cut_share_runs_too(platform):
    batches = fill(platform, 3)
    platform.settle()
    for key in platform.store.list("predictions"):
        platform.store.remove(key)
    (request,) = platform.scheduled()
    assert groups([request]) == [[batches[0], batches[-1]]]
    platform.carry_out(request)
    platform.settle()
    reports = {batch: platform.report(batch) for batch in batches}
    records = platform.records()

    for key in [*platform.store.list("frames"), *platform.store.list("sequence_batch", batches[1])]:
        platform.store.remove(key)
    assert platform.scheduled() == []
    done = platform.settle()

    assert steps(done) == {"cut": 1, "shards": 1, "report": 1}
    assert {batch: platform.report(batch) for batch in batches} == reports
    assert {name for name in records if "frames" not in name and "sequence_batch" not in name} == {
        name for name, text in platform.records().items() if records[name] == text and "frames" not in name
        and "sequence_batch" not in name
    }  # fmt: skip
    assert all(not platform.ledger.batch(batch).reason for batch in batches)
    assert set(platform.statuses("sequence_batch", "integrity").values()) == {"SUCCEEDED"}


def test_a_tick_opens_the_store_once_to_count_the_frames_of_many_batches(platform, monkeypatch):
    opened, real = [], sharing.open_bound_store
    monkeypatch.setattr(sharing, "open_bound_store", lambda settings: (opened.append(1), real(settings))[1])
    names = fill(platform, 5)
    for name in names:
        platform.ledger.finish(name, "", 3)

    (request,) = Survey(platform.instance, platform.settings, platform.ledger).requests(lambda _: None)

    assert (request.tags[BATCHES], len(opened)) == ("5", 1)


def test_a_run_that_was_terminated_is_not_requested_again_at_once(platform):
    batches = fill(platform, 3)
    (request,) = platform.tick("batch_progress")
    create_run_for_test(platform.instance, "x", tags=request.tags, status=dg.DagsterRunStatus.CANCELED)

    assert platform.settle() == []

    entries = [platform.ledger.batch(batch) for batch in batches]
    assert [(entry.step, entry.failures) for entry in entries] == [("done", 1)] * 3
    assert all("CANCELED" in entry.reason for entry in entries)


def test_a_shared_run_that_fails_is_not_told_of_but_the_batch_that_fails_alone_is(platform):
    (batch,) = fill(platform, 1)
    told = []
    for tags in ({SHARED: "x", "virnuc/batch": f"{batch}, other-1"}, {"virnuc/batch": batch}):
        platform.store.remove(batch_checkpoint("sequence_batch", batch))
        request = dg.RunRequest(
            job_name="cut_or_report_batch", asset_selection=[dg.AssetKey("batch_report")],
            tags={"dagster/partition": batch, **tags},
        )  # fmt: skip
        result = platform.carry_out(request)
        context = dg.build_run_status_sensor_context(
            "failure_alert", result.get_run_failure_event(), platform.instance, result.dagster_run
        ).for_run_failure()
        platform.definitions.resolve_sensor_def("failure_alert")(context)
        lines = "".join(path.read_text() for path in platform.settings.logs.glob("*.jsonl")).splitlines()
        told.append([line["batch"] for line in map(json.loads, lines) if line["event"] == "run_failed"])
    assert told == [[], [batch]]


@pytest.mark.parametrize("sensor", ["inbox_arrivals", "batch_progress", "late_alert"])
def test_a_test_of_a_sensor_in_the_ui_changes_nothing(platform, sensor):
    platform = platform.with_settings(late_after_hours=1e-9)
    batches = fill(platform, 2)
    platform.drop("new.fa", sequences(7))
    before = platform.ledger.files(), [platform.ledger.batch(batch) for batch in batches]
    lines = [path.read_text() for path in platform.settings.logs.glob("*.jsonl")]
    context = dg.build_sensor_context(instance=platform.instance, definitions=platform.definitions)

    tried = platform.definitions.resolve_sensor_def(sensor).evaluate_tick(context).run_requests or []

    assert (platform.ledger.files(), [platform.ledger.batch(batch) for batch in batches]) == before
    assert [path.read_text() for path in platform.settings.logs.glob("*.jsonl")] == lines
    assert len(tried) == len(platform.tick(sensor))  # the real one does what the test showed


def test_a_run_that_ends_at_a_file_leaves_the_others_to_the_next_one_together(platform):
    for n in range(4):
        platform.drop(f"f{n}.fa", sequences(n))
    (request,) = platform.tick("inbox_arrivals")
    killed(platform, request)

    asked = [r.run_config["ops"]["read_and_cut"]["config"]["files"] for r in platform.tick("inbox_arrivals")]

    assert asked == [["f0.fa"]]
    assert {name: (file.state, file.attempts) for name, file in platform.ledger.files().items()} == {
        "f0.fa": ("requested", 2), **{f"f{n}.fa": ("waiting", 0) for n in (1, 2, 3)},
    }  # fmt: skip
