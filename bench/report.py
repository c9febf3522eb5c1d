"""A report of many sequences: time and peak memory to write it, its size, and how fast Chromium opens and searches it.

The batch is made up (two fifths of the contigs hold open frames, scores are random), everything after the scores is
real: verdicts, tables, map and page. Needs chromium for the second half.

    python bench/report.py --sequences 100000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.progress import Progress
from virnuc_dagster.report import paths
from virnuc_dagster.stages.batch import add_sequences, build_batch
from virnuc_dagster.stages.keys import batch_checkpoint, shard_checkpoint
from virnuc_dagster.stages.pipeline import BATCH
from virnuc_dagster.stages.report import build_report
from virnuc_dagster.stages.shards import PredictionStage

SEARCH = """() => new Promise((done) => {
  const began = performance.now(), field = document.getElementById('search');
  field.value = 'node_777'; field.dispatchEvent(new Event('input'));
  requestAnimationFrame(() => done([performance.now() - began, document.getElementById('count').textContent]));
})"""


def stage_of(store: LocalStore) -> PredictionStage:
    """The predictions that the report will want."""
    return PredictionStage(store, open_bundle("mini"), ComputeOptions())


def make_batch(root: Path, sequences: int) -> str:
    """Store contigs, their frames, and random embeddings and scores."""
    rng, store = np.random.default_rng(0), LocalStore(root / "store")
    codons = np.array([a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in "TAA TAG TGA"])
    with (root / "contigs.fasta").open("w") as file:
        for number, length in enumerate(np.exp(rng.normal(7.3, 0.9, sequences)).astype(int) + 3, 1):
            coding = rng.random() < 0.4
            text = "".join(rng.choice(codons if coding else np.array(list("ACGT")), length // (3 if coding else 1) + 1))
            file.write(f">NODE_{number}_length_{length}_cov_{rng.random() * 40:.6f}\n{text[:length]}\n")
    batch, _ = add_sequences(store, root / "contigs.fasta", "contigs", window_length=500, shard_size=10_000)
    manifest = build_batch(store, batch, Progress(), {})
    store.save(batch_checkpoint(BATCH, batch), manifest, {}, {})
    stage = stage_of(store)
    for shard in manifest["shards"]:
        ids = store.load(shard_checkpoint("frames", shard))["ids"]
        for part in stage.inputs:
            data = torch.from_numpy(rng.normal(size=(len(ids), part.dim)).astype(np.float32))
            store.save(shard_checkpoint(part.name, shard), {"ids": ids, "data": data}, part.wanted(shard, store), {})
        virus = torch.from_numpy(rng.beta(0.7, 0.7, len(ids)).astype(np.float32))
        payload = {"ids": ids, "data": torch.stack([1 - virus, virus], dim=1)}
        store.save(shard_checkpoint(stage.name, shard), payload, stage.wanted(shard, store), {})
    return batch


def write_report(root: Path, batch: str) -> dict[str, object]:
    """Write the report in a process of its own and say what it took."""
    began = time.monotonic()
    report = build_report(LocalStore(root / "store"), batch, stage_of(LocalStore(root / "store")), root / "report")
    counts = {name: report.summary[name] for name in ("sequences", "bases", "windows", "scored_windows", "frames")}
    sizes = {path.name: path.stat().st_size for path in sorted((root / "report").iterdir())}
    seconds = round(time.monotonic() - began, 1)
    # Not getrusage: its figure is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) // 1000
    return {**counts, "seconds": seconds, "peak_MB": peak, "MB": {k: round(v / 1e6, 1) for k, v in sizes.items()}}


def open_page(page: Path) -> dict[str, object]:
    """Open the page in headless Chromium, five times, and search it."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ui"))
    from kits.browser import chromium, open_report

    opened, searched, count = [], [], ""
    for _ in range(5):
        with chromium() as window:
            said: list[str] = []
            window.on("console", lambda line, said=said: said.append(line.text))
            began = time.monotonic()
            open_report(window, page)
            opened.append(round(time.monotonic() - began, 2))
            milliseconds, count = window.evaluate(SEARCH)
            searched.append(round(milliseconds))
            assert not said
    return {"open_s": opened, "search_ms": searched, "found": count}


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sequences", type=int, default=100_000)
    parser.add_argument("--report", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.report:
        print(json.dumps(write_report(Path(arguments.report[0]), arguments.report[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        batch = make_batch(Path(folder), arguments.sequences)
        done = subprocess.run(
            [sys.executable, __file__, "--report", folder, batch],
            check=True, capture_output=True, text=True, env=os.environ,
        )  # fmt: skip
        print(json.dumps(json.loads(done.stdout) | open_page(Path(folder) / "report" / paths.HTML), indent=2))


if __name__ == "__main__":
    main()
