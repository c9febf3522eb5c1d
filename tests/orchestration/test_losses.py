"""A store that lost something is told by what Dagster, the ledger and the reports know, and is filled again."""

import json
import shutil

import pytest
from kits.automation import Platform, sequences

from virnuc_dagster.cli import main
from virnuc_dagster.home.binding import accept_store
from virnuc_dagster.orchestration.losses import find_losses
from virnuc_dagster.stages.pipeline import SEQUENCES

STAGES = ("sequences", "frames", "sequence_batch", "dnabert_s_embeddings", "esm2_embeddings", "predictions")


@pytest.fixture
def platform(tmp_path) -> Platform:
    return Platform(tmp_path, {"shard_size": 100})


@pytest.fixture
def batches(platform) -> list[str]:
    """Two finished batches, `one-...` and `two-...`."""
    for number, name in enumerate(("one", "two")):
        platform.drop(f"{name}.fa", sequences(number))
    platform.settle()
    return sorted(key.batch for key in platform.store.list(SEQUENCES))


def lost(platform: Platform) -> dict[str, list[str]]:
    found = find_losses(platform.instance, platform.store, platform.home)
    return {batch: list(stages) for batch, stages in found.items()}


def verdict(platform: Platform) -> tuple[bool, str]:
    check = platform.audit().get_asset_check_evaluations()[-1]
    return check.passed, check.description


def remove(platform: Platform, *parts: str) -> None:
    shutil.rmtree(platform.settings.store.joinpath(*parts))


def test_files_wait_while_the_store_is_gone(platform, batches):
    shutil.move(platform.settings.store, platform.home / "unmounted")
    platform.drop("three.fa", sequences(3))

    assert platform.tick("inbox_arrivals") == []
    assert platform.ledger.files()["three.fa"].state == "waiting"  # and no attempt of its own was used up

    shutil.move(platform.home / "unmounted", platform.settings.store)
    platform.settle()
    assert len(platform.store.list(SEQUENCES)) == 3


def test_an_empty_store_is_not_green(platform, batches):
    remove(platform)
    accept_store(platform.settings)

    passed, text = verdict(platform)

    assert not passed
    assert all(f"{batch}: 1 of sequences" in text for batch in batches)
    assert lost(platform) == {batch: list(STAGES) for batch in batches}


@pytest.mark.parametrize(
    ("name", "more"), [("one.fa", "\n"), ("again.fa", "")], ids=["other bytes, old name", "old bytes, other name"]
)
def test_a_batch_gone_in_every_stage_is_named_and_comes_back_by_its_file(platform, batches, name, more):
    report = platform.report(batches[0])
    for stage in STAGES:
        remove(platform, stage, batches[0])
    assert batches[0] in verdict(platform)[1]
    assert lost(platform).keys() == {batches[0]}

    platform.drop(name, sequences(0) + more)
    platform.settle()

    assert platform.report(batches[0]) == report


def test_lost_sequences_alone_turn_the_audit_red(platform, batches):
    remove(platform, "sequences", batches[1])
    passed, text = verdict(platform)
    assert (passed, text) == (False, f"missing in 1 batches: {batches[1]}: 1 of sequences")
    assert platform.statuses("sequence_batch", "integrity")[batches[1]] == "FAILED"


@pytest.mark.parametrize("stage", ["frames", "predictions"])
def test_what_is_lost_of_a_stage_is_computed_again_where_its_sequences_are(platform, batches, stage):
    report = platform.report(batches[0])
    remove(platform, stage)
    assert not verdict(platform)[0]
    assert lost(platform) == {batch: [stage] for batch in batches}

    for request in platform.scheduled():
        platform.carry_out(request)
    platform.settle()

    assert lost(platform) == {}
    assert verdict(platform) == (True, "all bytes are right")
    assert platform.report(batches[0]) == report


def test_a_batch_on_its_way_is_not_lost(platform, batches):
    platform.drop("three.fa", sequences(3))
    for request in platform.tick("inbox_arrivals"):
        platform.carry_out(request)
    assert len(platform.store.list(SEQUENCES)) == 3
    assert verdict(platform) == (True, "all bytes are right")


def test_a_store_that_is_gone_is_told_once(platform, batches):
    remove(platform)
    platform.tick("late_alert")
    (line,) = [
        json.loads(line)
        for path in (platform.home / "logs").glob("*.jsonl")
        for line in path.read_text().splitlines()
        if '"store_gone"' in line
    ]
    assert "is gone" in line["reason"]


def test_commands_name_what_is_lost_and_a_removed_batch_is_not(tmp_path, capsys):
    home = tmp_path / "home"
    for name, text in (("alpha", "GCTGCC" * 120), ("beta", "GCAGCC" * 150)):
        (tmp_path / f"{name}.fa").write_text(f">{name}\n{text}\n")
        assert main(["batches", "add", str(tmp_path / f"{name}.fa"), "--home", str(home), "--shard-size", "2"]) == 0
    alpha, beta = sorted(path.name for path in (home / "store" / "sequences").iterdir())
    shutil.rmtree(home / "store" / "sequences" / alpha)
    capsys.readouterr()

    assert main(["batches", "list", "--json", "--home", str(home)]) == 0
    rows = json.loads(capsys.readouterr().out)["batches"]
    assert {row["batch"]: row["missing"] for row in rows} == {alpha: {"sequences": 1}, beta: {}}
    main(["batches", "list", "--home", str(home)])
    assert f"{alpha}: missing 1 of sequences" in capsys.readouterr().err
    assert main(["doctor", "--json", "--home", str(home)]) == 1
    bad = [f for f in json.loads(capsys.readouterr().out) if not f["ok"] and f["name"] == "stored batches"]
    assert [f["value"] for f in bad] == [f"{alpha}: missing 1 of sequences"]
    assert main(["checkpoints", "validate", "--json", "--home", str(home)]) == 3
    found = json.loads(capsys.readouterr().out)
    lost = home / "store" / "sequences" / alpha / f"{alpha}.pt.done"
    assert [f["path"] for f in found["files"] if f["status"] == "missing"] == [str(lost)]
    assert found["counts"].keys() == {"ok", "missing"}
    assert main(["checkpoints", "validate", "--level", "quick", "--home", str(home)]) == 3
    assert f"{alpha}: missing 1 of sequences\n  -> put its file" in capsys.readouterr().out

    assert main(["batches", "remove", alpha, "--yes", "--home", str(home)]) == 0  # as the remedy says
    capsys.readouterr()
    assert main(["batches", "list", "--json", "--home", str(home)]) == 0
    assert [row["batch"] for row in json.loads(capsys.readouterr().out)["batches"]] == [beta]
    assert main(["checkpoints", "validate", "--home", str(home)]) == 0


def test_bytes_are_validated_even_if_nothing_can_be_told_of_what_is_missing(tmp_path, capsys):
    (tmp_path / "a.fa").write_text(">a\nACGT\n")
    assert main(["batches", "add", str(tmp_path / "a.fa"), "--home", str(tmp_path / "home")]) == 0
    for path in (tmp_path / "home" / "dagster" / "history").rglob("*.db"):
        path.write_bytes(b"no database" * 500)
    capsys.readouterr()

    assert main(["checkpoints", "validate", "--home", str(tmp_path / "home"), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["counts"].keys() == {"ok"}
    assert "databases" in err
    (data,) = (tmp_path / "home" / "store" / "sequences").glob("*/*.pt")
    data.write_bytes(b"x")
    assert main(["checkpoints", "validate", "--home", str(tmp_path / "home"), "--json"]) == 3
