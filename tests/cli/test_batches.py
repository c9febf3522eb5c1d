"""`virnuc batches` and the version of a home."""

import hashlib
import json

import pytest
from dagster import AssetKey, DagsterInstance, DagsterRunStatus
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.execution.asset_backfill import AssetBackfillData
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_run_for_test

from virnuc_dagster.cli import main
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.home.versions import HOME_VERSION, UPGRADES, HomeError, open_home, read_version
from virnuc_dagster.home.written_by import process_tags
from virnuc_dagster.orchestration.instance import open_instance
from virnuc_dagster.orchestration.partitions import runs_at_work, shards


@pytest.fixture
def home(tmp_path):
    """A home with two batches, cut into frames."""
    for name, text in (("alpha", "GCTGCC" * 120), ("beta", "GCAGCC" * 150)):
        (tmp_path / f"{name}.fa").write_text(f">{name}\n{text}\n")
    files = [str(tmp_path / "alpha.fa"), str(tmp_path / "beta.fa")]
    assert main(["batches", "add", *files, "--home", str(tmp_path / "home"), "--shard-size", "2"]) == 0
    return tmp_path / "home"


def run(capsys, *arguments) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["batches", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def listed(capsys, home) -> dict[str, dict]:
    return {row["batch"]: row for row in json.loads(run(capsys, "list", "--home", home, "--json")[1])["batches"]}


def partitions(home) -> dict[str, list[str]]:
    with open_instance(Settings(home=home)) as instance:
        return {name: list(instance.get_dynamic_partitions(name)) for name in ("batches", "shards")}


def test_added_batches_are_listed_with_their_counts(home, capsys):
    rows = listed(capsys, home)
    assert [name.split("-")[0] for name in rows] == ["alpha", "beta"]
    for row in rows.values():
        assert row["sequences"] == 1
        assert row["shards"] == -(-row["frames"] // 2) > 0
        assert row["predicted_shards"] == 0
    assert len(partitions(home)["shards"]) == sum(row["shards"] for row in rows.values())
    assert "alpha-" in run(capsys, "list", "--home", home)[1]


def test_a_batch_says_which_files_it_came_from(home, tmp_path, capsys):
    other = tmp_path / "s2" / "alpha.fa"
    other.parent.mkdir()
    (tmp_path / "bad.fa").write_text("no sequences")
    other.write_bytes((tmp_path / "alpha.fa").read_bytes())
    code, out, err = run(capsys, "add", tmp_path / "bad.fa", other, "--home", home, "--shard-size", "2")
    assert code == 1
    assert f"error: {tmp_path / 'bad.fa'}, line 1" in err
    batch, *_, given = out.strip().split("\t")
    assert given == str(other)

    files = listed(capsys, home)[batch]["files"]
    assert [entry["path"] for entry in files] == [str(tmp_path / "alpha.fa"), str(other)]
    assert {entry["sha256"] for entry in files} == {hashlib.sha256(other.read_bytes()).hexdigest()}
    assert f"{other} (and 1 more)" in run(capsys, "list", "--home", home)[1]
    shown = run(capsys, "show", batch, "--home", home)[1]
    assert f"{other}, {other.stat().st_size:,} bytes, sha256 {files[0]['sha256']}" in shown

    assert run(capsys, "remove", batch, "--home", home, "--yes")[0] == 0
    assert not list((home / "origins").glob(f"{batch}*"))


def test_a_batch_is_named_by_the_beginning_of_its_key(home, capsys):
    code, out, _ = run(capsys, "show", "alp", "--home", home, "--json")
    assert (code, json.loads(out)["batch"].startswith("alpha-")) == (0, True)
    assert run(capsys, "show", "Alpha.fa", "--home", home)[0] == 0
    assert run(capsys, "show", "", "--home", home)[0] == 1
    code, _, err = run(capsys, "show", "gamma", "--home", home)
    assert code == 1
    assert "batches list" in err


def test_remove_says_first_and_takes_only_that_batch(home, capsys):
    before, kept = listed(capsys, home), partitions(home)
    alpha = next(name for name in before if name.startswith("alpha"))
    assert "would be removed" in run(capsys, "remove", alpha, "--home", home)[1]
    for part in ("", " ", "alpha", "a"):  # an unset shell variable, or half a key, removes nothing
        assert run(capsys, "remove", part, "--home", home, "--yes")[0] == 1
    assert listed(capsys, home) == before

    assert run(capsys, "remove", alpha, "--home", home, "--yes")[0] == 0

    left = listed(capsys, home)
    assert left == {name: row for name, row in before.items() if name.startswith("beta")}
    assert partitions(home) == {k: [n for n in names if n.startswith("beta")] for k, names in kept.items()}
    assert not [p for p in (home / "store").rglob("*") if p.is_file() and "alpha" in p.name]
    note = json.loads((home / "removed_batches.jsonl").read_text())
    assert note["batch"].startswith("alpha-")
    assert note["checkpoints"] > 0


def test_a_batch_at_work_is_not_removed(home, capsys):
    batch = next(iter(listed(capsys, home)))
    with open_instance(Settings(home=home)) as instance:
        from dagster import DagsterRunStatus, job
        from dagster._core.test_utils import create_run_for_test
        from dagster._core.utils import make_new_run_id

        @job
        def nothing():
            """A job of no steps."""

        run_id = make_new_run_id()
        tags = {"dagster/partition": batch, **process_tags(run_id)}
        create_run_for_test(instance, nothing.name, run_id=run_id, status=DagsterRunStatus.STARTED, tags=tags)
    code, _, err = run(capsys, "remove", batch, "--home", home, "--yes")
    assert code == 1
    assert "is at work on" in err
    assert batch in listed(capsys, home)


@pytest.fixture
def instance():
    """Three batches of two shards each, registered in order."""
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("batches", ["a", "b", "c"])
        instance.add_dynamic_partitions("shards", [f"{batch}__{n:04d}" for batch in "abc" for n in (1, 2)])
        yield instance


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTED", "CANCELING"])
@pytest.mark.parametrize(
    ("first", "last", "concerned"),
    [("a__0001", "c__0002", "abc"), ("a__0002", "b__0001", "ab"), ("b__0001", "b__0002", "b"), ("a", "c", "abc")],
    ids=["in the middle of shards", "at an end", "alone", "in the middle of batches"],
)
def test_a_run_is_at_work_on_every_batch_of_its_range(instance, status, first, last, concerned):
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    run = create_run_for_test(instance, status=DagsterRunStatus[status], tags=tags)
    assert {batch: runs_at_work(instance, batch) for batch in "abc"} == {
        batch: [run.run_id] if batch in concerned else [] for batch in "abc"
    }


def test_a_backfill_is_at_work_on_every_batch_it_will_come_to(instance):
    subset = shards.empty_subset().with_partition_keys(["a__0001", "b__0002"])
    target = AssetGraphSubset(partitions_subsets_by_asset_key={AssetKey("predictions"): subset})
    data = AssetBackfillData.empty(target, 0.0, instance)
    backfill = PartitionBackfill("waiting", BulkActionStatus.REQUESTED, False, {}, 0.0, asset_backfill_data=data)
    instance.add_backfill(backfill)
    assert [runs_at_work(instance, batch) for batch in "abc"] == [["waiting"], ["waiting"], []]


def test_a_home_says_its_version(home):
    assert read_version(home) == HOME_VERSION


def test_an_older_home_is_brought_up_to_date_step_by_step(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(
        "virnuc_dagster.home.versions.UPGRADES", {0: lambda _: steps.append(0), 1: lambda _: steps.append(1)}
    )
    monkeypatch.setattr("virnuc_dagster.home.versions.HOME_VERSION", 2)
    (tmp_path / "home.json").write_text('{"format": "virnuc-home", "version": 1}')

    assert open_home(tmp_path) == 1
    assert open_home(tmp_path) == 2

    assert steps == [1]
    assert read_version(tmp_path) == 2


def test_a_step_that_fails_is_tried_again(tmp_path, monkeypatch):
    def broken(_):
        raise OSError("no")

    monkeypatch.setattr("virnuc_dagster.home.versions.UPGRADES", {0: broken})
    with pytest.raises(OSError, match="no"):
        open_home(tmp_path)
    assert read_version(tmp_path) == 0
    monkeypatch.setattr("virnuc_dagster.home.versions.UPGRADES", UPGRADES)
    open_home(tmp_path)
    assert read_version(tmp_path) == HOME_VERSION


@pytest.mark.parametrize("text", ['{"format": "virnuc-home", "version": 99}', "{}", "[]", "", '{"version": "1"}'])
def test_a_newer_or_unreadable_home_is_refused_and_not_touched(tmp_path, capsys, text):
    (tmp_path / "home.json").write_text(text)
    with pytest.raises(HomeError):
        open_home(tmp_path)
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    arguments = ["predict", str(tmp_path / "a.fa"), "--output", str(tmp_path / "out"), "--home", str(tmp_path)]
    assert main(arguments) == 1
    assert ("upgrade virnuc-dagster" if "99" in text else "cannot be read") in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"home.json", "a.fa"}
