"""T2, T5: death at random times, and a disk that fills up."""

import contextlib
import itertools
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from kits.torture import (
    FULL,
    KEY,
    RECORD,
    assert_swept_clean,
    files,
    fresh_process,
    needs,
    payload,
    random_kills,
    run_victim,
    save,
    version_at,
)

from virnuc_dagster.checkpoints import LocalStore


def test_killed_at_random_times(tmp_path, full, ledger):
    """T2: a writer in a loop is killed; the newest whole version is never older than the last one seen."""
    root = tmp_path / "store"
    save(root, 1)
    last = 1
    kills = 10_000 if full else 100
    versions = set()

    def work() -> None:
        nonlocal last
        last += 1
        LocalStore(root).save(KEY, payload(last, 200 if last % 3 else 2_000), {"version": last})

    record = root / RECORD
    before = [record.stat().st_ino]

    def committed(kill: int) -> bool:
        """Every third writer lives on at least until it has committed, however slow the machine is."""
        return kill % 3 > 0 or record.stat().st_ino != before[0]

    for _ in random_kills(work, kills, 0.03, seed=2, after=committed):
        version = version_at(root)
        assert version >= last, "a committed version was lost"
        before[0] = record.stat().st_ino
        last = version
        versions.add(version)
    assert len(versions) > kills / 3
    assert_swept_clean(root, last)
    ledger("T2", "SIGKILL at a random time", events=kills, whole=kills, versions=len(versions))


FRESH = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from kits.torture import version_at
print(version_at(Path(sys.argv[1])))
"""


def test_a_fresh_process_finds_the_same(tmp_path):
    """The oracle of this suite runs in the process that made the faults; one that shares nothing with it agrees."""
    save(tmp_path, 1)
    for _ in random_kills(lambda: save(tmp_path, version_at(tmp_path) + 1), 5, 0.05, seed=3):
        pass
    assert fresh_process(FRESH, str(tmp_path), str(Path(__file__).parents[1])) == str(version_at(tmp_path))


def limited(limit: int, operate):
    """An operation under a file-size limit: the kernel refuses every byte behind it."""

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        operate()

    return run


@pytest.mark.parametrize("name", ["first save", "overwrite"])
def test_files_may_not_grow(name, tmp_path, full, ledger):
    """T5: any room that is too small: exit code 5, the bytes needed, the previous version, no leftover."""
    needs("strace")
    rows = 4_000
    root = tmp_path / "store"
    if name == "overwrite":
        save(root, 1, rows)
    before, found = files(root), version_at(root)
    size = LocalStore(tmp_path / "measure").save(KEY, payload(2, rows), {"version": 2}).bytes
    step = 4_096 if full else -(-size // 15)
    limits = [0, *range(1, size, step)]
    for limit in limits:
        end = run_victim(limited(limit, lambda: save(root, 2, rows)), ["-e", "trace=none"], tmp_path)
        assert end.code == FULL, (limit, end)
        assert f"{size:,} bytes" in end.message
        assert files(root) == before
        assert version_at(root) == found
    run_victim(limited(size, lambda: save(root, 2, rows)), ["-e", "trace=none"], tmp_path)
    assert version_at(root) == 2
    ledger("T5", f"file-size limit in {name}", events=len(limits), named=len(limits))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    needs("mount", "mount")
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "virnuc-test", place], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"may not mount a small disk here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk(small_disk, ledger):
    """T5: a real small disk fills up, save after save; freed space makes the next save work."""
    root, rows = small_disk / "store", 500
    refused = saved = 0
    for version in itertools.count(1):
        ballast = small_disk / f"ballast{version}"
        with contextlib.suppress(OSError):
            ballast.write_bytes(b"x" * 60_000)
        end = run_victim(lambda: save(root, version, rows), ["-e", "trace=none"], small_disk.parent)  # noqa: B023
        saved, refused = saved + (end.code == 0), refused + (end.code == FULL)
        assert end.code in (0, FULL), end
        assert version_at(root) == saved, "a refused save lost the previous version"
        assert not [name for name in files(root) if name.endswith(".tmp")]
        if refused == 5:
            break
    assert saved > 0
    for ballast in small_disk.glob("ballast*"):
        ballast.unlink()
    save(root, version, rows)
    assert version_at(root) == version
    assert shutil.disk_usage(small_disk).free > 0
    ledger("T5", "a disk of 1 MiB fills up", events=saved + refused, whole=saved, named=refused)
    assert RECORD in files(root)
    assert torch.equal(LocalStore(root).load(KEY)["data"], payload(version, rows)["data"])
