"""Where sockets and locks lie, and what a service finds in its environment."""

import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from virnuc_dagster.cli.up import environment, services
from virnuc_dagster.errors import SettingsError
from virnuc_dagster.files import exclusive
from virnuc_dagster.home import places
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.orchestration.instance import InstanceError, open_instance

ODD = ["a b", "a#b", "a%20b", "a%b", "a?b", "é", "a\nb", "a" * 80, "a:b"]


@pytest.fixture
def usual(monkeypatch):
    """Sets the usual folder for temporary files."""

    def set_to(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        return folder

    return set_to


@pytest.mark.parametrize("name", ODD)
def test_a_socket_never_lies_in_an_odd_folder(usual, tmp_path_factory, name):
    usual(tmp_path_factory.getbasetemp() / name)
    assert places.temporary_base() == Path("/tmp")


def test_a_plain_folder_is_used_privately_and_what_a_kill_left_is_removed(usual, tmp_path, monkeypatch):
    base = tmp_path / "t"
    monkeypatch.setattr(places, "_LENGTH_MAX", 1_000)
    usual(base)
    left, held = base / "virnuc-up-left", base / "virnuc-up-held"
    for folder in (left, held):
        folder.mkdir()
        os.utime(folder, (time.time() - 3_600,) * 2)
    with exclusive(held), places.private_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert sorted(base.iterdir()) == sorted([held, folder])
    assert list(base.iterdir()) == [held]


def test_without_a_folder_for_sockets_it_is_said_what_to_set(usual, tmp_path, monkeypatch):
    usual(tmp_path / "a b")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SettingsError, match="no folder for sockets") as caught:
        places.temporary_base()
    assert "set TMPDIR to a folder of your own" in caught.value.hint


def test_services_import_nothing_from_the_working_folder_and_what_the_user_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":/opt/mine::/opt/more:")
    env = environment(Settings(home=tmp_path), tmp_path / "private", "http://127.0.0.1:1")
    assert env["PYTHONSAFEPATH"] == "1"
    assert env["PYTHONPATH"] == f"{tmp_path}/private:/opt/mine:/opt/more"
    assert env["DAGSTER_HOME"] == str(tmp_path / "dagster")
    parts = services(tmp_path, "127.0.0.1", 1, env)
    assert all(part.environment is env for part in parts)
    assert parts[0].command[parts[0].command.index("--working-directory") + 1] == str(tmp_path)


@pytest.mark.parametrize("name", ODD)
def test_a_home_of_an_odd_name_holds_its_databases_or_is_refused(tmp_path, name):
    """Dagster puts the path into a URL as it is."""
    home = tmp_path / name / "home"
    if name in ("a%20b", "a?b"):
        with pytest.raises(InstanceError, match="choose another --home"), open_instance(Settings(home=home)):
            pass
        assert not home.exists()
        return
    with open_instance(Settings(home=home)) as instance:
        instance.add_dynamic_partitions("batches", ["one"])
    assert (home / "dagster" / "history" / "runs" / "index.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]
