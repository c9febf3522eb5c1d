"""T11: no hostile file runs, takes much memory, or is handed out; each is named.

Every file is read the four ways there are: without a record, as files of older programs are, and with a record that an
attacker made to fit, at each level.
"""

import hashlib
import os
import resource
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from kits.hostile import ALWAYS, CHECKED, VALUES, cases
from kits.torture import FOLDER, KEY, RECORD, save
from kits.waiting import HANG_SECONDS

from virnuc_dagster.checkpoints import CheckpointError, CommitRecord, Level, LocalStore
from virnuc_dagster.checkpoints import validate as validate_module
from virnuc_dagster.checkpoints.validate import read_payload
from virnuc_dagster.errors import VirnucError

MEMORY_MAX = 256 * 2**20
SECONDS_MAX = 10
#: Ways to read -> which cases must be refused on that way.
WAYS = {
    "no record": {ALWAYS, VALUES},
    "skip": {ALWAYS},
    "load": {ALWAYS, CHECKED},
    "full": {ALWAYS, CHECKED, VALUES},
}


def plant(root: Path, data: bytes) -> None:
    """Commit bytes behind the store's back, with a record that fits them."""
    digest = hashlib.sha256(data).hexdigest()
    record = CommitRecord(
        kind=KEY.stage, file=f"{KEY.shard}.{digest[:16]}.pt", bytes=len(data), sha256=digest, rows=4, dim=3,
        dtype="float32", content={}, provenance={}, writer={},
    )  # fmt: skip
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / record.file).write_bytes(data)
    (root / RECORD).write_bytes(record.to_json())


def read(way: str, root: Path, data: bytes) -> object:
    if way == "no record":
        return read_payload(data, "hostile.pt", None)
    return LocalStore(root).load(KEY, Level(way))


def attempt(way: str, root: Path, data: bytes) -> str:
    """Read in a forked process with a bound on memory and time; says how it ended."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            torch.set_num_threads(1)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_MAX,) * 2)
            signal.setitimer(signal.ITIMER_PROF, SECONDS_MAX)  # CPU time; below, for a hang, wall-clock time
            signal.alarm(HANG_SECONDS)
            read(way, root, data)
            code = 0
        except CheckpointError as error:
            code = 1 if KEY.shard in str(error) or "hostile.pt" in str(error) else 4
        except BaseException as error:
            print(way, repr(error)[:300], file=sys.stderr)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {0: "handed out", 1: "named", 3: "another error", 4: "no name in the error"}.get(code, f"died of {-code}")


GROUPS = ("pickle in an archive", "bare pickle", "old torch file", "tar file", "tensor gadget", "archive", "content")


@pytest.mark.parametrize("group", GROUPS)
def test_no_hostile_file_runs_or_is_handed_out(group, tmp_path, ledger, capfd):
    canary = tmp_path / "canary"
    wrong, tried, files = [], Counter(), 0
    for number, case in enumerate(case for case in cases(canary, group) if case.group == group):
        root = tmp_path / str(number)
        plant(root, case.data)
        files += 1
        for way, must in WAYS.items():
            end = attempt(way, root, case.data)
            tried[end] += 1
            expected = {"named"} if case.refused in must else {"named", "handed out"}
            if end not in expected:
                wrong.append(f"{case.group}: {case.name}, {way}: {end}")
            if canary.exists():
                wrong.append(f"{case.group}: {case.name}, {way}: RAN")
                canary.rmdir() if canary.is_dir() else canary.unlink()

    assert not wrong, "\n".join(wrong)
    assert files > 0
    ledger(
        "T11", f"{files} hostile files: {group}, read four ways", events=sum(tried.values()),
        whole=tried["handed out"], named=tried["named"],
    )  # fmt: skip


def test_there_are_many_hostile_files(tmp_path):
    listed = list(cases(tmp_path / "canary"))
    assert {case.group for case in listed} == set(GROUPS)
    assert len(listed) >= 100
    assert len({(case.group, case.name) for case in listed}) == len(listed)


def test_the_canary_can_sing(tmp_path):
    """The programs do work where pickle is trusted, or the test above would prove nothing."""
    import pickle

    canary = tmp_path / "canary"
    ran = 0
    for case in cases(canary, "bare pickle"):
        if case.group == "bare pickle" and case.name.startswith(("os.mkdir", "INST", "OBJ", "STACK", "GLOBAL", "exec")):
            pickle.loads(case.data)
            assert canary.exists(), case.name
            canary.rmdir() if canary.is_dir() else canary.unlink()
            ran += 1
    assert ran >= 10


@pytest.mark.parametrize("version", ["2.5.1", "1.13.0+cu117", "2.0"])
def test_an_old_torch_is_refused_at_run_time(tmp_path, monkeypatch, version):
    save(tmp_path, 1)
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(VirnucError, match=r"2\.6 or newer"):
        LocalStore(tmp_path).load(KEY)


def test_the_torch_in_use_is_accepted():
    validate_module.require_torch("2.6.0")
    validate_module.require_torch("10.0.1+cpu")
    assert validate_module.TORCH_MIN == (2, 6)
