"""What an input is said to come to is what it comes to."""

from pathlib import Path

import pytest
import torch

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.planning import sizing
from virnuc_dagster.progress import Progress
from virnuc_dagster.sequences.sampling import estimate_file
from virnuc_dagster.stages.batch import add_sequences, build_batch
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, FRAMES, PREDICTIONS, SEQUENCES

DNABERT_S, ESM2 = "dnabert_s_embeddings", "esm2_embeddings"

DEMO = Path(__file__).parents[2] / "demo" / "demo.fasta"
WIDTHS = {DNABERT_S: 768, ESM2: 2560}


@pytest.mark.parametrize("shard_size", [10, 1_000])
def test_bytes_are_those_of_the_store(tmp_path, shard_size):
    store = LocalStore(tmp_path)
    batch, _ = add_sequences(store, DEMO, "demo.fasta", window_length=500, shard_size=shard_size)
    manifest = build_batch(store, batch, Progress(), {})
    store.save(batch_checkpoint(BATCH, batch), manifest, {})
    for shard in manifest["shards"]:
        ids = store.load(shard_checkpoint(FRAMES, shard))["ids"]
        for stage, dim in ((DNABERT_S, 768), (ESM2, 2560)):
            store.save(shard_checkpoint(stage, shard), {"ids": ids, "data": torch.rand(len(ids), dim)}, {"model": "m"})
        halves = torch.full((len(ids), 2), 0.5)
        store.save(shard_checkpoint(PREDICTIONS, shard), {"ids": ids, "data": halves}, {"model": "m"})

    counts = estimate_file(DEMO, 500).counts
    said = sizing.bytes_of_stages(counts, len(manifest["shards"]), WIDTHS)

    assert len(manifest["shards"]) == sizing.shards_of(counts.frames, shard_size)
    for stage in (SEQUENCES, BATCH, FRAMES, DNABERT_S, ESM2, PREDICTIONS):
        stored = sum(path.stat().st_size for path in (tmp_path / stage).rglob("*") if path.is_file())
        slack = sizing.FILE_BYTES * (1 if stage in (SEQUENCES, BATCH) else len(manifest["shards"])) // 2
        assert said[stage] == pytest.approx(stored, rel=0.02, abs=slack), stage


def test_published_widths_take_what_was_measured():
    """10,000 frames of 500-base windows: 3,107 bytes a DNABERT-S row, 10,275 an ESM-2 row, 43 a prediction."""
    from virnuc_dagster.sequences.sampling import Counts

    counts = Counts(frames=10_000, frame_id_letters=250_000, nucleotides=4_950_000, residues=1_650_000)
    said = sizing.bytes_of_stages(counts, 1, WIDTHS)
    assert [said[stage] // 10_000 for stage in (DNABERT_S, ESM2, PREDICTIONS)] == [3_107, 10_275, 43]


@pytest.mark.parametrize(
    ("frames", "registered", "size", "shards", "fits"),
    [
        (0, 0, 10_000, 0, True),
        (10**6, 0, 10_000, 100, True),
        (10**8, 0, 10_000, 10_000, True),
        (10**8, 1, 20_000, 5_000, True),
        (10**9, 0, 100_000, 10_000, True),
        (10**9, 95_000, 100_000, 10_000, False),
        (10**10, 0, 100_000, 100_000, True),
    ],
    ids=[
        "nothing",
        "a run",
        "ten just fit",
        "not beside another",
        "larger shards",
        "a full home",
        "no larger than memory",
    ],
)
def test_advice(frames, registered, size, shards, fits):
    found = sizing.advise(frames, WIDTHS, registered=registered)
    assert (found.shard_size, found.shards, found.fits) == (size, shards, fits)
    assert not fits or found.shards * found.inputs + registered <= sizing.PARTITIONS_MAX


def test_narrow_embeddings_allow_larger_shards():
    assert sizing.advise(10**10, {DNABERT_S: 192, ESM2: 64}, registered=0).shard_size == 1_000_000


def test_time_adds_up():
    assert sizing.seconds_of_run([10.0, 5.0], 100) == pytest.approx(15.0 + 100 * sizing.OVERHEAD_SECONDS_A_SHARD)
