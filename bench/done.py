"""Is a shard done? The quick look at 10,000 shards, and how much quicker it is than loading one, in one run.

python bench/done.py [--shards 10000] [--rows 10000] [--dim 2560]
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from virnuc_dagster.checkpoints import CheckpointKey, LocalStore


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2_560)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="virnuc-bench-"))
    try:
        store = LocalStore(folder)
        keys = [CheckpointKey("esm2_embeddings", "bench", f"bench__{n:05d}") for n in range(options.shards)]
        tiny = {"ids": ["a"], "data": torch.ones(1, 2)}
        for key in keys:
            store.save(key, tiny, {"model_id": "x", "inputs": {"protein": "0" * 64}})
        every = statistics.median(seconds(lambda: [store.record(key) for key in keys]) for _ in range(5))
        large = CheckpointKey("esm2_embeddings", "large", "large__00001")
        ids = [f"contig_{row}_chunk_1F1" for row in range(options.rows)]
        store.save(large, {"ids": ids, "data": torch.randn(options.rows, options.dim)}, {"model_id": "x"})
        looks, loads = [], []
        for _ in range(7):
            looks.append(seconds(lambda: [store.record(large) for _ in range(100)]) / 100)
            loads.append(seconds(lambda: store.load(large)))
    finally:
        shutil.rmtree(folder)
    ratio = statistics.median(load / look for load, look in zip(loads, looks, strict=True))
    print(f"{options.shards:,} shards: {every:.3f} s, {every / options.shards * 1e6:.0f} us each")
    print(f"one shard of {options.rows:,} x {options.dim:,}: look {statistics.median(looks) * 1e6:.0f} us, "
          f"load {statistics.median(loads) * 1e3:.0f} ms, {ratio:,.0f} times as long")  # fmt: skip
    print(json.dumps({"bench": "done", "shards": options.shards, "seconds": round(every, 3), "ratio": round(ratio)}))


if __name__ == "__main__":
    main()
