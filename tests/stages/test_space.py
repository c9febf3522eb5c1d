"""Room on the disk is asked for before the work."""

import pytest
import torch

from virnuc_dagster.checkpoints import LocalStore, NoSpaceError
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.space import bytes_needed, check_space

SHARDS = ["demo-1__0001", "demo-1__0002"]
ROWS, DIM = 500, 320


class Stage:
    name, dim, tokens = "esm2_embeddings", DIM, 0

    def wanted(self, shard, records):
        return {"of": shard}


def frames(number: int) -> dict:
    ids = [f"sequence_{number}_chunk_{row}F1" for row in range(ROWS)]
    return {"ids": ids, "nucleotide": ["ACG"] * ROWS, "protein": ["T"] * ROWS}


@pytest.fixture
def store(tmp_path):
    store = LocalStore(tmp_path)
    for number, shard in enumerate(SHARDS):
        store.save(shard_checkpoint("frames", shard), frames(number), {})
    return store


def test_the_estimate_is_near_what_is_written(store):
    needed = bytes_needed(store, [Stage()], SHARDS)

    written = 0
    for number, shard in enumerate(SHARDS):
        payload = {"ids": frames(number)["ids"], "data": torch.randn(ROWS, DIM)}
        written += store.save(shard_checkpoint(Stage.name, shard), payload, {"of": shard}).bytes

    assert written <= needed <= 1.1 * written
    assert bytes_needed(store, [Stage()], SHARDS) == 0


def test_only_what_lacks_the_wanted_result_counts(store):
    payload = {"ids": frames(0)["ids"], "data": torch.randn(ROWS, DIM)}
    store.save(shard_checkpoint(Stage.name, SHARDS[0]), payload, {"of": SHARDS[0]})
    store.save(shard_checkpoint(Stage.name, SHARDS[1]), payload, {"of": "another model"})

    assert bytes_needed(store, [Stage()], SHARDS) == bytes_needed(store, [Stage()], SHARDS[1:]) > 0


@pytest.mark.parametrize(("free", "outcome"), [(10**9, "silent"), (1_450_000, "warned"), (1_000_000, "stopped")])
def test_warns_or_stops(store, monkeypatch, free, outcome):
    monkeypatch.setattr(store, "free_bytes", lambda: free)
    notes: list[str] = []

    if outcome == "stopped":
        with pytest.raises(NoSpaceError, match=r"1,380,000 bytes, 1,000,000 are free") as caught:
            check_space(store, [Stage()], SHARDS, notes.append)
        assert caught.value.exit_code == 5
    else:
        check_space(store, [Stage()], SHARDS, notes.append)
        assert len(notes) == (outcome == "warned")
