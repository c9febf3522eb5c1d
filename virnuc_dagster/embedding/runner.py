"""The loop that feeds an encoder: frames of one shard in, one vector a frame out, in the order of the frames.

Batches hold frames of one exact token length, so nothing is padded or masked. Where batches begin and end depends on
the shard's contents and the token budget alone; only running out of memory makes them smaller. Which frames form a
shard, and where vectors are kept, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from virnuc_dagster.embedding.memory import return_freed_memory, trim_freed_memory
from virnuc_dagster.errors import OutOfMemoryError, VirnucError

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "could not create a primitive",  # oneDNN, without memory for its code or its scratch space
    "could not execute a primitive",
)


class Encoder(Protocol):
    """What the runner needs of an encoder."""

    @property
    def dim(self) -> int:
        """Width D of a pooled vector."""

    @property
    def model_id(self) -> str:
        """Name for messages."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, in the order of the texts."""

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        """Encode tokens, int64 (B, T) of one exact length, and pool them to float32 (B, D) on any device."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The frames of a shard, ready for an encoder; texts that occur more than once are kept once.

    Attributes:
        ids: Frame ids, N of them, for messages.
        tokens: Token ids of each distinct text, in the order of its first frame.
        row_of_frame: int64 (N,), which text each frame has.
    """

    ids: Sequence[str]
    tokens: Sequence[Sequence[int]]
    row_of_frame: torch.Tensor

    def first_id(self, row: int) -> str:
        """The first frame that has a text."""
        return self.ids[int((self.row_of_frame == row).nonzero()[0])]


def tokenize(encoder: Encoder, ids: Sequence[str], texts: Sequence[str]) -> Tokenized:
    """Make the frames of a shard ready; needs no device, so the next shard can be made ready while one is embedded.

    Args:
        encoder: The encoder that will embed them.
        ids: Frame ids, N of them.
        texts: What to embed, one text a frame.

    Raises:
        ValueError: `ids` and `texts` differ in number.
    """
    if len(ids) != len(texts):
        raise ValueError(f"{len(ids)} ids but {len(texts)} texts")
    row_of_text: dict[str, int] = {}
    row_of_frame = [row_of_text.setdefault(text, len(row_of_text)) for text in texts]
    return Tokenized(ids, encoder.tokenize(list(row_of_text)), torch.tensor(row_of_frame, dtype=torch.int64))


def embed(
    encoder: Encoder, ids: Sequence[str], texts: Sequence[str], *, token_budget: int, **told: Callable[[int], None]
) -> torch.Tensor:
    """Tokenize and embed frames in one step, see `tokenize` and `embed_tokenized`."""
    return embed_tokenized(encoder, tokenize(encoder, ids, texts), token_budget=token_budget, **told)


def embed_tokenized(
    encoder: Encoder,
    frames: Tokenized,
    *,
    token_budget: int,
    on_progress: Callable[[int], None] | None = None,
    on_reduced: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Embed the frames of a shard; identical texts are computed once.

    Args:
        encoder: The encoder.
        frames: What `tokenize` made of N frames with this encoder.
        token_budget: Tokens of one batch, at least one frame; halved while the device is out of memory.
        on_progress: Called after each batch with the number of frames it finished; they sum to N.
        on_reduced: Called with the new, smaller token budget each time memory ran out.

    Returns:
        float32 (N, D) on the CPU; row i belongs to `frames.ids[i]`.

    Raises:
        ValueError: The budget is not positive.
        OutOfMemoryError: One frame alone does not fit (field `id`).
        VirnucError: A vector is not finite (field `id`).
    """
    if token_budget < 1:
        raise ValueError(f"token_budget is {token_budget}; it must be positive")
    frames_of_row = torch.bincount(frames.row_of_frame, minlength=len(frames.tokens))
    rows = torch.full((len(frames.tokens), encoder.dim), torch.nan)
    written = torch.zeros(len(frames.tokens), dtype=torch.int64)
    done = 0
    for batch, vectors in _one_behind(_pooled(encoder, frames, token_budget, on_reduced)):
        rows[batch] = vectors
        written[batch] += 1
        finished = int(frames_of_row[batch].sum())
        done += finished
        if on_progress is not None:
            on_progress(finished)
    trim_freed_memory()
    assert bool((written == 1).all()), "every row is written exactly once"
    assert done == len(frames.ids), "as many frames come out as went in"
    _check_finite(rows, frames, encoder.model_id)
    return rows[frames.row_of_frame]


def _batches(tokens: Sequence[Sequence[int]], token_budget: int) -> Iterator[list[int]]:
    """Cut rows, sorted by token length, into batches of one length and at most `token_budget` tokens."""
    by_length: dict[int, list[int]] = {}
    for row, ids in enumerate(tokens):
        by_length.setdefault(len(ids), []).append(row)
    for length in sorted(by_length):
        rows, size = by_length[length], max(1, token_budget // length)
        yield from (rows[i : i + size] for i in range(0, len(rows), size))


def _pooled(
    encoder: Encoder, frames: Tokenized, token_budget: int, on_reduced: Callable[[int], None] | None
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Pool batch after batch; on running out of memory, halve the batch and keep to the smaller size from then on."""
    limit, tokens = token_budget, frames.tokens
    waiting = list(_batches(tokens, token_budget))[::-1]
    while waiting:
        batch = waiting.pop()
        length = len(tokens[batch[0]])
        size = max(1, limit // length)
        if len(batch) > size:
            waiting.append(batch[size:])
            batch = batch[:size]
        try:
            vectors = encoder.pool(torch.tensor([tokens[row] for row in batch], dtype=torch.int64))
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise _one_frame_too_large(frames.first_id(batch[0]), length, encoder.model_id) from error
            limit = len(batch) // 2 * length
            waiting.append(batch)
            if on_reduced is not None:
                on_reduced(limit)
        else:
            yield batch, vectors
            continue
        _release_cached_memory()  # not in the handler: the error holds the tensors of the failed batch


def _one_behind(
    pooled: Iterable[tuple[list[int], torch.Tensor]],
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Bring a batch's vectors to the CPU once the next batch is on its way, so that a GPU never waits for the host."""
    waiting: tuple[list[int], torch.Tensor] | None = None
    for batch in pooled:
        if waiting is not None:
            yield waiting[0], waiting[1].cpu()
        waiting = batch
    if waiting is not None:
        yield waiting[0], waiting[1].cpu()


def _release_cached_memory() -> None:
    """Give back what allocators keep: after running out, it is in blocks of the wrong sizes."""
    return_freed_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; the CPU allocator has no exception class of its own."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(phrase in str(error).lower() for phrase in _OUT_OF_MEMORY)


def _one_frame_too_large(frame_id: str, length: int, model_id: str) -> OutOfMemoryError:
    """The error for a frame that does not fit even alone."""
    return OutOfMemoryError(
        f"out of memory: {model_id} cannot embed frame {frame_id} ({length} tokens) even alone",
        hint="free memory on the device, use a half precision or a smaller model, or run on the CPU",
        id=frame_id,
        tokens=length,
    )


def _check_finite(rows: torch.Tensor, frames: Tokenized, model_id: str) -> None:
    """Refuse NaN and infinity, naming the first frame that has one."""
    bad = (~torch.isfinite(rows).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        frame = frames.first_id(bad[0])
        raise VirnucError(
            f"{model_id} gave a vector that is not finite for frame {frame} ({len(bad)} distinct frames)",
            hint="use --precision bfloat16 or float32; float16 overflows on some frames",
            id=frame,
        )
