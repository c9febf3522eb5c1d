"""The embedding stage: inputs are prepared elsewhere, threads and the token budget hold where it computes."""

import threading

import pytest
import torch

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.pipeline import FRAMES
from virnuc_dagster.stages.shards import EmbeddingStage

ESM2 = "esm2_embeddings"

SHARD = "demo-1__0001"
PROTEINS = ["MKT", "MKTA", "MKT", "GAVL", "GAVLI"]


class LengthEncoder:
    """Embeds a protein as its length; refuses more than `memory` tokens at once."""

    dim, model_id = 1, "lengths"

    def __init__(self, memory: int = 10**6) -> None:
        self.memory, self.shapes, self.threads = memory, [], []

    def tokenize(self, texts):
        return [[0] * len(text) for text in texts]

    def pool(self, tokens):
        self.threads.append(torch.get_num_threads())
        if tokens.numel() > self.memory:
            raise MemoryError
        self.shapes.append(tuple(tokens.shape))
        return torch.full((len(tokens), 1), float(tokens.shape[1]))


@pytest.fixture
def stage(tmp_path):
    store = LocalStore(tmp_path)
    ids = [f"f{i}" for i in range(len(PROTEINS))]
    store.save(shard_checkpoint(FRAMES, SHARD), {"ids": ids, "nucleotide": PROTEINS, "protein": PROTEINS}, {}, {})
    small = ComputeOptions(threads=1).model_copy(update={"token_budget": 8})  # less than a user may choose
    stage = EmbeddingStage(ESM2, store, None, small)
    stage.encoder = LengthEncoder()
    return stage


def test_threads_hold_where_a_shard_is_computed_though_another_thread_prepared_it(stage):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prepared: list = []
        preparer = threading.Thread(target=lambda: prepared.append(stage.prepare(SHARD)))
        preparer.start()
        preparer.join()

        result = stage.compute(prepared[0], Progress())
    finally:
        torch.set_num_threads(before)

    assert result["ids"] == [f"f{i}" for i in range(len(PROTEINS))]
    assert result["data"][:, 0].tolist() == [float(len(protein)) for protein in PROTEINS]
    assert set(stage.encoder.threads) == {1}


def test_a_budget_that_memory_reduced_is_kept_for_the_next_shard_and_told(stage):
    notes: list[str] = []
    told = Progress()
    told.note = notes.append
    stage.encoder = LengthEncoder(memory=5)

    first = stage.compute(stage.prepare(SHARD), told)
    stage.encoder.shapes.clear()
    tried = len(stage.encoder.threads)
    second = stage.compute(stage.prepare(SHARD), told)

    assert stage.token_budget == 4
    assert len(notes) == 1
    assert "token budget now 4" in notes[0]
    assert len(stage.encoder.threads) - tried == len(stage.encoder.shapes), "no batch ran out of memory again"
    assert torch.equal(first["data"], second["data"])
