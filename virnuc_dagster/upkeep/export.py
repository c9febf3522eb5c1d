"""What of a batch can be exported: checked to be whole and of one making, and read shard by shard."""

from collections.abc import Iterator, Mapping
from typing import Any

from virnuc_dagster.checkpoints import CheckpointStore, CommitRecord, differences
from virnuc_dagster.errors import InputError
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.report.exports import Matrix, Texts
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, EMBEDDINGS, FRAMES, SEQUENCES, STAGES
from virnuc_dagster.stages.staleness import StaleError, stale_reasons


def read_for_export(store: CheckpointStore, batch: str, stage: str, bundle: str) -> Matrix | Texts:
    """A stage of a batch, to be written as it is read.

    Args:
        store: Where it is.
        batch: Key of the batch.
        stage: One with `export_formats`; of frames the proteins are given.
        bundle: The wanted bundle, which says how wide the embeddings of a batch without frames are.

    Raises:
        InputError: Some of its shards have no result, or it has none and the bundle is not of its windows.
        BundleError: It has no shards and there is no such bundle.
        StaleError: Its shards were not made alike, or not from what is stored now.
        CheckpointError: A checkpoint is damaged.
    """
    if stage == SEQUENCES:
        source = store.load(batch_checkpoint(SEQUENCES, batch))
        return Texts(zip(source["description"], source["sequence"], strict=True))
    if store.record(batch_checkpoint(BATCH, batch)) is None:
        raise InputError(f"{batch} is not cut into frames yet", hint="`virnuc predict` computes what is missing")
    manifest = store.load(batch_checkpoint(BATCH, batch))
    shards = list(manifest["shards"])
    records = _records(store, batch, stage, shards)
    if stage == FRAMES:
        return Texts(_proteins(store, shards))
    for shard, record in records.items():
        _check_inputs(store, stage, shard, record)
    provenance = _common_provenance(stage, records)
    columns = _columns(stage, records, manifest, bundle)
    ids = [frame for shard in shards for frame in store.load(shard_checkpoint(FRAMES, shard))["ids"]]
    facts = {"batch": batch, "stage": stage, "provenance": provenance}
    return Matrix(columns, ids, _values(store, stage, shards), facts)


def _columns(
    stage: str, records: Mapping[str, CommitRecord], manifest: Mapping[str, Any], bundle: str
) -> tuple[str, ...]:
    """Names of the columns: as many as are stored, or without a shard as many as the bundle would give."""
    if STAGES[stage].columns:
        return STAGES[stage].columns
    width = next((record.dim for record in records.values()), None)
    if width is None:
        spec = open_bundle(bundle).spec
        if spec.window_length != manifest["window_length"]:
            raise InputError(
                f"the batch has no frames, so only a bundle can say how wide its embeddings are, and {spec.name} is"
                f" for windows of {spec.window_length} bases, not of {manifest['window_length']}",
                hint="give the bundle of the batch's other results with --bundle",
            )
        width = spec.encoder(EMBEDDINGS[stage].part).dim
    return tuple(f"dim_{i}" for i in range(width))


def _records(store: CheckpointStore, batch: str, stage: str, shards: list[str]) -> dict[str, CommitRecord]:
    found = {shard: store.record(shard_checkpoint(stage, shard)) for shard in shards}
    if missing := [shard for shard, record in found.items() if record is None]:
        shown = missing[0] + (", ..." if missing[1:] else "")
        raise InputError(
            f"{stage} of {batch}: {len(missing):,} of {len(shards):,} shards have no result ({shown})",
            hint="run `virnuc predict` on the same file again; it computes only what is missing",
            missing=missing,
        )
    return {shard: record for shard, record in found.items() if record is not None}


def _check_inputs(store: CheckpointStore, stage: str, shard: str, record: CommitRecord) -> None:
    """Refuse a shard that was not made from what is stored now."""
    made_of = record.provenance.get("inputs") or dict.fromkeys(STAGES[stage].inputs)
    for name, digest in made_of.items():
        source, column = STAGES[stage].inputs[name]
        stored = store.record(shard_checkpoint(source, shard))
        if stored is None or stale_reasons({name: digest}, {name: stored.content[column]}):
            raise StaleError(
                f"{stage} of {shard} was not made from the {source} that are stored now",
                hint="run `virnuc predict` on the same file again",
                stage=stage,
                shard=shard,
            )


def _common_provenance(stage: str, records: Mapping[str, CommitRecord]) -> dict[str, Any]:
    """What all shards were made with."""
    made = {shard: {k: v for k, v in r.provenance.items() if k != "inputs"} for shard, r in records.items()}
    first = next(iter(made.values()), {})
    for shard, provenance in made.items():
        if changed := differences(provenance, first):
            raise StaleError(
                f"the shards of {stage} were not made alike; {shard}: {'; '.join(map(str, changed))}",
                hint="run `virnuc predict` with the wanted bundle and precision, then export",
                stage=stage,
                shard=shard,
            )
    return first


def _values(store: CheckpointStore, stage: str, shards: list[str]) -> Iterator[Any]:
    for shard in shards:
        frames, result = (store.load(shard_checkpoint(name, shard)) for name in (FRAMES, stage))
        if frames["ids"] != result["ids"]:
            rows = {frame: row for row, frame in enumerate(result["ids"])}
            yield result["data"][[rows[frame] for frame in frames["ids"]]].float().numpy()
        else:
            yield result["data"].float().numpy()


def _proteins(store: CheckpointStore, shards: list[str]) -> Iterator[tuple[str, str]]:
    for shard in shards:
        frames = store.load(shard_checkpoint(FRAMES, shard))
        yield from zip(frames["ids"], frames["protein"], strict=True)
