"""`virnuc checkpoints`: what a folder holds, what is wrong with it, and what may go."""

import json
import os
import time

import pytest
from kits.torture import FOLDER, KEY, RECORD, save

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.cli import main


@pytest.fixture
def home(tmp_path):
    """A home with three generations of one shard: one current, one kept."""
    for version in (1, 2, 3):
        save(tmp_path / "store", version)
    return tmp_path


def run(capsys, *arguments) -> tuple[int, str]:
    capsys.readouterr()
    code = main(["checkpoints", *map(str, arguments)])
    return code, capsys.readouterr().out


def data_path(home):
    return home / "store" / FOLDER / LocalStore(home / "store").record(KEY).file


def test_a_whole_home_is_valid(home, capsys):
    code, out = run(capsys, "validate", "--home", home, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["counts"] == {"ok": 1, "superseded": 1}
    assert {file["kind"] for file in found["files"]} == {"esm2_embeddings"}


@pytest.mark.parametrize(
    ("damage", "quick", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), 3, "size differs"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40] + b"\1" + path.read_bytes()[-39:]), 0, "corrupted"),
        (lambda path: path.unlink(), 3, "missing"),
        (lambda path: path.write_bytes(b""), 3, "0 bytes"),
    ],
    ids=["cut", "flipped", "gone", "empty"],
)  # fmt: skip
def test_damage_is_found_and_named(home, capsys, damage, quick, reason):
    damage(data_path(home))
    code, out = run(capsys, "validate", "--home", home)
    assert code == 3
    assert "damaged" in out
    assert reason in out
    assert run(capsys, "validate", "--home", home, "--level", "quick")[0] == quick


def test_a_damaged_record_and_a_damaged_older_generation_are_found(home, capsys):
    older = next(p for p in (home / "store" / FOLDER).glob("*.pt") if p != data_path(home))
    older.write_bytes(older.read_bytes()[:-40] + b"\1" + older.read_bytes()[-39:])
    assert run(capsys, "validate", "--home", home)[0] == 3
    (home / "store" / RECORD).write_text("{}")
    code, out = run(capsys, "validate", "--home", home, "--json")
    assert code == 3
    assert [file["status"] for file in json.loads(out)["files"]].count("damaged") >= 1


def test_odd_entries_are_named_and_the_rest_is_checked(home, capsys):
    (home / "store" / FOLDER / "x.pt").mkdir()
    (home / "store" / FOLDER / "demo-1__0007.pt.done").touch()
    path = data_path(home)
    path.rename(home / "elsewhere")
    path.symlink_to(home / "elsewhere")
    code, out = run(capsys, "validate", "--home", home, "--json")
    files = {file["path"].rsplit("/", 1)[-1]: file for file in json.loads(out)["files"] if file["status"] == "damaged"}
    assert code == 3
    assert "not a regular file" in files["x.pt"]["reason"]
    assert "not a regular file" in files[path.name]["reason"]
    assert "empty" in files["demo-1__0007.pt.done"]["reason"]


def test_any_mix_of_versions(shared, home, capsys):
    for source in (shared / "vanilla").glob("*.pt"):
        (home / source.name).write_bytes(source.read_bytes())
    code, out = run(capsys, "validate", home, "--json")
    assert code == 0
    assert {file["version"] for file in json.loads(out)["files"]} == {"0.x", "2.0"}


@pytest.mark.parametrize("place", ["empty", "absent"])
def test_nothing_to_validate_is_an_error(tmp_path, capsys, place):
    (tmp_path / "empty").mkdir()
    assert run(capsys, "validate", tmp_path / place)[0] == 1


def test_info_of_a_data_file_its_record_and_an_older_file(home, shared, capsys):
    for path, version in (
        (data_path(home), "2.0"), (home / "store" / RECORD, "2.0"), (shared / "vanilla" / "output_1_merged.pt", "0.x"),
    ):  # fmt: skip
        code, out = run(capsys, "info", path, "--json")
        facts = json.loads(out)
        assert (code, facts["version"], facts["dtype"]) == (0, version, "float32")
        assert facts["rows"] > 0 < facts["dim"]
    assert json.loads(run(capsys, "info", data_path(home), "--json")[1])["provenance"] == {"version": 3}
    assert "not recorded" in run(capsys, "info", shared / "vanilla" / "output_1_ESM.pt")[1]
    assert run(capsys, "info", home / "nothing.pt")[0] == 1


def test_info_loads_no_tensor(home, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("loaded"))
    assert run(capsys, "info", data_path(home))[0] == 0


def test_sweep_says_first_and_removes_when_told(home, capsys):
    leftover = home / "store" / FOLDER / "demo-1__0009.0123456789abcdef.pt"
    leftover.write_bytes(b"half")
    code, out = run(capsys, "sweep", "--home", home, "--superseded")
    assert (code, "nothing to remove" in out) == (0, True)  # all of it is younger than the grace period
    for path in (home / "store" / FOLDER).iterdir():
        os.utime(path, (time.time() - 7200,) * 2)

    assert "2 files" in run(capsys, "sweep", "--home", home, "--superseded")[1]
    assert leftover.exists()
    assert "removed" in run(capsys, "sweep", "--home", home, "--superseded", "--yes")[1]

    assert not leftover.exists()
    assert {p.name for p in (home / "store" / FOLDER).iterdir()} == {data_path(home).name, RECORD.rsplit("/")[-1]}


def test_quarantined_files_go_by_age(home, capsys):
    LocalStore(home / "store").quarantine(KEY, "for the test")
    assert "nothing" in run(capsys, "sweep", "--home", home, "--quarantine-days", "1", "--yes")[1]
    for path in (home / "store" / ".quarantine").iterdir():
        os.utime(path, (time.time() - 2 * 86_400,) * 2)
    assert "2 files" in run(capsys, "sweep", "--home", home, "--quarantine-days", "1", "--yes")[1]
    assert list((home / "store" / ".quarantine").iterdir()) == []


def test_migrate_writes_beside(shared, tmp_path, capsys):
    for source in (shared / "vanilla").glob("*.pt"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / "broken.pt").write_bytes(b"PK\3\4")
    code, out = run(capsys, "migrate", tmp_path)
    assert code == 3
    assert "not migrated: corrupted" in out
    assert len(list(tmp_path.glob("*-v2.pt.done"))) == 3
    (tmp_path / "broken.pt").unlink()
    assert run(capsys, "validate", tmp_path)[0] == 0
