"""Home and store know each other: a store that is gone is not made anew in silence."""

import json
import shutil

import pytest

from virnuc_dagster.cli import main
from virnuc_dagster.home.binding import STORE_FILE, StoreGoneError, check_store, open_bound_store
from virnuc_dagster.home.settings import Settings


@pytest.fixture
def settings(tmp_path) -> Settings:
    """A home and a store outside of it that have met."""
    found = Settings(home=tmp_path / "home", store=str(tmp_path / "store"))
    open_bound_store(found)
    return found


def identity(settings: Settings) -> str:
    return json.loads((settings.store / STORE_FILE).read_text())["id"]


@pytest.mark.parametrize("empty", [True, False], ids=["empty mount point", "deleted"])
def test_a_store_that_is_gone_is_refused_until_its_loss_is_accepted(settings, empty, tmp_path, capsys):
    shutil.rmtree(settings.store)
    if empty:
        settings.store.mkdir()
    (tmp_path / "a.fa").write_text(">a\n" + "GCTGCC" * 120 + "\n")
    place = ["--home", str(settings.home), "--store", str(settings.store)]

    for command in (["predict", "--output", str(tmp_path / "out")], ["batches", "add"]):
        assert main([*command, str(tmp_path / "a.fa"), *place]) == 1
        assert f"virnuc checkpoints accept --home {settings.home} --yes" in capsys.readouterr().err
    assert main(["up", *place]) == 1
    assert main(["doctor", "--json", *place]) == 1
    capsys.readouterr()
    for command in (["batches", "list"], ["checkpoints", "validate"]):
        assert main([*command, *place]) == 1
        out, err = capsys.readouterr()
        assert (out, "is gone" in err) == ("", True)
    assert main(["batches", "list", "--json", *place]) == 1
    assert "is gone" in json.loads(capsys.readouterr().out)["problem"]
    assert not settings.store.exists() or list(settings.store.iterdir()) == []

    assert main(["checkpoints", "accept", *place]) == 0
    assert "to accept that" in capsys.readouterr().out
    assert main(["checkpoints", "accept", "--yes", *place]) == 0
    assert main(["batches", "add", str(tmp_path / "a.fa"), *place]) == 0


def test_the_store_of_someone_else_at_the_same_place_is_refused(settings, tmp_path):
    other = Settings(home=tmp_path / "other", store=str(tmp_path / "elsewhere"))
    open_bound_store(other)
    shutil.rmtree(settings.store)
    shutil.copytree(other.store, settings.store)

    with pytest.raises(StoreGoneError, match="another store than the one"):
        open_bound_store(settings)

    assert identity(settings) == identity(other)


def test_nothing_is_taken_out_of_the_store_of_someone_else_or_out_of_none(settings, tmp_path, capsys):
    (tmp_path / "a.fa").write_text(">a\nACGTACGT\n")
    other = ["--home", str(tmp_path / "other"), "--store", str(tmp_path / "elsewhere")]
    assert main(["batches", "add", str(tmp_path / "a.fa"), *other]) == 0
    batch = capsys.readouterr().out.split("\t")[0]
    shutil.rmtree(settings.store)
    shutil.copytree(tmp_path / "elsewhere", settings.store)
    before = sorted(settings.store.rglob("*"))
    mine = ["--home", str(settings.home), "--store", str(settings.store)]

    out = ["--format", "fasta", "--output", str(tmp_path / "x")]
    for command in (
        ["batches", "remove", batch, "--yes"], ["batches", "show", batch], ["checkpoints", "sweep", "--yes"],
        ["export", batch, "--stage", "sequences", *out],
    ):  # fmt: skip
        assert main([*command, *mine]) == 1
        assert "another store than the one" in capsys.readouterr().err
    assert sorted(settings.store.rglob("*")) == before
    main(["batches", "list", *mine])
    assert "batches remove" not in capsys.readouterr().err


def test_two_homes_may_use_one_store_and_one_home_two_stores(settings, tmp_path):
    before = identity(settings)
    open_bound_store(Settings(home=tmp_path / "second", store=str(settings.store)))
    open_bound_store(Settings(home=settings.home, store=str(tmp_path / "new")))
    open_bound_store(settings)
    assert identity(settings) == before


def test_a_home_that_is_moved_or_copied_knows_the_store_within_it(tmp_path):
    open_bound_store(Settings(home=tmp_path / "home"))
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    (tmp_path / "home").rename(tmp_path / "moved")
    for name in ("copy", "moved"):
        open_bound_store(Settings(home=tmp_path / name))
    assert identity(Settings(home=tmp_path / "copy")) == identity(Settings(home=tmp_path / "moved"))


def test_checkpoints_without_a_mark_are_bound_at_the_first_contact(settings, tmp_path):
    (tmp_path / "a.fa").write_text(">a\nACGTACGT\n")
    place = ["--home", str(settings.home), "--store", str(settings.store)]
    assert main(["batches", "add", str(tmp_path / "a.fa"), *place]) == 0
    before = identity(settings)
    (settings.store / STORE_FILE).unlink()  # as an older program, or its backup, has it

    check_store(settings)
    assert not (settings.store / STORE_FILE).exists()
    open_bound_store(settings)
    assert identity(settings) == before
