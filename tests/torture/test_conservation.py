"""T15: frames in = rows out, in order, each vector with its own id, whatever is killed or fails on the way."""

import hashlib
import os
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kits.torture import random_kills

from virnuc_dagster.checkpoints import LocalStore, StorageError
from virnuc_dagster.classify.head import Head, predict
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.progress import Progress
from virnuc_dagster.sequences.translation import frame_id, open_frames
from virnuc_dagster.stages.batch import add_sequences, batch_provenance, build_batch, current_manifest
from virnuc_dagster.stages.ensure import ensure_shards
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH, FRAMES, PREDICTIONS
from virnuc_dagster.stages.shards import PredictionStage

DNABERT_S, ESM2 = "dnabert_s_embeddings", "esm2_embeddings"

WINDOW = 30
DIMS = {"dnabert_s": 3, "esm2": 4}


class HashEncoder:
    """Embeds a text as numbers that hardly any other text has, by plain arithmetic on its letters."""

    model_id = "hash"

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def tokenize(self, texts):
        return [list(text.encode()) for text in texts]

    def pool(self, tokens):
        places = torch.arange(1, tokens.shape[1] + 1)
        columns = [((tokens * (places % (7 + 2 * column) + 1)).sum(1) % 9_973) / 9_973 for column in range(self.dim)]
        return torch.stack(columns, 1).to(torch.float32)


class Bundle:
    """A bundle of hash encoders and a random head."""

    name = "hash"
    spec = SimpleNamespace(
        encoders=[SimpleNamespace(part=part) for part in DIMS], encoder=lambda part: SimpleNamespace(dim=DIMS[part])
    )

    def provenance(self, part, precision="float32"):
        return {"model_id": f"hash of {part}"}

    def load_encoder(self, part, device, precision):
        return HashEncoder(DIMS[part])

    def load_head(self, device):
        torch.manual_seed(0)
        return Head(sum(DIMS.values()), 5).eval()


class FaultyStore(LocalStore):
    """Raises at the saves it is told to, before or after their commit."""

    def __init__(self, root: Path, faults: dict[int, str]) -> None:
        super().__init__(root)
        self.faults, self.saves = faults, 0

    def save(self, key, payload, provenance, writer=None):
        self.saves += 1
        fault = self.faults.get(self.saves)
        if fault == "before":
            raise StorageError(f"{key}: injected")
        record = super().save(key, payload, provenance, writer)
        if fault == "after":
            raise StorageError(f"{key}: injected after the commit")
        return record


def work(store: LocalStore, fasta: Path, shard_size: int) -> tuple[str, bool]:
    """One attempt at the whole of a batch; says which it is and whether all of it is done."""
    batch, _ = add_sequences(store, fasta, "torture", window_length=WINDOW, shard_size=shard_size)
    manifest = current_manifest(store, batch)
    if manifest is None:
        manifest = build_batch(store, batch, Progress(), {})
        store.save(batch_checkpoint(BATCH, batch), manifest, batch_provenance(store, batch))
    predictions = PredictionStage(store, Bundle(), ComputeOptions(device="cpu", token_budget=500))
    failed = 0
    for stage in (*predictions.inputs, predictions):
        outcomes = ensure_shards(stage, manifest["shards"], store, Progress(), {})
        failed += sum(isinstance(outcome, Exception) for _, outcome in outcomes)
    return batch, failed == 0


def check(store: LocalStore, batch: str, sequences: list[tuple[str, str]]) -> int:
    """Compare every id and every number with plain computation from the sequences; returns the number of frames."""
    table = open_frames([sequence.encode() for _, sequence in sequences], WINDOW)
    places = zip(table.sequence.tolist(), table.window.tolist(), table.frame.tolist(), strict=True)
    ids = [frame_id(sequences[sequence][0], window, frame) for sequence, window, frame in places]
    shards = store.load(batch_checkpoint(BATCH, batch))["shards"]
    found = {
        stage: [store.load(shard_checkpoint(stage, shard)) for shard in shards]
        for stage in (FRAMES, DNABERT_S, ESM2, PREDICTIONS)
    }
    for stage, payloads in found.items():
        assert [name for payload in payloads for name in payload["ids"]] == ids, stage
    if not ids:
        return 0
    data = {stage: torch.cat([payload["data"] for payload in found[stage]]) for stage in (DNABERT_S, ESM2, PREDICTIONS)}
    for stage, texts, dim in ((DNABERT_S, table.nucleotide, 3), (ESM2, table.protein, 4)):
        encoder = HashEncoder(dim)
        wanted = torch.cat([encoder.pool(torch.tensor([tokens])) for tokens in encoder.tokenize(texts)])
        assert torch.equal(data[stage], wanted), f"{stage}: a vector of another frame"
    scores = predict(Bundle().load_head(None), {"dnabert_s": data[DNABERT_S], "esm2": data[ESM2]})
    assert torch.allclose(data[PREDICTIONS], scores, atol=1e-6)
    return len(ids)


