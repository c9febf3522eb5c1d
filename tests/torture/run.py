"""The full torture suite: every test in a process of its own, resumable, with a table at the end.

    python tests/torture/run.py [FOLDER [TESTS...]]

A test that passed is not run again while FOLDER (default `.torture`) keeps its mark; delete the folder to start anew.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main(folder: Path, selection: list[str]) -> int:
    """Run what has not passed yet; print the table of everything that has.

    Args:
        folder: Keeps marks, results, and the output of failures.
        selection: Files or tests; all of the suite if empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "VIRNUC_TORTURE": "full", "VIRNUC_FULL": "1"}
    environment["VIRNUC_TORTURE_RESULTS"] = str(folder.absolute())
    failed = []
    for test in _tests(environment, selection or [str(HERE)]):
        slug = re.sub(r"[^a-z0-9]+", "-", test.lower()).strip("-")
        mark = folder / f"{slug}.passed"
        if mark.exists():
            continue
        (folder / f"{slug}.jsonl").unlink(missing_ok=True)
        print(f"{test} ...", end=" ", flush=True)
        began = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", test], env=environment, capture_output=True, text=True
        )
        print("passed" if run.returncode == 0 else "FAILED", f"in {time.monotonic() - began:.0f} s", flush=True)
        if run.returncode == 0:
            mark.touch()
        else:
            failed.append(test)
            (folder / f"{slug}.log").write_text(run.stdout + run.stderr)
    print(table(folder))
    if failed:
        print(f"{len(failed)} failed; their output is in {folder}: {', '.join(failed)}")
    return 1 if failed else 0


def _tests(environment: dict[str, str], selection: list[str]) -> list[str]:
    listing = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *selection],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line for line in listing.stdout.splitlines() if "::" in line]


def table(folder: Path) -> str:
    """The ledger as a Markdown table, in the order of the promises."""
    entries = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    entries.sort(key=lambda entry: (int(entry["promise"].removeprefix("T")), entry["event"]))
    rows = ["| | event | events | whole | named error | other |", "|---|---|---:|---:|---:|---:|"]
    for entry in entries:
        other = entry["events"] - entry["whole"] - entry["named"]
        rows.append(
            f"| {entry['promise']} | {entry['event']} | {entry['events']:,} | {entry['whole']:,} "
            f"| {entry['named']:,} | {other} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".torture"), sys.argv[2:]))
