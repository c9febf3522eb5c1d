"""What Dagster sees: the code location, its instance files, and the IO manager."""

import hashlib
import os
import pickle
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import dagster as dg
import pytest
import torch
import yaml
from dagster._cli.utils import get_possibly_temporary_instance_for_cli

from virnuc_dagster import home_storage
from virnuc_dagster.checkpoints import CheckpointDamagedError, CheckpointMissingError
from virnuc_dagster.cli import main
from virnuc_dagster.definitions import build_definitions
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.home.written_by import PROCESS_TAG
from virnuc_dagster.orchestration import instance
from virnuc_dagster.orchestration.home_storage import HomeInstance, HomeStorage
from virnuc_dagster.orchestration.io_manager import CheckpointIOManager
from virnuc_dagster.stages.keys import shard_checkpoint

ROOT = Path(__file__).parents[2]


def test_the_assets_and_their_partitions(tmp_path):
    definitions = build_definitions(settings=Settings.read(home=tmp_path))
    graph = definitions.resolve_asset_graph()

    partitions = {node.key.path[-1]: getattr(node.partitions_def, "name", None) for node in graph.asset_nodes}

    assert partitions == {
        "sequence_batch": "batches",
        "dnabert_s_embeddings": "shards",
        "esm2_embeddings": "shards",
        "predictions": "shards",
        "batch_report": "batches",
        "store_audit": None,
    }
    assert all(node.owners and node.kinds and node.group_name != "default" for node in graph.asset_nodes)


def test_everything_the_ui_shows_has_a_description(tmp_path):
    definitions = build_definitions(settings=Settings.read(home=tmp_path))
    repository = definitions.get_repository_def()
    graph = definitions.resolve_asset_graph()

    shown = {
        **{node.key.to_user_string(): node.description for node in graph.asset_nodes},
        **{key.to_user_string(): graph.get_check_spec(key).description for key in graph.asset_check_keys},
        **{job.name: job.description for job in repository.get_all_jobs() if not job.name.startswith("__")},
        **{sensor.name: sensor.description for sensor in repository.sensor_defs},
        **{schedule.name: schedule.description for schedule in repository.schedule_defs},
    }

    assert len(shown) == 6 + 10 + 4 + 4 + 2
    assert [name for name, text in shown.items() if len(text or "") < 60] == []


def test_the_launchpad_offers_what_a_run_computes_with_and_nothing_internal(tmp_path):
    definitions = build_definitions(settings=Settings.read(home=tmp_path))
    for job in definitions.get_repository_def().get_all_jobs():
        fields = job.run_config_schema.config_type.fields
        assert not any(field.is_required for field in fields.values())  # launched without "Scaffold missing config"
        offered = fields["resources"].default_value
        assert {name for name, values in offered.items() if values.get("config")} <= {"compute", "backends"}, job.name


@pytest.mark.parametrize(("automation", "status"), [(True, "RUNNING"), (False, "STOPPED")])
def test_automation_is_on_from_the_start_unless_the_settings_say_otherwise(tmp_path, automation, status):
    repository = build_definitions(settings=Settings(home=tmp_path, automation=automation)).get_repository_def()
    found = [*repository.sensor_defs, *repository.schedule_defs]
    assert {item.default_status.value for item in found} == {status}


def test_dagster_validates_the_workspace():
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_root_instance_file_differs_only_in_where_things_lie():
    root = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    home = yaml.safe_load(files("virnuc_dagster").joinpath("instance.yaml").read_text())

    assert {name: root[name] for name in home} == home
    assert root.keys() - home.keys() == {"storage", "local_artifact_storage", "compute_logs"}
    custom, instance_class = root["storage"]["custom"], home["instance_class"]
    # The module's name stands in the `dagster.yaml` of every home that there is.
    assert custom == {**custom, "module": "virnuc_dagster.home_storage", "class": "HomeStorage"}
    assert instance_class == {"module": "virnuc_dagster.home_storage", "class": "HomeInstance"}
    assert (home_storage.HomeStorage, home_storage.HomeInstance) == (HomeStorage, HomeInstance)


def test_whoever_changes_the_instance_file_says_so():
    assert instance.SHIPPED[-1] == hashlib.sha256(instance.shipped_config()).hexdigest(), "append the new digest"


@pytest.mark.parametrize("edited", [False, True], ids=["as it was written", "changed by its user"])
def test_the_instance_file_of_an_older_version_is_renewed_unless_it_was_changed(tmp_path, capsys, monkeypatch, edited):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    old = b"telemetry: {enabled: false}\nconcurrency: {pools: {granularity: op}}\n"
    monkeypatch.setattr(instance, "SHIPPED", (hashlib.sha256(old).hexdigest(), instance.SHIPPED[-1]))
    config = tmp_path / "dagster" / "dagster.yaml"
    config.parent.mkdir()
    config.write_bytes(old + b"# mine\n" * edited)

    instance.prepare_instance(Settings(home=tmp_path))

    assert config.read_bytes() == (old + b"# mine\n" if edited else instance.shipped_config())
    assert main(["doctor", "--home", str(tmp_path)]) == edited
    line = next(line for line in capsys.readouterr().out.splitlines() if "dagster.yaml" in line)
    if edited:
        assert "lacks instance_class, nux, run_coordinator" in line
        assert "concurrency.pools.default_limit, concurrency.runs" in line
    else:
        assert "has every setting" in line


