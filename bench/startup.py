"""What a call of `virnuc predict` costs besides computing: many tiny files, then the same again, then one of them.

CPU seconds (user + system) of the whole process, the best of some rounds in fresh homes: clocks lie on a busy machine.

    python bench/startup.py --files 20 --rounds 3
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

BASES = 600


def write_files(folder: Path, files: int) -> list[str]:
    """Tiny FASTA files of one sequence each; without a T there is no stop codon, so all of its frames are open."""
    letters = random.Random(7)
    paths = [folder / f"sample{number:02d}.fasta" for number in range(files)]
    for path in paths:
        path.write_text(f">{path.stem}\n{''.join(letters.choices('ACG', k=BASES))}\n")
    return [str(path) for path in paths]


def predict(inputs: list[str], folder: Path) -> float:
    """CPU seconds of one call."""
    command = [sys.executable, "-m", "virnuc_dagster", "predict", *inputs, "--quiet"]
    command += ["--home", str(folder / "home"), "--output", str(folder / "results")]
    before = os.times()
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def one_round(files: int) -> dict[str, float]:
    """The four calls, in a fresh home."""
    with tempfile.TemporaryDirectory(prefix="virnuc-startup-") as scratch:
        folder = Path(scratch)
        inputs = write_files(folder, files)
        return {
            "one file, to compute": predict(inputs[:1], folder),
            "all files, all but one to compute": predict(inputs, folder),
            "all files, nothing to compute": predict(inputs, folder),
            "one file, nothing to compute": predict(inputs[:1], folder),
        }


def main() -> None:
    """Print a line a call, and what each further file adds."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--files", type=int, default=20)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    rounds = [one_round(options.files) for _ in range(options.rounds)]
    best = {name: min(found[name] for found in rounds) for name in rounds[0]}
    for name, seconds in best.items():
        print(f"{name:<36} {seconds:6.2f} s of CPU")
    computed, nothing = "to compute", "nothing to compute"
    further = options.files - 1
    first = (best["all files, all but one to compute"] - best[f"one file, {nothing}"]) / further
    again = (best[f"all files, {nothing}"] - best[f"one file, {nothing}"]) / further
    print(f"each further file, {computed:<17} {first:6.3f} s\neach further file, {nothing:<17} {again:6.3f} s")


if __name__ == "__main__":
    main()
