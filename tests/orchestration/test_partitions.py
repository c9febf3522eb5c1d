"""Partitions that someone deletes or adds in the web UI concern one batch, and are put right by the next look at it."""

import json

import dagster as dg
import pytest
from kits.automation import Platform, sequences

from virnuc_dagster.cli import main
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.orchestration.instance import open_instance
from virnuc_dagster.orchestration.partitions import Registered, register_shards
from virnuc_dagster.stages.pipeline import SEQUENCES


@pytest.fixture
def platform(tmp_path) -> Platform:
    """A home with two finished batches of some shards."""
    found = Platform(tmp_path, {"shard_size": 20})
    for number, name in enumerate(("one", "two")):
        found.drop(f"{name}.fa", sequences(number, 5))
    found.settle()
    return found


def stored(platform: Platform) -> list[str]:
    return sorted(key.batch for key in platform.store.list(SEQUENCES))


def registered(platform: Platform) -> list[str]:
    return list(platform.instance.get_dynamic_partitions("shards"))


@pytest.mark.parametrize("added_again", [False, True])
def test_a_deleted_shard_concerns_its_batch_and_the_next_look_registers_it_again(platform, added_again):
    one, two = stored(platform)
    before = registered(platform)
    assert len([shard for shard in before if shard.startswith(one)]) > 1
    platform.instance.delete_dynamic_partition("shards", f"{one}__0001")
    if added_again:  # at the end, behind the other batch
        platform.instance.add_dynamic_partitions("shards", [f"{one}__0001"])

    platform.instance.delete_dynamic_partition("batches", two)

    platform.drop("three.fa", sequences(3))
    assert platform.audit().success
    platform.scheduled()
    platform.settle()

    assert sorted(platform.instance.get_dynamic_partitions("batches")) == stored(platform)
    assert len(stored(platform)) == 3
    assert sorted(shard for shard in registered(platform) if not shard.startswith("three")) == sorted(before)
    assert not Registered(platform.instance).is_torn(one)
    assert Registered(platform.instance).of(one) == [shard for shard in before if shard.startswith(one)]
    assert all(json.loads(platform.report(batch)["summary.json"])["complete"] for batch in stored(platform))


def test_odd_keys_do_not_keep_the_good_shards_of_a_range_from_being_computed(platform):
    odd = ["Odd key!", "../../etc", "nobatch__0001", "*"]
    wanted = registered(platform)
    platform.instance.add_dynamic_partitions("shards", odd)
    for key in platform.store.list("esm2_embeddings"):
        platform.store.remove(key)
    result = platform.carry_out(
        dg.RunRequest(
            job_name="embed_and_score_shards",
            asset_selection=[dg.AssetKey("esm2_embeddings")],
            tags={"dagster/asset_partition_range_start": wanted[0], "dagster/asset_partition_range_end": odd[-1]},
        )
    )

    assert not result.success
    assert [key.shard for key in platform.store.list("esm2_embeddings")] == sorted(wanted)
    (failure,) = result.get_step_failure_events()
    told = failure.step_failure_data.error.cause or failure.step_failure_data.error
    assert all(name in str(told.message) for name in odd)
    assert "virnuc batches remove" in str(told.message)
    assert platform.audit().success
    assert platform.scheduled() == []


def test_the_remedies_do_what_they_say(tmp_path, capsys):
    home = tmp_path / "home"
    (tmp_path / "alpha.fa").write_text(f">a\n{'GCTGCC' * 120}\n")
    assert main(["batches", "add", str(tmp_path / "alpha.fa"), "--home", str(home), "--shard-size", "2"]) == 0
    batch = next((home / "store" / "sequences").iterdir()).name
    settings = Settings(home=home)
    with open_instance(settings) as instance:
        before = instance.get_dynamic_partitions("shards")
        instance.delete_dynamic_partition("shards", before[0])
        instance.add_dynamic_partitions("shards", ["Odd key!", "*"])

    assert main(["batches", "retry", batch, "--home", str(home)]) == 0
    assert "registered again" in capsys.readouterr().out
    for odd in ("Odd key!", "*"):
        assert main(["batches", "remove", odd, "--yes", "--home", str(home)]) == 0

    with open_instance(settings) as instance:
        assert list(instance.get_dynamic_partitions("shards")) == list(before)
        assert not register_shards(instance, batch, before)
    assert (home / "store" / "sequences" / batch).is_dir()
