"""From the inbox to the report, and from a flipped bit back to green: sensors, schedule, audit and checks together."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from kits.automation import Platform, sequences
from kits.damage import flip_a_bit

from virnuc_dagster.cli import main
from virnuc_dagster.errors import StorageError
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.orchestration.automation import take_in
from virnuc_dagster.orchestration.automation.backfill import Survey
from virnuc_dagster.orchestration.automation.steps import failure_reason
from virnuc_dagster.orchestration.automation.trials import is_trial
from virnuc_dagster.stages.pipeline import SEQUENCES
from virnuc_dagster.stages.shards import EmbeddingStage

RANGE = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
CHECKS = {
    "dnabert_s_embeddings": ("integrity", "health"),
    "esm2_embeddings": ("integrity", "health"),
    "predictions": ("integrity", "alignment", "probabilities"),
}


@pytest.fixture
def platform(tmp_path) -> Platform:
    return Platform(tmp_path)


@pytest.fixture
def batch(platform) -> str:
    platform.drop("one.fa", sequences(1))
    platform.settle()
    (key,) = platform.store.list(SEQUENCES)
    return key.batch


def shards(platform: Platform, batch: str) -> list[str]:
    return [s for s in platform.instance.get_dynamic_partitions("shards") if s.startswith(batch)]


def test_files_become_reports_and_a_bad_one_stops_nobody(platform):
    platform.drop("one.fa", sequences(1))
    platform.drop("bad.fa", b"%PDF-1.4")
    platform.drop("two.fa", sequences(2))

    requests = platform.settle()

    batches = sorted(key.batch for key in platform.store.list(SEQUENCES))
    assert len(batches) == 2
    assert all(json.loads(platform.report(batch)["summary.json"])["complete"] for batch in batches)
    assert (platform.settings.inbox / "rejected" / "bad.fa.reason.txt").exists()
    assert sorted(r.job_name for r in requests) == [
        "cut_or_report_batch", "embed_and_score_shards", "take_in_files",
    ]  # fmt: skip
    (run,) = [r for r in requests if r.job_name == "embed_and_score_shards"]  # one for all shards of both
    registered = list(platform.instance.get_dynamic_partitions("shards"))
    assert [run.tags[name] for name in RANGE] == [registered[0], registered[-1]]


def test_the_job_launched_as_it_stands_takes_in_what_is_new(platform):
    platform.drop("one.fa", sequences(1))
    platform.carry_out(dg.RunRequest(job_name="take_in_files"))
    platform.drop("two.fa", sequences(2))

    assert platform.carry_out(dg.RunRequest(job_name="take_in_files")).success

    assert [file.state for file in platform.ledger.files().values()] == ["taken", "taken"]
    assert len(platform.store.list(SEQUENCES)) == 2


def test_a_file_that_ends_its_run_does_not_take_the_others_with_it(platform, monkeypatch):
    real = take_in.take_in

    def ends(store, inbox, name, *args, **more):
        if name == "a-poison.fa":
            raise RuntimeError("killed")
        return real(store, inbox, name, *args, **more)

    monkeypatch.setattr(take_in, "take_in", ends)
    for number, name in enumerate(("a-poison.fa", "b.fa", "c.fa")):
        platform.drop(name, sequences(number))

    platform.settle()

    assert {name: file.state for name, file in platform.ledger.files().items()} == {
        "a-poison.fa": "failed", "b.fa": "taken", "c.fa": "taken",
    }  # fmt: skip


def test_a_store_that_is_away_fails_the_file_with_our_words_and_is_told(platform, monkeypatch, capsys):
    def away(*args, **more):
        try:
            raise OSError("http://10.0.0.1/raw?list-type=2")
        except OSError as error:
            raise StorageError("the service does not answer", hint="wait") from error

    monkeypatch.setattr(take_in, "take_in", away)
    platform.drop("one.fa", sequences(1))
    platform.settle()

    (run,) = platform.instance.get_runs()
    assert "the service does not answer" in failure_reason(platform.instance, run)
    assert "raw" not in failure_reason(platform.instance, run)
    (journal,) = (platform.home / "logs").glob("*.jsonl")
    (line,) = (json.loads(line) for line in journal.read_text().splitlines() if '"file"' in line)
    assert (line["file"], line["state"]) == ("one.fa", "failed")
    main(["batches", "list", "--home", str(platform.home)])
    assert "one.fa failed: the service does not answer" in capsys.readouterr().err


def test_every_partition_of_every_check_is_green_after_a_ranged_run(platform, batch):
    for asset, checks in CHECKS.items():
        for check in checks:
            assert platform.statuses(asset, check) == dict.fromkeys(shards(platform, batch), "SUCCEEDED"), (
                asset,
                check,
            )
    assert platform.statuses("sequence_batch", "integrity") == {batch: "SUCCEEDED"}
    assert platform.statuses("batch_report", "conservation") == {batch: "SUCCEEDED"}


def test_a_flipped_bit_is_found_repaired_and_the_report_is_the_same(platform, batch):
    report, before = platform.report(batch), platform.records()
    damaged = shards(platform, batch)[1]
    name = f"esm2_embeddings/{batch}/{damaged}.pt.done"
    flip_a_bit(platform.settings.store / "esm2_embeddings" / batch / json.loads(before[name])["file"])

    audit = platform.audit()

    (check,) = [e for e in audit.get_asset_check_evaluations() if e.check_name == "every_byte_is_right"]
    rows = {row.data["stage"]: row.data for row in check.metadata["store"].records}
    assert not check.passed
    assert {stage: row["damaged"] for stage, row in rows.items() if row["damaged"]} == {"esm2_embeddings": 1}
    assert all(row["missing"] == row["stale"] == 0 for row in rows.values())
    assert platform.statuses("esm2_embeddings", "integrity")[damaged] == "FAILED"
    assert before.keys() - platform.records().keys() == {name}
    assert len(list((platform.settings.store / ".quarantine").iterdir())) == 2

    (request,) = platform.scheduled()
    assert [request.tags[tag] for tag in RANGE] == [damaged, damaged]
    assert platform.carry_out(request).success
    platform.settle()

    after = platform.records()
    assert {key for key in before if before[key] != after[key]} == {name}
    assert json.loads(before[name])["sha256"] == json.loads(after[name])["sha256"]
    assert platform.report(batch) == report
    test_every_partition_of_every_check_is_green_after_a_ranged_run(platform, batch)
    assert platform.scheduled() == []
    assert platform.audit().get_asset_check_evaluations()[-1].passed


@pytest.mark.parametrize("lost", ["first", "last"])
def test_lost_frames_are_cut_again(platform, batch, lost):
    report = platform.report(batch)
    shard = shards(platform, batch)[0 if lost == "first" else -1]
    record = platform.settings.store / "frames" / batch / f"{shard}.pt.done"
    flip_a_bit(record.parent / json.loads(record.read_text())["file"])
    platform.audit()
    assert platform.statuses("sequence_batch", "integrity") == {batch: "FAILED"}

    assert platform.scheduled() == []  # no shard can be computed yet: the sensor has the batch cut first
    platform.settle()

    assert record.exists()
    assert platform.statuses("sequence_batch", "integrity") == {batch: "SUCCEEDED"}
    assert platform.report(batch) == report


def test_another_precision_makes_everything_stale_and_is_computed(platform, batch):
    other = platform.with_settings(precision="bfloat16")

    (request,) = other.scheduled()

    assert [request.tags[tag] for tag in RANGE] == [shards(platform, batch)[0], shards(platform, batch)[-1]]
    assert other.carry_out(request).success
    other.settle()
    assert other.scheduled() == []
    assert platform.scheduled() != []


def test_a_lost_report_is_made_again_and_nothing_else(platform, batch):
    report, before = platform.report(batch), platform.records()
    (platform.settings.reports / batch / "viral.fasta").unlink()

    assert platform.scheduled() == []
    (request,) = platform.settle()

    assert request.tags["virnuc/step"] == "report"
    assert platform.report(batch) == report
    assert platform.records() == before


def test_other_thresholds_make_the_report_again_and_nothing_else(platform, batch, tmp_path):
    before = platform.records()
    bundle = Path(shutil.copytree(open_bundle("mini").folder, tmp_path / "bundle"))
    spec = json.loads((bundle / "bundle.json").read_text())
    spec["thresholds"] |= {"viral": 0.02, "non_viral": 0.01}
    (bundle / "bundle.json").write_text(json.dumps(spec))
    other = platform.with_settings(bundle=str(bundle))

    assert other.scheduled() == []
    (request,) = other.settle()

    assert request.tags["virnuc/step"] == "report"
    assert other.records() == before
    assert json.loads(other.report(batch)["summary.json"])["verdicts"]["non-viral"] == 0
    assert other.settle() == []


@pytest.fixture
def broken(monkeypatch) -> set[str]:
    """Shards that cannot be embedded."""
    names: set[str] = set()
    real = EmbeddingStage.prepare

    def prepare(stage, shard):
        if any(shard.startswith(name) for name in names):
            raise RuntimeError("the device fell off the bus")
        return real(stage, shard)

    monkeypatch.setattr(EmbeddingStage, "prepare", prepare)
    return names


def test_a_failing_shard_leaves_the_others_and_an_incomplete_report(platform, broken, capsys):
    broken.add("one-")
    platform.drop("one.fa", sequences(1))
    platform.drop("two.fa", sequences(2))
    platform.settle()

    summaries = [json.loads(platform.report(key.batch)["summary.json"]) for key in platform.store.list(SEQUENCES)]
    assert [summary["complete"] for summary in summaries] == [False, True]
    bad = summaries[0]["batch"]
    entry = platform.ledger.batch(bad)
    assert (entry.step, entry.failures) == ("done", 1)
    assert "the device fell off the bus" in entry.reason
    assert platform.statuses("batch_report", "conservation")[bad] == "FAILED"

    main(["batches", "list", "--home", str(platform.home)])
    told = capsys.readouterr()
    assert [line.split()[-2] for line in told.out.splitlines()[1:]] == ["incomplete", "yes"]
    assert f"{bad} failed: " in told.err


def test_what_failed_is_tried_again_after_a_while_but_the_last_time_by_the_backfill(platform, broken):
    broken.add("one-")
    platform.drop("one.fa", sequences(1))
    platform.settle()
    (bad,) = (key.batch for key in platform.store.list(SEQUENCES))
    assert platform.settle() == []  # not at once

    soon = platform.with_settings(retry_minutes=1e-9)
    assert [request.tags["virnuc/step"] for request in soon.settle()] == ["cut", "shards", "predictions", "report"]
    assert soon.ledger.batch(bad).failures == 2
    assert soon.settle() == []  # the next failure would park it

    broken.clear()
    for request in soon.scheduled():
        soon.carry_out(request)
    soon.settle()
    assert json.loads(soon.report(bad)["summary.json"])["complete"]
    assert soon.ledger.batch(bad).failures == 0
    assert soon.settle() == []


def test_a_file_whose_home_was_in_trouble_is_tried_again_after_a_while(platform, monkeypatch):
    with monkeypatch.context() as trouble:

        def full(*args, **more):
            raise StorageError("no space left")

        trouble.setattr(take_in, "take_in", full)
        platform.drop("one.fa", sequences(1))
        platform.settle()
    assert platform.settle() == []  # not at once

    platform.with_settings(retry_minutes=1e-9).settle()

    assert {name: file.state for name, file in platform.ledger.files().items()} == {"one.fa": "taken"}
    (batch,) = (key.batch for key in platform.store.list(SEQUENCES))
    assert json.loads(platform.report(batch)["summary.json"])["complete"]


def test_a_batch_that_fails_again_and_again_is_parked_until_it_is_repaired(platform, broken):
    platform = platform.with_settings(attempts_max=2, runs_per_tick=1)
    broken.add("one-")
    platform.drop("one.fa", sequences(1))
    platform.settle()
    (bad,) = (key.batch for key in platform.store.list(SEQUENCES))
    for request in platform.scheduled():
        platform.carry_out(request)
    platform.settle()
    assert platform.ledger.batch(bad).step == "parked"

    assert platform.scheduled() == []
    platform.drop("two.fa", sequences(2))
    platform.settle()  # it does not starve the others
    assert [entry.batch for entry in platform.ledger.parked()] == [bad]

    broken.clear()
    assert platform.ledger.unpark(bad)
    for request in platform.scheduled():
        platform.carry_out(request)
    platform.settle()
    assert json.loads(platform.report(bad)["summary.json"])["complete"]
    assert platform.ledger.batch(bad).failures == 0


def test_implausible_vectors_are_stopped_before_the_predictions(platform, monkeypatch):
    real = EmbeddingStage.compute

    def compute(stage, shard, progress):
        payload = real(stage, shard, progress)
        payload["data"][:] = payload["data"][0].clone()
        return payload

    monkeypatch.setattr(EmbeddingStage, "compute", compute)
    platform.drop("one.fa", sequences(1))
    (request,) = platform.tick("inbox_arrivals")
    platform.carry_out(request)
    (request,) = platform.tick("batch_progress")

    result = platform.carry_out(request)

    assert not result.success
    assert platform.statuses("esm2_embeddings", "health")[shards(platform, request.tags["virnuc/batch"])[0]] == "FAILED"
    assert set(platform.statuses("esm2_embeddings", "integrity").values()) == {"SUCCEEDED"}
    assert platform.store.list("predictions") == []


def test_implausible_vectors_of_one_shard_reach_no_report_and_the_others_do(platform, monkeypatch):
    prepare, compute = EmbeddingStage.prepare, EmbeddingStage.compute
    monkeypatch.setattr(EmbeddingStage, "prepare", lambda stage, shard: (shard, prepare(stage, shard)))

    def one_long_vector(stage, inputs, progress):
        shard, tokens = inputs
        payload = compute(stage, tokens, progress)
        if shard.endswith("__0002"):
            payload["data"][-1] *= 100
        return payload

    monkeypatch.setattr(EmbeddingStage, "compute", one_long_vector)
    platform.drop("one.fa", sequences(1, 3))
    platform.settle()

    (batch,) = (key.batch for key in platform.store.list(SEQUENCES))
    bad = f"{batch}__0002"
    assert len(shards(platform, batch)) > 2
    assert {key.shard for key in platform.store.list("predictions")} == {*shards(platform, batch)} - {bad}
    assert not json.loads(platform.report(batch)["summary.json"])["complete"]
    assert f"check health of dnabert_s_embeddings, {bad}: " in platform.ledger.batch(batch).reason


def test_no_more_runs_than_allowed_are_requested_at_once(platform):
    platform = platform.with_settings(runs_per_tick=2, files_per_tick=1, batches_per_run=1)
    for number in range(4):
        platform.drop(f"{number}.fa", sequences(number, 1))
    requests = []
    for _ in range(4):
        (taken,) = platform.tick("inbox_arrivals")
        platform.carry_out(taken)
        requests.append(taken.run_config["ops"]["read_and_cut"]["config"]["files"])
    assert requests == [["0.fa"], ["1.fa"], ["2.fa"], ["3.fa"]]
    assert len(platform.tick("batch_progress")) == 2
    assert len(platform.tick("batch_progress")) == 2
    assert platform.tick("batch_progress") == []  # all are about to be launched


def test_a_test_of_the_schedule_in_the_ui_changes_nothing(platform, batch, tmp_path_factory):
    for key in platform.store.list("predictions", batch):
        platform.store.remove(key)
    platform.instance.delete_dynamic_partition("batches", batch)
    before = platform.ledger.batch(batch), platform.ledger.last_surveyed()

    copy = platform.ledger.copied_to(tmp_path_factory.mktemp("dry"))
    tried = Survey(platform.instance, platform.settings, copy, dry=True).requests(print)

    assert [request.tags["virnuc/batch"] for request in tried] == [batch]
    assert (platform.ledger.batch(batch), platform.ledger.last_surveyed()) == before
    assert not platform.instance.has_dynamic_partition("batches", batch)
    assert len(platform.scheduled()) == len(tried)  # the real one still finds it


@pytest.mark.parametrize(
    ("log_key", "is_test"), [(None, True), (["__repository__", "scheduled_backfill", "17"], False)]
)
def test_only_a_tick_of_the_daemon_logs_by_its_number(log_key, is_test):
    now = datetime.now(UTC)
    context = dg.ScheduleEvaluationContext(None, now, log_key, "__repository__", "scheduled_backfill")
    assert is_trial(context) is is_test
