"""What a CPU worker holds after many shards of frames of other lengths, with and without giving freed memory back.

    python bench/memory.py [--shards 30]

Embeds the same shards (100 to 130 frames of 100 to 160 residues) with a small float32 ESM-2, each kind in a process of
its own, one thread, after freed memory is kept as in a run. Prints the memory that the process holds beyond the loaded
model, its peak, and the seconds of embedding.
"""

import argparse
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from virnuc_dagster.embedding import runner
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Encoder, Esm2Model
from virnuc_dagster.embedding.memory import keep_freed_memory


def held() -> float:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def work(shards: int) -> None:
    """Embed all shards and print what it took."""
    keep_freed_memory()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Esm2Model(Esm2Config(480, 2, 20, 1920)).pack(torch.float32, torch.device("cpu"))
    encoder = Esm2Encoder(model, "small", torch.device("cpu"))
    draw, before, began = random.Random(0), held(), time.perf_counter()
    for _ in range(shards):
        lengths = [draw.choice((100, 120, 160)) for _ in range(draw.randint(100, 130))]
        texts = ["".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=length)) for length in lengths]
        runner.embed(encoder, list(map(str, range(len(texts)))), texts, token_budget=8_192)
    seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"{held() - before:.0f} MB held, {peak - before:.0f} MB at most, {seconds:.1f} s")


def main() -> None:
    """Measure both in turn, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=30)
    parser.add_argument("--only", choices=["kept", "given back"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        if options.only == "kept":
            runner.trim_freed_memory = lambda: None
        work(options.shards)
        return
    for kind in ["kept", "given back"] * 2:
        print(f"{kind}: ", end="", flush=True)
        subprocess.run([sys.executable, __file__, "--only", kind, "--shards", str(options.shards)], check=True)


if __name__ == "__main__":
    main()
