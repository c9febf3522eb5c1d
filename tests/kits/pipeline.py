"""Runs of `virnuc predict` on the demo records, in temporary homes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from virnuc_dagster.report import paths

DEMO = Path(__file__).parents[2] / "demo" / "demo.fasta"
SHARD_SIZE = "10"
SHARDS = 15


@dataclass
class Call:
    """One finished `virnuc predict`."""

    code: int
    out: str
    err: str
    output: Path

    @property
    def run(self) -> dict:
        return json.loads((self.output / paths.RUN).read_text())

    def files(self) -> dict[str, bytes]:
        return {name: (self.output / name).read_bytes() for name in paths.REPRODUCIBLE}


@dataclass
class Home:
    """A home folder and an output folder of their own."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "home" / "store"

    def command(self, *arguments: str, source: Path = DEMO) -> list[str]:
        return [
            sys.executable, "-m", "virnuc_dagster", "predict", str(source), "--output", str(self.root / "out"),
            "--home", str(self.root / "home"), "--shard-size", SHARD_SIZE, "--threads", "1", *arguments,
        ]  # fmt: skip

    def start(self, *arguments: str, source: Path = DEMO) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*arguments, source=source), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "DAGSTER_HOME": ""},
        )  # fmt: skip

    def finish(self, process: subprocess.Popen, timeout: float = 240) -> Call:
        out, err = process.communicate(timeout=timeout)
        return Call(process.returncode, out, err, self.root / "out")

    def predict(self, *arguments: str, source: Path = DEMO) -> Call:
        return self.finish(self.start(*arguments, source=source))

    def records(self, stage: str) -> dict[str, str]:
        """Shard -> its commit record as text; equal text means that nothing was written again."""
        return {p.name: p.read_text() for p in sorted((self.store / stage).glob("*/*.done"))}

    def wait_for_records(self, stage: str, count: int, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + 180
        while len(self.records(stage)) < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"{stage} never reached {count} shards"
            time.sleep(0.005)
