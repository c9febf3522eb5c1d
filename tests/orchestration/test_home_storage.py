"""The event log of a home: what was announced survives a kill, and Dagster cannot tell it from its own."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from kits.automation import Platform, sequences
from sqlalchemy import event

from virnuc_dagster.home.settings import Settings
from virnuc_dagster.orchestration.home_storage import HomeEventLog, HomeInstance
from virnuc_dagster.orchestration.instance import open_instance

STAGES = ("dnabert_s_embeddings", "esm2_embeddings", "predictions")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A platform on a real instance, after one ranged run over a batch of shards."""
    platform = Platform(tmp_path_factory.mktemp("home"))
    with open_instance(platform.settings) as instance:
        platform.instance = instance
        platform.drop("one.fa", sequences(1, 2))
        (request,) = platform.tick("inbox_arrivals")
        assert platform.carry_out(request).success
        (request,) = platform.tick("batch_progress")
        result = platform.carry_out(request)
        assert result.success
        yield platform, result


def test_the_instance_of_a_home_uses_it(ran):
    platform, _ = ran
    assert isinstance(platform.instance, HomeInstance)
    assert isinstance(platform.instance.event_log_storage, HomeEventLog)
    assert (platform.settings.dagster_home / "history" / "runs" / "index.db").exists()


def test_dagsters_own_class_reads_the_same_log(ran):
    platform, result = ran
    ours = platform.instance.event_log_storage
    theirs = SqliteEventLogStorage(str(platform.settings.dagster_home / "history" / "runs"))
    theirs.register_instance(platform.instance)

    assert theirs.get_logs_for_run(result.run_id) == ours.get_logs_for_run(result.run_id)
    shards = set(platform.instance.get_dynamic_partitions("shards"))
    assert len(shards) > 3
    for stage in STAGES:
        assert theirs.get_materialized_partitions(dg.AssetKey(stage)) == shards
        key = dg.AssetCheckKey(dg.AssetKey(stage), "integrity")
        assert len(theirs.get_asset_check_partition_info([key])) == len(shards) + 1


def test_each_shard_is_announced_at_once_and_at_the_end_with_the_same_metadata(ran):
    platform, result = ran
    for stage in STAGES:
        events = result.asset_materializations_for_node(stage)
        shards = platform.instance.get_dynamic_partitions("shards")
        first, last = (
            {e.partition: e.metadata for e in part} for part in (events[: len(shards)], events[len(shards) :])
        )
        assert [e.partition for e in events[: len(shards)]] == shards
        assert len(events) == 2 * len(shards)
        assert first == last
        assert all(metadata["sha256"].value for metadata in last.values())


def test_a_batch_is_one_transaction_a_database(ran):
    platform, result = ran
    log = platform.instance.event_log_storage
    events = materializations(log, result.run_id)
    commits = []
    for (_, shard), engine in log._engines.items():
        event.listen(engine, "commit", lambda _, shard=shard: commits.append(shard))

    log.store_event_batch(events)

    assert len(events) > 10
    assert commits == [result.run_id, "index"]
    assert len(materializations(log, result.run_id)) == 2 * len(events)


def test_a_batch_that_fails_is_not_half_stored(ran, monkeypatch):
    platform, result = ran
    log = platform.instance.event_log_storage
    before = log.get_logs_for_run(result.run_id)
    real, stored = log._store_asset_event, []

    def fail(conn, entry, event_id):
        stored.append(event_id)
        if len(stored) == 3:
            raise RuntimeError("no")
        real(conn, entry, event_id)

    monkeypatch.setattr(log, "_store_asset_event", fail)
    events = materializations(log, result.run_id)
    with pytest.raises(RuntimeError, match="no"):
        log.store_event_batch(events)

    assert log.get_logs_for_run(result.run_id) == before
    log.store_event(events[0])  # and goes on
    assert len(log.get_logs_for_run(result.run_id)) == len(before) + 1


def materializations(log, run_id):
    return log.get_logs_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import dagster as dg
    from virnuc_dagster.orchestration.instance import open_instance
    from virnuc_dagster.home.settings import Settings

    with open_instance(Settings(home=Path(sys.argv[1]))) as instance:
        for number in range(50):
            instance.report_runless_asset_event(dg.AssetMaterialization("predictions", partition=f"p{number}"))
            print(number, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_announced_survives_a_kill(tmp_path):
    victim = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], capture_output=True, text=True
    )
    assert victim.returncode == -signal.SIGKILL, victim.stderr
    assert victim.stdout.split()[-1] == "49"

    with open_instance(Settings(home=tmp_path)) as instance:
        found = instance.get_materialized_partitions(dg.AssetKey("predictions"))
    assert found == {f"p{number}" for number in range(50)}
    with sqlite3.connect(tmp_path / "dagster" / "history" / "runs" / "index.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def open_databases(home: Path) -> set[str]:
    names = {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}
    return {name for name in names if name.startswith(str(home)) and ".db" in name}


def test_few_databases_stay_open_and_none_after_the_end(tmp_path):
    with open_instance(Settings(home=tmp_path)) as instance:
        for number in range(12):
            instance.all_logs(f"00000000-0000-0000-0000-{number:012}")
        assert 0 < len({name for name in open_databases(tmp_path) if name.endswith(".db")}) <= 5
    assert open_databases(tmp_path) == set()


def test_the_database_of_a_later_run_is_like_the_first(tmp_path):
    """The first is Dagster's own work."""
    first, second = (f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2))

    def made(run_id: str) -> list[str]:
        with sqlite3.connect(tmp_path / "dagster" / "history" / "runs" / f"{run_id}.db") as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            return list(database.iterdump())

    with open_instance(Settings(home=tmp_path)) as instance:
        log = instance.event_log_storage
        for run_id in (first, second):
            assert log.get_logs_for_run(run_id) == []
        assert log._tables
        assert made(second) == made(first)
        assert any("alembic_version" in line and line.startswith("INSERT") for line in made(second))
        (tmp_path / "dagster" / "history" / "runs" / f"{first[:-1]}3.db").touch()  # killed before its tables were made
        assert log.get_logs_for_run(f"{first[:-1]}3") == []


def test_a_commands_own_runs_are_not_captured_unless_the_user_says_where_to(tmp_path):
    with open_instance(Settings(home=tmp_path), capture=False) as instance:
        assert isinstance(instance.compute_log_manager, NoOpComputeLogManager)
    with open_instance(Settings(home=tmp_path)) as instance:
        assert isinstance(instance.compute_log_manager, LocalComputeLogManager)
    data = {"module": LocalComputeLogManager.__module__, "class": "LocalComputeLogManager"}
    with (tmp_path / "dagster" / "dagster.yaml").open("a") as file:
        yaml.dump({"compute_logs": {**data, "config": {"base_dir": str(tmp_path / "prints")}}}, file)
    with open_instance(Settings(home=tmp_path), capture=False) as instance:
        assert isinstance(instance.compute_log_manager, LocalComputeLogManager)
