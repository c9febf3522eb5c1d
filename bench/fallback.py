"""How fast the fallback scores windows, next to a plain program that counts the same k-mers, in one run.

    python bench/fallback.py [--windows 10000] [--rounds 5]

Random windows of 500 bases, random weights, one thread, CPU time, medians of interleaved rounds. The plain program
slices each 6-mer, takes the lesser of it and its reverse complement, and counts with a dict; no codons, no score.
"""

import argparse
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy

import numpy as np

from virnuc_dagster.classify.composition import feature_count
from virnuc_dagster.classify.fallback import FallbackModel

_COMPLEMENT = str.maketrans("ACGT", "TGCA")


def count_plainly(windows: list[str]) -> None:
    """Count canonical 6-mers one by one."""
    for window in windows:
        reverse = window.translate(_COMPLEMENT)[::-1]
        last = len(window) - 6
        Counter(min(window[i : i + 6], reverse[last - i : last - i + 6]) for i in range(last + 1))


def rate(work: Callable[[], object], bases: int) -> float:
    """Megabases a second of CPU time."""
    began = time.process_time()
    work()
    return bases / 1e6 / (time.process_time() - began)


def main() -> None:
    """Measure and print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    windows = ["".join(random.choice(list("ACGT"), 500)) for _ in range(options.windows)]
    few = windows[: max(1, options.windows // 20)]
    model = FallbackModel(6, random.normal(size=feature_count(6)), 0.0)
    model.score(few)  # tables are built once
    ours, plain = [], []
    for _ in range(options.rounds):
        ours.append(rate(lambda: model.score(windows), 500 * len(windows)))
        plain.append(rate(lambda: count_plainly(few), 500 * len(few)))
    result = {"fallback_mb_s": statistics.median(ours), "plain_mb_s": statistics.median(plain)}
    print(f"fallback       {result['fallback_mb_s']:8.1f} MB/s  ({min(ours):.1f}-{max(ours):.1f})")
    print(f"plain counting {result['plain_mb_s']:8.1f} MB/s  ({min(plain):.1f}-{max(plain):.1f})")
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main()
