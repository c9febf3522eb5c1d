"""The stages that work shard by shard: the embeddings and the predictions.

Each stage says what provenance it wants for a shard (from small records, without loading a tensor) and computes the
shard. Whether a shard is computed at all, and when it is saved, is decided in `ensure`.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from virnuc_dagster.checkpoints import (
    CheckpointKey,
    CheckpointMissingError,
    CheckpointStore,
    CommitRecord,
    Payload,
)
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.pipeline import EMBEDDINGS, FRAMES, PREDICTIONS, embeddings_of
from virnuc_dagster.stages.records import Records
from virnuc_dagster.stages.staleness import StaleError, State, state_of

if TYPE_CHECKING:
    import torch

    from virnuc_dagster.embedding.runner import Encoder, Tokenized
    from virnuc_dagster.models.bundle import Bundle


_NO_EMBEDDING = "there is none: it failed, or was not computed yet"
_WHY_NO_EMBEDDING = "its own error says why it failed; if there is none, materialize it first"


class ShardStage(Protocol):
    """A stage of the pipeline, ready to work on shards of one store with one bundle."""

    name: str
    #: Tokens that an encoder was fed for the shard computed last; 0 where there is no encoder.
    tokens: int
    #: Tokens fed to the encoder at once; 0 where there is no encoder.
    token_budget: int
    #: What it computes with.
    bundle: "Bundle"

    @property
    def dim(self) -> int:
        """Columns of a result."""
        ...

    def reads(self, shard: str) -> list[CheckpointKey]:
        """Return the checkpoints whose records `wanted` reads."""
        ...

    def wanted(self, shard: str, records: Records) -> dict[str, Any]:
        """The provenance that a result of this shard must have. Raises if an input is missing or stale."""
        ...

    def prepare(self, shard: str) -> Any:
        """Read and check the shard's inputs; done one shard ahead, in a thread, while another shard is computed."""
        ...

    def compute(self, inputs: Any, progress: Progress) -> Payload:
        """The result of a shard from its prepared inputs, one row a frame, in the order of the frames."""
        ...


def _record(records: Records, stage: str, shard: str) -> CommitRecord:
    record = records.record(shard_checkpoint(stage, shard))
    if record is None:
        raise CheckpointMissingError(f"{stage} of {shard}")
    return record


class EmbeddingStage:
    """One encoder over the frames of a shard (method.md §4).

    Args:
        name: One of `pipeline.EMBEDDINGS`.
        store: Where frames are read.
        bundle: Holds the encoder.
        options: Device, precision, token budget.

    Attributes:
        token_budget: Tokens fed to the encoder at once: what was asked for, or less once memory ran out in this run.
    """

    #: Raised when the numbers this stage computes change. 2: packed linears, equal within 2e-5.
    METHOD_VERSION = 2

    def __init__(self, name: str, store: CheckpointStore, bundle: "Bundle", options: ComputeOptions) -> None:
        self.name, self.store, self.bundle, self.options = name, store, bundle, options
        self.part, self.column = EMBEDDINGS[name].part, EMBEDDINGS[name].reads
        self.token_budget = options.token_budget
        self.tokens = 0

    @property
    def dim(self) -> int:
        """Width of the encoder's vectors."""
        return self.bundle.spec.encoder(self.part).dim

    @cached_property
    def encoder(self) -> "Encoder":
        """The encoder, loaded at first use: a run that reuses every shard loads no model."""
        return self.bundle.load_encoder(self.part, self.options.make_ready(), self.options.precision)

    def reads(self, shard: str) -> list[CheckpointKey]:
        """The frames of the shard."""
        return [shard_checkpoint(FRAMES, shard)]

    def wanted(self, shard: str, records: Records) -> dict[str, Any]:
        """Content digest of the frames' text, the encoder's digests and the precision."""
        frames = _record(records, FRAMES, shard)
        return {
            "method_version": self.METHOD_VERSION,
            "inputs": {self.column: frames.content[self.column]},
            **self.bundle.provenance(self.part, self.options.precision),
        }

    def prepare(self, shard: str) -> "Tokenized":
        """The tokens of the shard's frames.

        Raises:
            CheckpointError: The frames are damaged.
        """
        from virnuc_dagster.embedding.runner import tokenize

        frames = self.store.load(shard_checkpoint(FRAMES, shard), self.options.level)
        return tokenize(self.encoder, frames["ids"], frames[self.column])

    def compute(self, inputs: "Tokenized", progress: Progress) -> Payload:
        """Embeddings (N, D) float32, row i of frame i.

        Raises:
            OutOfMemoryError: One frame alone does not fit.
        """
        from virnuc_dagster.embedding.runner import embed_tokenized

        self.options.make_ready()

        def keep_to(tokens: int) -> None:
            self.token_budget = tokens
            progress.note(f"{self.name}: out of memory, token budget now {tokens:,}")

        data = embed_tokenized(
            self.encoder,
            inputs,
            token_budget=self.token_budget,
            on_progress=lambda done: progress.advance(self.name, done),
            on_reduced=keep_to,
        )
        self.tokens = sum(map(len, inputs.tokens))
        return {"ids": list(inputs.ids), "data": data}