letters = st.text("ACGT", min_size=0, max_size=150) | st.text("ACGTNRYacgt-", max_size=70)


@settings(max_examples=300 if os.environ.get("VIRNUC_FULL") else 15, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(letters, min_size=1, max_size=6),
    shard_size=st.integers(1, 9),
    faults=st.dictionaries(st.integers(1, 40), st.sampled_from(["before", "after"]), max_size=8),
)
def test_faults_change_no_row(tmp_path_factory, texts, shard_size, faults):
    root = tmp_path_factory.mktemp("conservation")
    sequences = [(f"s{number}", text.replace("-", "N").upper()) for number, text in enumerate(texts)]
    fasta = root / "torture.fa"
    fasta.write_text("".join(f">{name}\n{text}\n" for name, text in sequences))
    store = FaultyStore(root / "store", faults)
    for _ in range(len(faults) + 1):
        try:
            batch, done = work(store, fasta, shard_size)
        except StorageError:  # while sequences or frames were stored
            continue
        if done:
            break
    assert done, "not finished although every fault was met once"
    check(store, batch, sequences)


def random_sequences(bases: int, seed: int) -> list[tuple[str, str]]:
    chance = random.Random(seed)
    sequences, left = [], bases
    while left > 0:
        length = min(left, chance.choice([0, 2, 29, 31, 500, 3_000, 20_000]) or 1)
        sequences.append((f"s{len(sequences)}", "".join(chance.choices("ACGT", k=length))))
        left -= length
    return sequences


def write_fasta(path: Path, sequences: list[tuple[str, str]]) -> Path:
    path.write_text("".join(f">{name}\n{text}\n" for name, text in sequences))
    return path


@pytest.mark.parametrize("seed", [15])
def test_kills_change_no_row(tmp_path, seed, full, ledger):
    """A process that does the whole batch is killed at random times until it gets through."""
    bases, kills, longest = (7_500_000, 25, 20.0) if full else (30_000, 12, 0.6)
    sequences = random_sequences(bases, seed)
    fasta = write_fasta(tmp_path / "torture.fa", sequences)
    store, size = LocalStore(tmp_path / "store"), 10_000 if full else 150
    committed: set[str] = set()
    for _ in random_kills(lambda: work(store, fasta, size), kills, longest, seed):
        now = {hashlib.sha256(path.read_bytes()).hexdigest() for path in store.root.rglob("*.done")}
        assert committed <= now, "a committed record was lost or written again"
        committed = now
    batch, done = work(store, fasta, size)
    assert done

    frames = check(store, batch, sequences)

    assert frames > (1_000_000 if full else 3_000)
    ledger("T15", f"SIGKILL during a batch of {frames:,} frames", events=kills, whole=kills)
    store.sweep(grace_seconds=0)
    assert not [path for path in store.root.rglob("*") if path.name.endswith(".tmp")]


def test_the_plain_computation_tells_vectors_apart(tmp_path):
    """Exchange two rows of a shard behind the store's back: `check` notices."""
    sequences = random_sequences(3_000, 1)
    store = LocalStore(tmp_path / "store")
    batch, _ = work(store, write_fasta(tmp_path / "torture.fa", sequences), 50)
    key = store.list(ESM2)[0]
    payload, record = store.load(key), store.record(key)
    payload["data"] = payload["data"][[1, 0, *range(2, len(payload["ids"]))]]
    store.save(key, {"ids": payload["ids"], "data": payload["data"]}, record.provenance)

    with pytest.raises(AssertionError, match="a vector of another frame"):
        check(store, batch, sequences)
