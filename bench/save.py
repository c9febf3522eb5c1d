"""What a safe save costs: CPU time of `LocalStore.save` against writing the same bytes raw, in one run.

    python bench/save.py [--rows 10000] [--dim 2560] [--rounds 7]

Raw is the least that anyone does who cares: write once, fsync, sha256 of the bytes, read back once. A save serialises,
digests content and file, writes, fsyncs, reads back, checks CRCs, digest, schema and every value, and commits.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from virnuc_dagster.checkpoints import CheckpointKey, LocalStore

KEY = CheckpointKey("esm2_embeddings", "bench", "bench__0001")


def raw(path: Path, data: bytes) -> None:
    """Write, fsync, digest, read back."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    hashlib.sha256(data).hexdigest()
    path.read_bytes()


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process, user and system."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=2_560)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="virnuc-bench-"))
    try:
        store = LocalStore(folder / "store")
        payloads = [
            {
                "ids": [f"contig_{row}_chunk_1F1" for row in range(options.rows)],
                "data": torch.randn(options.rows, options.dim),
            }
            for _ in range(2)
        ]
        record = store.save(KEY, payloads[0], {})
        data = (folder / "store" / KEY.stage / KEY.batch / record.file).read_bytes()
        times: dict[str, list[float]] = {"raw": [], "save": []}
        for turn in range(options.rounds):
            times["raw"].append(cpu_seconds(lambda: raw(folder / "raw.bin", data)))
            times["save"].append(cpu_seconds(lambda turn=turn: store.save(KEY, payloads[turn % 2], {})))
    finally:
        shutil.rmtree(folder)
    ratio = statistics.median(s / r for s, r in zip(times["save"], times["raw"], strict=True))
    for name, seconds in times.items():
        print(f"{name:<6}{statistics.median(seconds):8.3f} s CPU  ({min(seconds):.3f} to {max(seconds):.3f})")
    print(f"save / raw = {ratio:.2f}")
    print(json.dumps({"bench": "save", "bytes": len(data), "ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
