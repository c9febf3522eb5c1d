"""The stages from a sequence file to scores, one row each, in the order of the flow.

Everything that loops over stages reads `PIPELINE`: checks, audit, removal, export, sizes, titles. What a stage computes
is in `batch`, `shards` and `report`. Importing any stage registers the kinds of these rows with the checkpoint stores.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from virnuc_dagster.checkpoints import Kind, register
from virnuc_dagster.embedding.registry import ENCODERS, EncoderSpec

if TYPE_CHECKING:
    from virnuc_dagster.models.spec import BundleSpec

SEQUENCES, FRAMES, BATCH, PREDICTIONS = "sequences", "frames", "sequence_batch", "predictions"
_FLOATS = ("float32", "float16", "bfloat16")
_COUNT = (("int64",), 1)
_MATRIX = ("parquet", "safetensors", "h5ad", "tsv")


@dataclass(frozen=True)
class StageSpec:
    """One stage: what it is called, what its checkpoints hold, and from what they are made.

    Attributes:
        name: Of the stage, its asset and its folder in a store.
        title: For people.
        of: What one checkpoint is of.
        kind: What a checkpoint holds.
        unit: What its progress counts.
        inputs: Recorded input -> the stage and column that it comes from.
        columns: Names of the columns of its matrix; empty if only a bundle knows how many there are.
        export_formats: Kinds of files it can be exported as.
        encoder: Whose embeddings it holds, if it does.
    """

    name: str
    title: str
    of: Literal["batch", "shard"]
    kind: Kind
    unit: str = "frames"
    inputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    export_formats: tuple[str, ...] = ()
    encoder: EncoderSpec | None = None


def _embedding(encoder: EncoderSpec) -> StageSpec:
    return StageSpec(
        encoder.stage,
        f"{encoder.title} embeddings",
        of="shard",
        kind=Kind(tensors={"data": (_FLOATS, 2)}, older_ids=encoder.older_ids),
        inputs={encoder.reads: (FRAMES, encoder.reads)},
        export_formats=_MATRIX,
        encoder=encoder,
    )


PIPELINE: tuple[StageSpec, ...] = (
    StageSpec(
        SEQUENCES,
        "sequences",
        of="batch",
        kind=Kind(text=("description", "sequence")),
        unit="sequences",
        export_formats=("fasta",),
    ),
    StageSpec(FRAMES, "frames", of="shard", kind=Kind(text=("nucleotide", "protein")), export_formats=("fasta",)),
    StageSpec(
        BATCH,
        "windows and frames",
        of="batch",
        kind=Kind(
            tensors=dict.fromkeys(("length", "windows", "open_windows", "frames", "ambiguous"), _COUNT),
            free=("shards", "shard_rows", "window_length", "shard_size"),
        ),
        unit="sequences",
    ),
    *map(_embedding, ENCODERS),
    StageSpec(
        PREDICTIONS,
        "predictions",
        of="shard",
        kind=Kind(tensors={"data": (("float32",), 2)}, probabilities=True),
        inputs={encoder.stage: (encoder.stage, "data") for encoder in ENCODERS},
        columns=("score_others", "score_virus"),
        export_formats=_MATRIX,
    ),
)
STAGES: Mapping[str, StageSpec] = {stage.name: stage for stage in PIPELINE}
#: Stage -> its encoder, in the order in which vectors are joined.
EMBEDDINGS: Mapping[str, EncoderSpec] = {stage.name: stage.encoder for stage in PIPELINE if stage.encoder}
#: The stages that are assets with a partition a shard.
SHARD_STAGES = (*EMBEDDINGS, PREDICTIONS)
#: What is computed, and may be computed again; stored sequences are only read.
COMPUTED = tuple(stage.name for stage in PIPELINE if stage.name != SEQUENCES)
#: Stage -> what its data file holds; `merged_features` are of older programs only.
KINDS: Mapping[str, Kind] = {stage.name: stage.kind for stage in PIPELINE} | {
    "merged_features": Kind(tensors={"data": (("float32",), 2)}, optional=("labels",), older_ids="ids")
}
register(KINDS)


def embeddings_of(bundle: "BundleSpec") -> list[str]:
    """Return the stages whose encoders a bundle has: the table may have more, of which its head knows nothing."""
    parts = {encoder.part for encoder in bundle.encoders}
    return [stage for stage, encoder in EMBEDDINGS.items() if encoder.part in parts]
