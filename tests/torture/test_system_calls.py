"""T1, T3, T4: a kill and a refusal at every system call of every operation that changes a store."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from kits.operations import OPERATIONS, leave_behind
from kits.torture import (
    CHANGING,
    FINISHED,
    FOLDER,
    FULL,
    REFUSABLE,
    TYPED,
    assert_swept_clean,
    files,
    needs,
    run_victim,
    save,
    version_at,
)

from virnuc_dagster.checkpoints import compat
from virnuc_dagster.checkpoints.legacy import migrate_file

SIZES_QUICK, SIZES_FULL = (20,), (20, 4_000, 120_000)


@pytest.fixture(autouse=True)
def _strace() -> None:
    needs("strace")


class Arena:
    """A store in its state before an operation, restored for every fault."""

    def __init__(self, folder: Path, name: str, rows: int) -> None:
        self.operation, self.rows, self.folder = OPERATIONS[name], rows, folder
        self.before, self.root = folder / "before", folder / "store"
        self.before.mkdir()
        for version in self.operation.before:
            save(self.before, version, rows)
        if name == "sweep":
            leave_behind(self.before)
        shutil.copytree(self.before, self.root)
        self.operation.operate(self.root, rows)  # so that everything is imported before the calls are counted

    def run(self, *options: str):
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.before, self.root)
        return run_victim(lambda: self.operation.operate(self.root, self.rows), list(options), self.folder)

    def calls(self, names: tuple[str, ...]) -> Counter[str]:
        """How often the operation makes each call."""
        end = self.run()
        assert end.code == FINISHED, end.message
        return Counter({name: count for name, count in end.calls().items() if name in names})


def state(root: Path, version: int | None) -> tuple:
    """The disk, without what differs between runs."""
    names = sorted(re.sub(r"[0-9a-f]{32}", "*", name) for name in files(root))
    return (version, *names)


def commit_state(before: set[str], root: Path, version: int | None, old: int | None) -> str:
    names = files(root)
    temporary = [name for name in names if name.endswith(".tmp")]
    if version != old:
        return "record new"
    if any(".pt.done." in name for name in temporary):
        return "temporary record"
    if temporary:
        return "temporary data"
    return "data named" if any(name.endswith(".pt") for name in names - before) else "nothing yet"


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_call(name, tmp_path, full, ledger):
    """T1: SIGKILL at the k-th call of each name; then the previous version or the new one, and a clean sweep."""
    states, commits, kills, called = set(), set(), 0, Counter()
    for rows in SIZES_FULL if full else SIZES_QUICK:
        folder = tmp_path / str(rows)
        folder.mkdir()
        arena = Arena(folder, name, rows)
        old = arena.operation.before[-1] if arena.operation.before else None
        calls = arena.calls(CHANGING)
        called += calls
        for call, count in calls.items():
            for k in range(1, count + 1):
                end = arena.run("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={k}")
                assert end.code == -9, f"{call} {k}: {end}"
                version = version_at(arena.root)
                assert version in arena.operation.found, f"killed at {call} {k}: version {version}"
                states.add(state(arena.root, version))
                commits.add(commit_state(files(arena.before), arena.root, version, old))
                assert_swept_clean(arena.root, version)
                kills += 1
    assert len(states) > 1, "no kill hit the operation"
    if name in ("first save", "overwrite", "third generation"):
        assert commits == {"nothing yet", "temporary data", "data named", "temporary record", "record new"}
    ledger("T1", f"SIGKILL in {name}", events=kills, whole=kills, calls=dict(called), disk_states=len(states))


def test_migration_killed_at_every_call(tmp_path, ledger):
    """T1: the older file stays byte for byte; beside it is nothing, or a whole checkpoint with its values."""
    before, folder = tmp_path / "before", tmp_path / "folder"
    before.mkdir()
    rows = torch.arange(12.0).reshape(3, 4)
    torch.save({"proteins": ["a", "b", "c"], "data": list(rows)}, before / "output_1_ESM.pt")
    source = (before / "output_1_ESM.pt").read_bytes()
    new = folder / "output_1_esm-v2.pt"

    def run(*options: str):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        return run_victim(lambda: migrate_file(folder / "output_1_ESM.pt"), list(options), tmp_path)

    migrate_file(Path(shutil.copytree(before, tmp_path / "warm")) / "output_1_ESM.pt")
    calls = {name: count for name, count in run().calls().items() if name in CHANGING}
    found = Counter()
    for call, count in calls.items():
        for k in range(1, count + 1):
            assert run("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={k}").code == -9
            assert (folder / "output_1_ESM.pt").read_bytes() == source
            done = compat.has_done_marker(new)
            assert not done or torch.equal(compat.load_with_compatibility(new)["data"], rows)
            found[done] += 1
    assert set(found) == {True, False}
    ledger("T1", "SIGKILL in migrate", events=found.total(), whole=found.total(), calls=calls)


TAKING_SPACE = ("write", "fsync", "rename", "mkdir")
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EACCES")


@pytest.mark.parametrize("name", OPERATIONS)
def test_refused_at_every_call(name, tmp_path, full, ledger):
    """T3: the disk refuses the k-th call; a typed error that names the path, or a success that is whole."""
    arena = Arena(tmp_path, name, 20)
    whole = named = 0
    for call, count in arena.calls(REFUSABLE).items():
        for k in range(1, count + 1):
            # Quick: each call meets one of the errors, the errors taking turns; full: each call meets each of them.
            for error in ERRORS if full else (ERRORS[(k + len(call)) % 4],):
                end = arena.run("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={k}")
                fault = f"{call} {k} {error}: {end.message}"
                assert end.code in (FINISHED, TYPED, FULL), fault
                if error in ("ENOSPC", "EDQUOT") and call in TAKING_SPACE and end.code != FINISHED:
                    assert end.code == FULL, fault
                assert end.code == FINISHED or str(tmp_path) in end.message, f"no path in {fault}"
                version = version_at(arena.root)
                assert version in arena.operation.found, fault
                leftover = [file for file in files(arena.root) if file.endswith(".tmp") and "left" not in file]
                assert not leftover or call.startswith("unlink"), fault
                assert_swept_clean(arena.root, version)
                whole, named = whole + (end.code == FINISHED), named + (end.code != FINISHED)
    assert named > 0
    ledger("T3", f"refusal in {name}", events=whole + named, whole=whole, named=named)


@pytest.mark.parametrize("name", ["first save", "overwrite", "third generation"])
def test_a_failed_fsync_is_not_retried(name, tmp_path, ledger):
    """T4: after a failed fsync the kernel may have dropped the pages, so a second one that succeeds proves nothing."""
    arena = Arena(tmp_path, name, 20)
    count = arena.calls(("fsync",))["fsync"]
    assert count >= 4  # data, folder, record, folder
    for k in range(1, count + 1):
        end = arena.run("-y", "-e", "trace=fsync", "-e", f"inject=fsync:error=EIO:when={k}")

        synced = re.findall(r"^fsync\(\d+<(.*)>\)", end.trace, flags=re.MULTILINE)
        assert end.code == TYPED, end
        assert "INJECTED" in end.trace
        assert synced[k - 1] not in synced[k:], "synced again after a failure"
        if not synced[k - 1].endswith(FOLDER) or k < count:
            assert version_at(arena.root) == (arena.operation.before or (None,))[-1]
        assert_swept_clean(arena.root, version_at(arena.root))
    ledger("T4", f"a failed fsync in {name}", events=count, named=count)
