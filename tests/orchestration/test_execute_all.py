""" "Execute all" on the page of an asset's checks: one run of checks alone, without a partition."""

import dagster as dg
import pytest
from kits.automation import Platform, sequences
from kits.damage import flip_a_bit

CHECKS = {
    "sequence_batch": ("integrity",),
    "dnabert_s_embeddings": ("integrity", "health"),
    "esm2_embeddings": ("integrity", "health"),
    "predictions": ("integrity", "alignment", "probabilities"),
    "batch_report": ("conservation",),
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory) -> Platform:
    platform = Platform(tmp_path_factory.mktemp("home"))
    for seed in (1, 2):
        platform.drop(f"{seed}.fa", sequences(seed))
    platform.settle()
    return platform


def execute_all(platform: Platform, asset: str) -> dg.ExecuteInProcessResult:
    checks = {dg.AssetCheckKey(dg.AssetKey(asset), name) for name in CHECKS[asset]}
    job = platform.definitions.resolve_job_def("__ASSET_JOB")
    subset = job.get_subset(asset_selection=set(), asset_check_selection=checks)
    return subset.execute_in_process(instance=platform.instance, raise_on_error=False)


@pytest.mark.parametrize("asset", CHECKS)
def test_a_healthy_store_passes_in_every_partition(platform, asset):
    partitions = platform.instance.get_materialized_partitions(dg.AssetKey(asset))

    result = execute_all(platform, asset)

    assert result.success
    for check in CHECKS[asset]:
        assert platform.statuses(asset, check) == dict.fromkeys(partitions, "SUCCEEDED")
        seen = [e for e in result.get_asset_check_evaluations() if e.check_name == check and e.partition]
        assert {e.partition for e in seen} == partitions
        assert all(e.passed for e in seen)


def test_a_flipped_bit_is_red_in_its_partition_alone(platform):
    key = platform.store.list("esm2_embeddings")[0]
    record = platform.store.record(key)
    path = platform.settings.store / key.stage / key.batch / record.file
    before = path.read_bytes()
    flip_a_bit(path)
    try:
        execute_all(platform, "esm2_embeddings")
    finally:
        path.write_bytes(before)
    statuses = platform.statuses("esm2_embeddings", "integrity")
    assert [shard for shard, status in statuses.items() if status == "FAILED"] == [key.shard]
