"""Where the time of a batch goes, and whether the encoders ever wait for anything else.

    python bench/pipeline.py [--frames 10000] [--threads 1 2] [--bundle mini] [--sample 150M]

Runs every stage on a seeded input of random coding contigs in a new store, without Dagster, once for each number of
threads, and shows each stage's share and how much of the embedding stages was spent outside of their encoder (reading
frames, tokenising, grouping, copying, committing). The same time outside is then set against an encoder of production
size, whose speed is measured on `--sample-frames` frames: its share is what that encoder would wait.
Wall seconds; on a busy machine only the shares mean something.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from encoders import CPU, ESM2, RESIDUES, SEED
from frames import write_contigs

from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.embedding.device import set_threads
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Encoder, Esm2Model
from virnuc_dagster.embedding.memory import keep_freed_memory
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.batch import add_sequences, batch_provenance, build_batch
from virnuc_dagster.stages.ensure import ensure_shards
from virnuc_dagster.stages.keys import batch_checkpoint
from virnuc_dagster.stages.pipeline import BATCH
from virnuc_dagster.stages.report import build_report
from virnuc_dagster.stages.shards import PredictionStage

BASES_A_FRAME = 480  # of the contigs below, nearly


class Clock:
    """Wall seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time counted."""

        def run(*arguments: Any) -> Any:
            with self(name):
                return work(*arguments)

        return run


def run(path: Path, home: Path, bundle_name: str, threads: int) -> tuple[Clock, int]:
    """Every stage of one batch; returns the times and the number of frames."""
    clock, store, progress = Clock(), LocalStore(home / "store"), Progress()
    bundle = open_bundle(bundle_name)
    final = PredictionStage(store, bundle, ComputeOptions(device="cpu", threads=threads))
    with clock("read"):
        batch, _ = add_sequences(store, path, path.name, window_length=bundle.spec.window_length, shard_size=2_500)
    with clock("cut"):
        manifest = build_batch(store, batch, progress, {})
        store.save(batch_checkpoint(BATCH, batch), manifest, batch_provenance(store, batch))
    for stage in (*final.inputs, final):
        if stage is not final:
            stage.encoder.pool = clock.timed(f"in {stage.name}", stage.encoder.pool)  # loading is another bench's
        with clock(stage.name):
            outcomes = [outcome for _, outcome in ensure_shards(stage, manifest["shards"], store, progress, {})]
        assert all(not isinstance(outcome, Exception) for outcome in outcomes)
    with clock("report"):
        build_report(store, batch, final, home / "report")
    return clock, sum(manifest["shard_rows"])


def seconds_a_frame(name: str, frames: int) -> float:
    """What one frame of 166 residues costs an ESM-2 of this shape."""
    torch.manual_seed(SEED)
    layers, width, heads = ESM2[name]
    encoder = Esm2Encoder(Esm2Model(Esm2Config(width, layers, heads, 4 * width)).pack(torch.float32, CPU), name, CPU)
    proteins = ["".join(random.choices("LAGVSERTIDPKQNFYMHWC", k=RESIDUES)) for _ in range(frames)]
    ids = [str(i) for i in range(frames)]
    embed(encoder, ids, proteins, token_budget=2048)
    began = time.perf_counter()
    embed(encoder, ids, proteins, token_budget=2048)
    return (time.perf_counter() - began) / frames


def main() -> int:
    """Run the stages; print a table a number of threads and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--bundle", default="mini")
    parser.add_argument("--sample", default="150M", choices=list(ESM2))
    parser.add_argument("--sample-frames", type=int, default=24)
    options = parser.parse_args()
    random.seed(SEED)
    keep_freed_memory()
    rows = []
    with tempfile.TemporaryDirectory(prefix="virnuc-bench-") as scratch:
        path = Path(scratch) / "contigs.fasta"
        write_contigs(path, options.frames * BASES_A_FRAME, coding=True)
        for threads in options.threads:
            clock, frames = run(path, Path(scratch) / f"home{threads}", options.bundle, threads)
            stages = {name: value for name, value in clock.seconds.items() if not name.startswith("in ")}
            total = sum(stages.values())
            print(f"\n{frames:,} frames, {threads} threads, {options.bundle}: {frames / total:,.0f} frames/s")
            for name, value in stages.items():
                inside = clock.seconds.get(f"in {name}")
                outside = "" if inside is None else f"  {value - inside:6.2f} s outside of the encoder"
                print(f"  {name:22} {value:8.2f} s {value / total:6.1%}{outside}")
            rows.append({"threads": threads, "frames": frames, "frames_per_s": round(frames / total, 1)})
            rows[-1] |= {name: round(value, 3) for name, value in clock.seconds.items()}
        set_threads(options.threads[-1])
        large = seconds_a_frame(options.sample, options.sample_frames) * frames
        outside = stages["esm2_embeddings"] - clock.seconds["in esm2_embeddings"]
        waits = outside / (outside + large)
        print(f"\nan ESM-2 {options.sample} takes {large:,.0f} s for them; it would wait {waits:.3%} of the time")
    print(json.dumps({"bench": "pipeline", "rows": rows, "sample": options.sample, "waits": round(waits, 5)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