def test_a_database_of_ones_own_lacks_no_instance_class(tmp_path):
    instance.prepare_instance(Settings(home=tmp_path))
    config = tmp_path / "dagster" / "dagster.yaml"
    mine = yaml.safe_load(config.read_text()) | {"storage": {"postgres": {"postgres_url": "postgresql://x"}}}
    del mine["instance_class"]
    config.write_text(yaml.safe_dump(mine))
    assert instance.missing_settings(Settings(home=tmp_path)) == []


def test_another_instance_than_the_homes_is_warned_of(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import virnuc_dagster.definitions"],
        env={**os.environ, "VIRNUC_HOME": str(tmp_path / "a"), "DAGSTER_HOME": str(tmp_path / "b")},
        capture_output=True,
        text=True,
    )
    assert "show different runs" in done.stderr


def embeddings(value: float) -> dict:
    return {"ids": ["a", "b"], "data": torch.full((2, 3), value)}


@pytest.fixture
def manager(tmp_path):
    return CheckpointIOManager(root=str(tmp_path))


def test_a_process_has_one_store_a_root_and_environment(manager, tmp_path, monkeypatch):
    store = manager.store
    assert pickle.loads(pickle.dumps(manager)).store is store
    assert CheckpointIOManager(root=str(tmp_path), validation="full").store is store
    assert CheckpointIOManager(root=str(tmp_path / "other")).store is not store

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere")
    assert manager.store is not store
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setattr("os.getpid", lambda: -1)  # a forked child
    assert manager.store is not store


def materialize(manager, payload, keys):
    """One run of an asset that hands `payload` to the IO manager for the partitions `keys`."""
    partitions = dg.StaticPartitionsDefinition(["b-1__0001", "b-1__0002", "b-1__0003"])

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run(), io_manager_key="io")
    def esm2_embeddings():
        return payload

    return dg.materialize(
        [esm2_embeddings],
        resources={"io": manager},
        tags={"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]},
    )


def load(manager, keys, metadata=None):
    """What a downstream asset receives for the partitions `keys`."""
    received = []
    partitions = dg.StaticPartitionsDefinition(["b-1__0001", "b-1__0002", "b-1__0003"])
    upstream = dg.AssetSpec("esm2_embeddings", partitions_def=partitions).with_io_manager_key("io")

    @dg.asset(
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        ins={"esm2_embeddings": dg.AssetIn(metadata=metadata or {})},
    )
    def reader(esm2_embeddings) -> None:
        received.append(esm2_embeddings)

    dg.materialize(
        [upstream, reader],
        selection=["reader"],
        resources={"io": manager},
        tags={"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]},
    )
    return received[0]


def test_a_payload_comes_back_as_one_partition_or_as_a_dict_by_key(manager):
    materialize(manager, embeddings(1.0), ["b-1__0001"])
    materialize(manager, embeddings(2.0), ["b-1__0002"])

    one, both = load(manager, ["b-1__0002"]), load(manager, ["b-1__0001", "b-1__0002"])

    assert torch.equal(one["data"], embeddings(2.0)["data"])
    assert {key: float(value["data"][0, 0]) for key, value in both.items()} == {"b-1__0001": 1.0, "b-1__0002": 2.0}


def test_none_is_accepted_only_for_committed_partitions(manager):
    materialize(manager, embeddings(1.0), ["b-1__0001"])
    assert materialize(manager, None, ["b-1__0001"]).success

    with pytest.raises(CheckpointMissingError, match="b-1__0002"):
        materialize(manager, None, ["b-1__0001", "b-1__0002"])


def test_missing_partitions_are_an_error_unless_allowed(manager):
    materialize(manager, embeddings(1.0), ["b-1__0001"])

    with pytest.raises(CheckpointMissingError):
        load(manager, ["b-1__0001", "b-1__0002"])
    allowed = load(manager, ["b-1__0001", "b-1__0002"], {"allow_missing_partitions": True})

    assert list(allowed) == ["b-1__0001"]


def test_a_damaged_partition_is_never_handed_out(manager):
    materialize(manager, embeddings(1.0), ["b-1__0001"])
    record = manager.store.record(shard_checkpoint("esm2_embeddings", "b-1__0001"))
    path = manager.store.root / "esm2_embeddings" / "b-1" / record.file
    path.write_bytes(path.read_bytes()[:-9] + b"\0" * 9)

    with pytest.raises(CheckpointDamagedError, match="digest differs"):
        load(manager, ["b-1__0001"])


def test_a_run_of_an_instance_that_is_thrown_away_says_what_to_set(tmp_path, monkeypatch):
    """`dg launch` and `dagster asset materialize` without DAGSTER_HOME."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIRNUC_HOME", str(tmp_path / "my home"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with get_possibly_temporary_instance_for_cli() as thrown_away:
        run = thrown_away.create_run_for_job(nothing)
        with pytest.raises(instance.InstanceError, match="nothing was computed: DAGSTER_HOME is not set") as caught:
            instance.begin_run(thrown_away, run.run_id)
    assert caught.value.hint == f"export DAGSTER_HOME='{tmp_path}/my home/dagster', then run the command again"

    monkeypatch.setenv("DAGSTER_HOME", f"{tmp_path}/my home/dagster")  # what the hint says works
    with get_possibly_temporary_instance_for_cli() as of_home:
        run = of_home.create_run_for_job(nothing)
        instance.begin_run(of_home, run.run_id)
        assert PROCESS_TAG in of_home.get_run_by_id(run.run_id).tags


@dg.job
def nothing() -> None:
    """For runs that are only recorded."""