class PredictionStage:
    """The head over the joined embeddings of a shard (method.md §5).

    Args:
        store: Where embeddings are read.
        bundle: Holds the head; embeddings made with another bundle are refused.
        options: Device, precision.
    """

    METHOD_VERSION = 1
    name = PREDICTIONS
    dim = 2
    tokens = token_budget = 0

    def __init__(self, store: CheckpointStore, bundle: "Bundle", options: ComputeOptions) -> None:
        self.store, self.bundle, self.options = store, bundle, options
        self.inputs = [EmbeddingStage(name, store, bundle, options) for name in embeddings_of(bundle.spec)]

    @cached_property
    def head(self) -> Any:
        """The classifier, loaded at first use."""
        return self.bundle.load_head(self.options.make_ready())

    def reads(self, shard: str) -> list[CheckpointKey]:
        """The embeddings of the shard, and its frames."""
        return [shard_checkpoint(name, shard) for name in (FRAMES, *(stage.name for stage in self.inputs))]

    def wanted(self, shard: str, records: Records) -> dict[str, Any]:
        """Content digests of the embeddings and of the head.

        Raises:
            CheckpointMissingError: An embedding is not there yet.
            StaleError: An embedding was made from other frames or with another bundle or precision.
        """
        contents = {}
        for stage in self.inputs:
            found = state_of(stage, shard, records)
            if found.state is State.MISSING:
                raise CheckpointMissingError(f"{stage.name} of {shard}", _NO_EMBEDDING, hint=_WHY_NO_EMBEDDING)
            if (record := found.or_raise().current) is None:
                raise StaleError(
                    f"{stage.name} of {shard} is stale: {'; '.join(map(str, found.reasons))}",
                    hint=f"materialize {stage.name} for this shard first",
                    stage=stage.name,
                    shard=shard,
                )
            contents[stage.name] = record.content["data"]
        return {"method_version": self.METHOD_VERSION, "inputs": contents, **self.bundle.provenance("head")}

    def prepare(self, shard: str) -> tuple[list[str], "dict[str, torch.Tensor]"]:
        """Frame ids, and each encoder's embeddings of these frames, (N, D) each.

        Raises:
            CheckpointError: An embedding is damaged.
            StaleError: The embeddings do not hold the same frames.
        """
        loaded = [self.store.load(shard_checkpoint(stage.name, shard), self.options.level) for stage in self.inputs]
        frames, ids = _record(self.store, FRAMES, shard).rows, loaded[0]["ids"]
        rows = [{frame: row for row, frame in enumerate(payload["ids"])} for payload in loaded]
        if any(of.keys() != rows[0].keys() for of in rows) or not frames == len(rows[0]) == len(ids):
            found = ", ".join(
                f"{len(payload['ids'])} rows of {stage.name}"
                for stage, payload in zip(self.inputs, loaded, strict=True)
            )
            raise StaleError(
                f"{shard}: {frames} frames and {found} do not match",
                hint="materialize the embeddings of this shard again",
                stage=PREDICTIONS,
                shard=shard,
            )
        return ids, {
            stage.part: payload["data"].float()[[of[frame] for frame in ids] if payload["ids"] != ids else ...]
            for stage, payload, of in zip(self.inputs, loaded, rows, strict=True)
        }

    def compute(self, inputs: tuple[list[str], "dict[str, torch.Tensor]"], progress: Progress) -> Payload:
        """P(others), P(virus) of each frame, (N, 2) float32, in the order of the frames."""
        from virnuc_dagster.classify.head import predict

        self.options.make_ready()
        ids, embeddings = inputs
        scores = predict(self.head, embeddings)
        progress.advance(self.name, len(ids))
        return {"ids": ids, "data": scores}


def shard_stage(name: str, store: CheckpointStore, bundle: "Bundle", options: ComputeOptions) -> ShardStage:
    """The stage of that name."""
    if name == PREDICTIONS:
        return PredictionStage(store, bundle, options)
    return EmbeddingStage(name, store, bundle, options)
