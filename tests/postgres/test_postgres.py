"""Runs and events in Postgres: the same results, every shard announced, kills of either side, no password anywhere."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("dagster_postgres", reason="needs the extra [postgres]")
import dagster as dg
from kits.pipeline import SHARDS, Call, Home
from kits.ports import free_port
from kits.postgres import PASSWORD, Postgres, server
from kits.ui import running

from virnuc_dagster.cli import main
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.orchestration.instance import InstanceError, open_instance

SHARD_ASSETS = ("dnabert_s_embeddings", "esm2_embeddings", "predictions")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with server() as found:
        yield found


@pytest.fixture
def database(postgres, request, monkeypatch) -> dict[str, str]:
    environment = postgres.new_database(f"test_{abs(hash(request.node.name))}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Call:
    call = Home(tmp_path_factory.mktemp("local")).predict()
    assert call.code == 0, call.err
    return call


def announced(home: Home) -> dict[str, int]:
    """Shards that Dagster shows as materialized, by asset."""
    with open_instance(Settings(home=home.root / "home")) as instance:
        return {name: len(instance.get_materialized_partitions(dg.AssetKey(name))) for name in SHARD_ASSETS}


def command_lines() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


def holding_the_password(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and PASSWORD.encode() in p.read_bytes()]


def test_predict_announces_every_shard_and_keeps_no_password(database, tmp_path, local):
    home = Home(tmp_path)

    process = home.spawn()
    home.wait_for_records("dnabert_s_embeddings", 2, process)
    seen = command_lines()
    call = home.finish(process)

    assert call.code == 0, call.err
    assert call.files() == local.files()
    assert announced(home) == dict.fromkeys(SHARD_ASSETS, SHARDS)
    assert not list((home.root / "home" / "dagster").rglob("*.db"))
    assert "predict" in seen
    assert PASSWORD not in seen + call.out + call.err
    assert holding_the_password(tmp_path) == []


def test_a_killed_run_goes_on(database, tmp_path, local):
    home = Home(tmp_path)
    process = home.start(hold=("dnabert_s_embeddings", 5))
    home.wait_for_records("dnabert_s_embeddings", 5, process)
    process.kill()
    process.communicate()
    done = len(home.records("dnabert_s_embeddings"))

    call = home.predict()

    assert call.code == 0, call.err
    assert "was killed; its finished shards are kept" in call.err
    assert call.run["reused_shards"]["dnabert_s_embeddings"] == done
    assert call.files() == local.files()


def test_a_server_that_dies_is_a_named_error_and_the_next_call_goes_on(postgres, database, tmp_path, local):
    home = Home(tmp_path)
    process = home.start(hold=("dnabert_s_embeddings", 5))
    home.wait_for_records("dnabert_s_embeddings", 5, process)

    postgres.stop(signal.SIGQUIT)
    home.release()
    try:
        call = home.finish(process)
        refused = home.predict()
    finally:
        postgres.start()

    assert (call.code, refused.code) == (1, 1), call.err
    assert "Postgres" in call.err
    assert "Traceback" not in call.err
    assert "error: Postgres cannot be used:" in refused.err
    assert "https://" not in refused.err, "a note of SQLAlchemy's at each attempt"
    assert PASSWORD not in call.err + refused.err
    done = len(home.records("dnabert_s_embeddings"))
    assert done >= 5

    again = home.predict()
    assert again.code == 0, again.err
    assert again.run["reused_shards"]["dnabert_s_embeddings"] == done
    assert again.files() == local.files()


@pytest.mark.full  # tests/deploy has the same services on Postgres, each started by itself
def test_the_web_ui_and_its_runs(database, tmp_path):
    home = Home(tmp_path)
    assert home.predict().code == 0
    with running(tmp_path / "home", automation="false") as web:
        (batch,) = [path.name for path in (tmp_path / "home" / "reports").iterdir()]
        run = web.launch(["batch_report"], {"dagster/partition": batch})
        status = web.end_of_run(run)
        seen = command_lines()
    assert status == "SUCCESS"
    assert "dagster_webserver" in seen
    assert PASSWORD not in seen
    assert holding_the_password(tmp_path) == []


def test_what_is_missing_is_named(database, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DAGSTER_POSTGRES_DB")
    monkeypatch.delenv("DAGSTER_POSTGRES_PASSWORD")
    assert main(["up", "--home", str(tmp_path), "--port", str(free_port(following=1))]) == 1
    assert "not set: DAGSTER_POSTGRES_DB, DAGSTER_POSTGRES_PASSWORD" in capsys.readouterr().err


def test_a_wrong_password_is_a_named_error(database, tmp_path):
    code = "from virnuc_dagster.home.settings import Settings\n"
    code += "from virnuc_dagster.orchestration.instance import open_instance\n"
    code += f"with open_instance(Settings(home={str(tmp_path)!r})): pass"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, "DAGSTER_POSTGRES_PASSWORD": "wrong-hush"},
    )  # fmt: skip
    assert "InstanceError: Postgres cannot be used" in done.stderr
    assert "password authentication failed" in done.stderr
    assert "wrong-hush" not in done.stderr


def test_a_home_on_sqlite_is_not_moved_by_a_setting(tmp_path, monkeypatch):
    with open_instance(Settings(home=tmp_path)):
        pass
    expected = pytest.raises(InstanceError, match="is not of an instance on Postgres")
    with expected, open_instance(Settings(home=tmp_path, instance="postgres")):
        pass
