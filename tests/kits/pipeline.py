"""Runs of `virnuc predict` on the demo records, in temporary homes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kits.holds import GO
from kits.programs import Program
from kits.waiting import HANG_SECONDS, wait_until
from virnuc_dagster.report import paths

DEMO = Path(__file__).parents[2] / "demo" / "demo.fasta"
SHARD_SIZE = "20"
SHARDS = 8


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

    def arguments(self, *more: str, source: Path = DEMO) -> list[str]:
        """What follows `virnuc`."""
        return [
            "predict", str(source), "--output", str(self.root / "out"), "--home", str(self.root / "home"),
            "--shard-size", SHARD_SIZE, "--threads", "1", *more,
        ]  # fmt: skip

    def copy_to(self, root: Path) -> "Home":
        """The same elsewhere, which a test may damage."""
        shutil.copytree(self.root, root)
        return Home(root)

    def start(
        self, *arguments: str, source: Path = DEMO, hold: tuple[str, int] | None = None, first: tuple[str, ...] = (),
        session: bool = False, **env: str,
    ) -> Program:  # fmt: skip
        """`virnuc predict` in a process of its own.

        Args:
            arguments: Further ones.
            source: The input.
            hold: A stage and how many of its shards are committed when it stands still; see `kits.holds`.
            first: What it calls before anything else, see `Program`.
            session: Whether it leads a process group of its own, as what a shell starts does.
            env: Further environment variables.
        """
        if hold:
            first = ("kits.holds:hold", hold[0], str(hold[1]), str(self.root))
        environment = {**os.environ, "DAGSTER_HOME": "", **env}
        return Program(self.arguments(*arguments, source=source), environment, session=session, first=first)

    def spawn(self, *arguments: str, **env: str) -> subprocess.Popen:
        """As a user starts it: by a Python of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "virnuc_dagster", *self.arguments(*arguments)], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "DAGSTER_HOME": "", **env},
        )  # fmt: skip

    def release(self) -> None:
        """Let those go on that are held."""
        (self.root / GO).touch()

    def finish(self, process: Program | subprocess.Popen) -> Call:
        out, err = process.communicate(timeout=HANG_SECONDS)
        return Call(process.returncode, out, err, self.root / "out")

    def predict(self, *arguments: str, source: Path = DEMO, **env: str) -> Call:
        return self.finish(self.start(*arguments, source=source, **env))

    def records(self, stage: str) -> dict[str, str]:
        """Shard -> its commit record as text; equal text means that nothing was written again."""
        return {p.name: p.read_text() for p in sorted((self.store / stage).glob("*/*.done"))}

    def wait_for_records(self, stage: str, count: int, process: Program | subprocess.Popen) -> None:
        wait_until(lambda: len(self.records(stage)) >= count, process, poll_seconds=0.005)
