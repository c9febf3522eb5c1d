"""What many small files cost on their way from the inbox to their reports: runs, and CPU seconds.

    python bench/small_batches.py [--files 60] [--batches-per-run 100]

Puts files of one short sequence each through sensors and runs in this process, once with shared runs and once with runs
of their own, and prints runs by job and CPU seconds. A run of `virnuc up` has a process of its own, whose start is
measured once, by a run that has nothing but a tiny report to make, and added for each run. Needs no network; works in
a temporary home.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from kits.automation import Platform, sequences

from virnuc_dagster.orchestration.instance import open_instance
from virnuc_dagster.stages.pipeline import SEQUENCES


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--batches-per-run", type=int, default=100)
    options = parser.parse_args()
    start = None
    for batches_per_run in (options.batches_per_run, 1):
        with tempfile.TemporaryDirectory() as folder:
            platform = Platform(Path(folder), {"shard_size": 10_000, "batches_per_run": batches_per_run})
            with open_instance(platform.settings) as instance:
                platform.instance = instance
                runs, cpu, wall = through(platform, options.files)
            start = start or start_of_a_run(platform)
        total = cpu + start * runs.total()
        print(f"batches_per_run {batches_per_run}: {options.files:,} files, {runs.total():,} runs {dict(runs)}")
        print(
            f"  {cpu:.1f} s of CPU in runs and ticks ({wall:.0f} s by the clock), {start:.1f} s for each run's process"
        )
        print(f"  {total:.0f} s of CPU, {total / options.files:.2f} s a file")
        facts = {"files": options.files, "batches_per_run": batches_per_run, "runs": runs.total()}
        print(json.dumps({"bench": "small_batches", **facts, "cpu_seconds": round(total, 1)}))


def through(platform: Platform, files: int) -> tuple[Counter[str], float, float]:
    """Files from the inbox to their reports; returns the runs by job, seconds of CPU, and seconds by the clock."""
    for number in range(files):
        platform.drop(f"{number:06}.fa", sequences(number))
    began, cpu = time.monotonic(), time.process_time()
    requests = platform.settle(ticks=10 * files)
    cpu, wall = time.process_time() - cpu, time.monotonic() - began
    reports = sum(1 for _ in platform.settings.reports.glob("*/report.html"))
    assert reports == files, f"{reports} reports of {files} files"
    return Counter(str(request.job_name) for request in requests), cpu, wall


def start_of_a_run(platform: Platform) -> float:
    """CPU seconds of a process that makes one tiny report."""
    batch = platform.store.list(SEQUENCES)[0].batch
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "virnuc_dagster.definitions",
         "--select", "batch_report", "--partition", batch],
        check=True, capture_output=True,
        env={**os.environ, "DAGSTER_HOME": str(platform.settings.dagster_home), "VIRNUC_HOME": str(platform.home)},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
