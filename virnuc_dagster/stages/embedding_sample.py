"""The frames on a report's map: an even sample of the batch, with their embeddings and scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from virnuc_dagster.checkpoints import CheckpointError, CheckpointStore, Level, Payload
from virnuc_dagster.report.embedding_map import FRAMES_MAX, SHARDS_MAX, EmbeddingMap, evenly, principal_plane
from virnuc_dagster.stages.keys import shard_checkpoint
from virnuc_dagster.stages.pipeline import PREDICTIONS


@dataclass
class SampledMap:
    """A map, or None if there is nothing to map, and what to say about it."""

    map: EmbeddingMap | None = None
    warnings: list[str] = field(default_factory=list)


def sample_map(
    store: CheckpointStore, manifest: Payload, current: Sequence[str], embeddings: Sequence[str], level: Level
) -> SampledMap:
    """Sample at most `FRAMES_MAX` frames of at most `SHARDS_MAX` shards; one shard's embeddings are loaded at a time.

    The map is a picture, so embeddings that cannot be read do not stop a report: their shard is left out, and named.

    Args:
        store: Where the embeddings are.
        manifest: Of the batch.
        current: Shards with wanted predictions, in order.
        embeddings: The stages whose embeddings are drawn.
        level: How far to check what is loaded.
    """
    rows = dict(zip(manifest["shards"], manifest["shard_rows"], strict=True))
    first = dict(zip(manifest["shards"], np.cumsum([0, *manifest["shard_rows"]])[:-1].tolist(), strict=True))
    ends = np.cumsum(manifest["frames"].numpy())
    chosen = [current[place] for place in evenly(len(current), SHARDS_MAX)]
    sampled, result = [], SampledMap()
    for shard in chosen:
        places = evenly(rows[shard], -(-FRAMES_MAX // len(chosen)))
        try:
            *vectors, scores = (_rows(store, stage, shard, places, level) for stage in (*embeddings, PREDICTIONS))
        except CheckpointError as error:
            result.warnings.append(
                f"The map leaves out shard {shard}: its embeddings cannot be read ({error.reason}). The scores are not"
                " affected; `virnuc checkpoints validate` says more."
            )
            continue
        sampled.append((*vectors, scores[:, 1], np.searchsorted(ends, first[shard] + places, side="right")))
    if sampled:
        *vectors, virus, sequence = (np.concatenate(column) for column in zip(*sampled, strict=True))
        plane, explained = principal_plane(tuple(vectors))
        frames = sum(rows[shard] for shard in current)
        result.map = EmbeddingMap(plane[:, 0], plane[:, 1], explained, sequence, virus.astype(np.float64), frames)
    return result


def _rows(
    store: CheckpointStore, stage: str, shard: str, places: npt.NDArray[np.int64], level: Level
) -> npt.NDArray[np.float32]:
    """Some rows of a shard's result, float32."""
    data = store.load(shard_checkpoint(stage, shard), level)["data"]
    return data[places].float().numpy()
