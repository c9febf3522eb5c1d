"""Importing embeddings that older programs computed: joined by frame id to a batch, committed shard by shard.

An imported shard is not computed again. What cannot be known of it (weights, tokenizer, precision) is not claimed: its
provenance says `imported`, and every report that uses it says so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from virnuc_dagster.checkpoints import CheckpointError, CheckpointStore, Level
from virnuc_dagster.checkpoints.legacy import SEGMENT, LegacyFile, find_legacy, read_legacy
from virnuc_dagster.errors import InputError
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, EMBEDDINGS, FRAMES
from virnuc_dagster.stages.shards import EmbeddingStage
from virnuc_dagster.stages.staleness import IMPORTED, compare

if TYPE_CHECKING:
    import torch


@dataclass
class StageImport:
    """What an import came to, for one stage; the fields are those of the command's JSON output.

    Attributes:
        stage: Which embeddings.
        adopted: Shards committed from the files.
        present: Shards whose stored result was current already; left as they are.
        missing: Shard -> how many of its frames no file holds; these are computed by the next run.
    """

    stage: str
    adopted: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)


@dataclass
class Import:
    """What an import came to: files used, files refused with the reason, and what became of each stage."""

    used: list[Path] = field(default_factory=list)
    refused: dict[Path, str] = field(default_factory=dict)
    stages: list[StageImport] = field(default_factory=list)


@dataclass
class _Rows:
    """Vectors of one stage by frame id, and the file of each."""

    rows: "dict[str, torch.Tensor]" = field(default_factory=dict)
    files: dict[str, LegacyFile] = field(default_factory=dict)

    def add(self, file: LegacyFile, data: "torch.Tensor") -> None:
        import torch

        for frame, row in zip(file.ids, data, strict=True):
            if frame in self.rows and not torch.equal(self.rows[frame], row):
                raise InputError(
                    f"{frame} has different vectors in {self.files[frame].path} and {file.path}",
                    hint="import the files of one run only",
                )
            self.rows[frame], self.files[frame] = row, file


def import_embeddings(
    store: CheckpointStore, batch: str, folder: Path, stages: Iterable[EmbeddingStage], writer: Mapping[str, str]
) -> Import:
    """Commit what the files below a folder hold of a batch's frames; the files stay as they are.

    Args:
        store: Holds the batch, cut into frames.
        batch: Its key.
        folder: Files of an older program, any mix (or one file).
        stages: The embedding stages of the bundle the vectors are for.
        writer: Who writes, for the records.

    Raises:
        InputError: There is no file, or two files disagree about a frame. Nothing was committed.
        CheckpointError: The batch's frames are damaged.
    """
    stages = list(stages)
    shards = store.load(batch_checkpoint(BATCH, batch))["shards"]
    frames = {shard: store.load(shard_checkpoint(FRAMES, shard), Level.LOAD)["ids"] for shard in shards}
    known = {frame for ids in frames.values() for frame in ids}
    done = Import()
    rows = {stage.name: _Rows() for stage in stages}
    for path in find_legacy(folder):
        try:
            file = read_legacy(path)
        except CheckpointError as error:
            done.refused[path] = error.reason
            continue
        if problem := _take(file, known, {stage.name: stage.dim for stage in stages}, rows):
            done.refused[path] = problem
        else:
            done.used.append(path)
    if not done.used and not done.refused:
        raise InputError(
            f"no checkpoint file below {folder}", hint="name the folder of an older program's output_*.pt files"
        )
    done.stages = [_commit(store, stage, frames, rows[stage.name], writer) for stage in stages]
    return done


def _take(file: LegacyFile, known: set[str], dims: dict[str, int], rows: dict[str, _Rows]) -> str | None:
    """Sort a file's vectors to their stages; returns why it is refused, or None."""
    fitting = sum(frame in known for frame in file.ids)
    if fitting < len(file.ids) or not file.ids:
        return f"{fitting:,} of its {len(file.ids):,} ids are frames of this batch"
    width = file.data.shape[1]
    if file.kind == "merged_features":
        if width != sum(dims.values()):
            return f"{width:,} columns, the bundle's encoders give {' + '.join(map(str, dims.values()))}"
        for stage, data in zip(dims, file.data.split([*dims.values()], dim=1), strict=True):
            rows[stage].add(file, data)
        return None
    of = _stage_of_segment(file, dims) if file.kind == SEGMENT else file.kind
    if of is None or width != dims.get(of):
        expected = ", ".join(f"{name} {dim:,}" for name, dim in dims.items())
        return f"{width:,} columns, the bundle gives {expected}; is --bundle the one it was computed with?"
    rows[of].add(file, file.data)
    return None


def _stage_of_segment(file: LegacyFile, dims: dict[str, int]) -> str | None:
    """Whose vectors a segment holds: by its width, or where encoders have one width, by its path."""
    fitting = [stage for stage, dim in dims.items() if dim == file.data.shape[1]]
    if len(fitting) > 1:
        place = str(file.path).lower()
        fitting = [stage for stage in fitting if (word := EMBEDDINGS[stage].older_path) and word in place]
    return fitting[0] if fitting else None


def _commit(
    store: CheckpointStore,
    stage: EmbeddingStage,
    frames: Mapping[str, list[str]],
    held: _Rows,
    writer: Mapping[str, str],
) -> StageImport:
    """Commit every shard whose frames all have a vector, in the order of the frames."""
    import torch

    result = StageImport(stage.name)
    for shard, ids in frames.items():
        wanted, key = stage.wanted(shard, store), shard_checkpoint(stage.name, shard)
        if compare(key, wanted, store).current:  # a damaged result is replaced
            result.present.append(shard)
        elif lacking := sum(frame not in held.rows for frame in ids):
            result.missing[shard] = lacking
        else:
            sources = {held.files[frame].sha256: held.files[frame].version for frame in ids}
            digests = ",".join(digest[:16] for digest in sorted(sources)[:20])
            versions = ",".join(sorted(set(sources.values())))
            provenance = {
                "inputs": wanted["inputs"],
                "model_id": wanted["model_id"],
                IMPORTED: {"files": len(sources), "sha256": digests, "versions": versions},
            }
            store.save(key, {"ids": ids, "data": torch.stack([held.rows[frame] for frame in ids])}, provenance, writer)
            result.adopted.append(shard)
    return result
