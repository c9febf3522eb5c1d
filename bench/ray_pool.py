"""What backend `ray` costs and brings on one machine: two workers over one, and one worker over backend `local`.

    nice -n 10 python bench/ray.py [--frames 8000] [--shard-size 250] [--rounds 3]

Cuts a seeded input of random coding contigs into frames once, then embeds its shards with ESM-2 of the bundle, each way
in a store of its own: `local` with one thread, `ray` with one worker of one thread, `ray` with two. The ways take turns
so that other work on the machine meets all of them; the clock starts once the models are loaded (two shards go ahead).
Prints the median ratio of the rounds, and how many shards were computed at a time on average: what handing them out
costs, also on a busy machine. The ratio of two workers to one needs two free cores. Needs the extra `ray`.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from encoders import SEED
from frames import write_contigs

from virnuc_dagster.backends import Backend, local
from virnuc_dagster.backends.ray_pool import RayPool
from virnuc_dagster.checkpoints import LocalStore
from virnuc_dagster.compute import ComputeOptions
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.progress import Progress
from virnuc_dagster.stages.batch import add_sequences, build_batch
from virnuc_dagster.stages.pipeline import FRAMES
from virnuc_dagster.stages.shards import EmbeddingStage

ESM2 = "esm2_embeddings"

BASES_A_FRAME = 480  # of the contigs below, nearly


def measure(backend: Backend, stage: EmbeddingStage, shards: list[str]) -> tuple[float, float]:
    """Wall seconds for the shards, models loaded, and seconds spent computing them, summed over workers."""
    run = {"run_id": "bench"}
    ahead = shards[:2]  # one for each worker
    assert all(not isinstance(o, Exception) for _, o in backend(stage, ahead, stage.store, Progress(), run))
    began = time.perf_counter()
    outcomes = [outcome for _, outcome in backend(stage, shards[2:], stage.store, Progress(), run)]
    taken = time.perf_counter() - began
    assert all(not isinstance(outcome, Exception) and not outcome.reused for outcome in outcomes)
    return taken, sum(outcome.seconds for outcome in outcomes)


def main() -> int:
    """Measure each way in turn; print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8_000)
    parser.add_argument("--shard-size", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bundle", default="mini")
    options = parser.parse_args()
    random.seed(SEED)
    compute = ComputeOptions(device="cpu", threads=1)
    bundle = open_bundle(options.bundle)
    scratch = Path(tempfile.mkdtemp(prefix="virnuc-bench-"))
    framed = LocalStore(scratch / "framed")
    write_contigs(scratch / "contigs.fasta", options.frames * BASES_A_FRAME, coding=True)
    batch, _ = add_sequences(
        framed, scratch / "contigs.fasta", "bench", window_length=bundle.spec.window_length,
        shard_size=options.shard_size,
    )  # fmt: skip
    build_batch(framed, batch, Progress(), {})
    shards = [key.shard for key in framed.list(FRAMES)]
    one, two = (compute.model_copy(update={"workers": workers}) for workers in (1, 2))
    ways: dict[str, Backend] = {"local": local, "ray, 1 worker": RayPool("local", one)}
    ways["ray, 2 workers"] = RayPool("local", two)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    busy: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds):
        for name, backend in ways.items():
            store = LocalStore(scratch / f"{name}-{turn}")
            shutil.copytree(framed.root, store.root)
            wall, computing = measure(backend, EmbeddingStage(ESM2, store, bundle, compute), shards)
            taken[name].append(wall)
            busy[name].append(computing / wall)
            if isinstance(backend, RayPool):
                backend.close()
            shutil.rmtree(store.root)
    shutil.rmtree(scratch)
    for name, times in taken.items():
        at_work = statistics.median(busy[name])
        shown = " ".join(f"{one:7.2f}" for one in times)
        print(f"{name:16} {shown} s for {len(shards) - 2} shards, {at_work:.2f} computing at a time")
    over = {
        "2 workers over 1": [
            one / two for one, two in zip(taken["ray, 1 worker"], taken["ray, 2 workers"], strict=True)
        ],
        "1 worker over local": [ray / here for ray, here in zip(taken["ray, 1 worker"], taken["local"], strict=True)],
    }
    ratios = {name: round(statistics.median(values), 3) for name, values in over.items()}
    print(f"throughput, 2 workers over 1: {ratios['2 workers over 1']:.2f}")
    print(f"time, 1 worker over local: {ratios['1 worker over local']:.2f}")
    print(
        json.dumps(
            {"bench": "ray", "load_1min": os.getloadavg()[0], "seconds": taken, "computing": busy, "ratios": ratios}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
