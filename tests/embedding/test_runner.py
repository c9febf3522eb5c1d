"""The runner: every frame gets its own vector whatever the batches, and smaller ones when memory runs out."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Encoder, Esm2Model
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.errors import OutOfMemoryError, VirnucError


class CodeEncoder:
    """Gives a text's length and the sum of its letters; refuses batches of more than `memory` tokens."""

    dim = 2
    model_id = "fake"

    def __init__(self, memory: int = 10**9, error: Exception | None = None) -> None:
        self.memory = memory
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.shapes: list[tuple[int, ...]] = []

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [[0, *map(ord, text)] for text in texts]

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        if tokens.numel() > self.memory:
            raise self.error
        self.shapes.append(tuple(tokens.shape))
        return torch.stack((torch.full((len(tokens),), tokens.shape[1] - 1.0), tokens.sum(1).float()), dim=1)


def expected(texts: Sequence[str]) -> torch.Tensor:
    return torch.tensor([[len(text), sum(map(ord, text))] for text in texts], dtype=torch.float32).reshape(-1, 2)


def names(texts: Sequence[str]) -> list[str]:
    return [f"frame{i}" for i in range(len(texts))]


TEXTS = st.lists(st.text("ACGT", min_size=1, max_size=6), max_size=30)


@given(texts=TEXTS, budget=st.integers(1, 40), memory=st.integers(7, 60))
def test_every_frame_gets_its_own_vector(texts, budget, memory):
    found = embed(CodeEncoder(memory), names(texts), texts, token_budget=budget)

    assert torch.equal(found, expected(texts))


@given(texts=TEXTS, budget=st.integers(1, 40))
def test_batches_hold_one_length_and_keep_to_the_budget(texts, budget):
    encoder = CodeEncoder()

    embed(encoder, names(texts), texts, token_budget=budget)

    assert all(rows == 1 or rows * length <= budget for rows, length in encoder.shapes)
    assert sum(rows for rows, _ in encoder.shapes) == len(set(texts))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(12)), budget=st.integers(1, 300))
def test_order_and_batching_do_not_change_the_vectors(order, budget):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    encoder = Esm2Encoder(Esm2Model(Esm2Config(**sizes)), "small", torch.device("cpu"))
    texts = ["MKTAYIAKQRLV"[i % 5 :] + "ACDEFGHIKLMN"[: i + 1] for i in range(12)]
    whole = embed(encoder, names(texts), texts, token_budget=10_000)

    found = embed(encoder, names(texts), [texts[i] for i in order], token_budget=budget)

    torch.testing.assert_close(found, whole[list(order)], rtol=0, atol=2e-5)


def test_no_frames_give_an_empty_table():
    assert embed(CodeEncoder(), [], [], token_budget=10).shape == (0, 2)


def test_progress_counts_frames_duplicates_included():
    seen: list[int] = []

    embed(CodeEncoder(), names("abcde"), ["A", "A", "C", "AC", "A"], token_budget=2, on_progress=seen.append)

    assert seen == [3, 1, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_running_out_of_memory_halves_the_batch_for_good(error):
    encoder = CodeEncoder(memory=20, error=error)
    texts = [f"{i:04}" for i in range(16)]

    told: list[int] = []

    found = embed(encoder, names(texts), texts, token_budget=80, on_reduced=told.append)

    assert torch.equal(found, expected(texts))
    assert encoder.shapes == [(4, 5)] * 4
    assert told == [40, 20]


def test_one_frame_that_does_not_fit_is_named():
    texts = ["A", "ACGTACGT", "C"]

    with pytest.raises(OutOfMemoryError, match="frame1") as caught:
        embed(CodeEncoder(memory=5), names(texts), texts, token_budget=100)

    assert caught.value.fields["id"] == "frame1"


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        embed(CodeEncoder(0, RuntimeError("shapes cannot be multiplied")), ["a"], ["A"], token_budget=9)


def test_a_vector_that_is_not_finite_is_refused_by_name():
    class Overflowing(CodeEncoder):
        def pool(self, tokens: torch.Tensor) -> torch.Tensor:
            return super().pool(tokens).masked_fill(tokens[:, 1:2] == ord("C"), torch.inf)

    with pytest.raises(VirnucError, match="frame2"):
        embed(Overflowing(), names("abc"), ["A", "G", "C"], token_budget=9)


@pytest.mark.parametrize(("ids", "budget"), [(["a"], 9), (["a", "b"], 0)])
def test_impossible_arguments_are_refused(ids, budget):
    with pytest.raises(ValueError, match=r"ids|token_budget"):
        embed(CodeEncoder(), ids, ["A", "C"], token_budget=budget)
