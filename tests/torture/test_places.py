"""T9, T10: several processes at one key, and places where nothing may be written or that lead elsewhere."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from kits.torture import (
    FOLDER,
    KEY,
    RECORD,
    TYPED,
    assert_swept_clean,
    files,
    needs,
    payload,
    run_victim,
    save,
    version_at,
    version_of,
)

from virnuc_dagster.checkpoints import CheckpointKey, LocalStore, StorageError
from virnuc_dagster.errors import VirnucError


def write_many(root: Path, writer: int, turns: int) -> None:
    for turn in range(turns):
        version = 1 + turn % 3 if writer % 2 else 10 + writer * turns + turn  # equal contents meet, too
        save(root, version, 50 + 100 * (version % 2))


def sweep_many(root: Path, turns: int) -> None:
    for _ in range(turns):
        LocalStore(root).sweep(grace_seconds=5, superseded=True)
        time.sleep(0.002)


def read_many(root: Path, turns: int) -> None:
    for _ in range(turns):
        loaded = LocalStore(root).load(KEY)
        assert torch.equal(loaded["data"], payload(version_of(loaded), len(loaded["ids"]))["data"])


def test_writers_readers_and_sweepers_at_once(tmp_path, full, ledger):
    """T9: every read is one whole version; at the end the store is consistent."""
    save(tmp_path, 1)
    processes, turns = (16, 1_000) if full else (4, 50)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(tmp_path, number, turns)) for number in range(processes)]
    workers += [context.Process(target=read_many, args=(tmp_path, 2 * turns)) for _ in range(2)]
    workers.append(context.Process(target=sweep_many, args=(tmp_path, turns)))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    record = LocalStore(tmp_path).record(KEY)
    assert all((tmp_path / FOLDER / name).exists() for name in (record.file, *record.previous))
    assert_swept_clean(tmp_path, version_at(tmp_path))
    events = processes * turns + 4 * turns
    ledger("T9", f"{processes} writers, 2 readers and a sweep at one key", events=events, whole=events)


@pytest.mark.parametrize("operation", ["save", "remove", "quarantine", "sweep"])
def test_a_folder_without_permission(operation, tmp_path, ledger):
    """T10: an ordinary user in a folder that is not theirs (root may write anywhere, so root steps down)."""
    needs("strace")
    root = tmp_path / "store"
    save(root, 1)
    (root / FOLDER / f"{KEY.shard}.0123456789abcdef.pt").write_bytes(b"never committed")
    for path in (tmp_path, *tmp_path.parents):
        if path.name.startswith("pytest-"):
            path.chmod(0o755)
    before = files(root)
    (root / FOLDER).chmod(0o555)
    store = LocalStore(root)
    operate = {
        "save": lambda: save(root, 2),
        "remove": lambda: store.remove(KEY),
        "quarantine": lambda: store.quarantine(KEY, "no"),
        "sweep": lambda: store.sweep(grace_seconds=0),
    }[operation]

    def as_nobody() -> None:
        if os.geteuid() == 0:
            os.seteuid(65534)
        operate()

    end = run_victim(as_nobody, ["-e", "trace=none"], tmp_path)

    (root / FOLDER).chmod(0o755)
    assert end.code == TYPED, end
    assert "permission" in end.message.lower()
    assert files(root) == before
    assert version_at(root) == 1
    ledger("T10", f"{operation} without permission", events=1, named=1)


def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path, ledger):
    """What cannot be looked at must not pass for "nothing is there"."""
    needs("strace")
    root = tmp_path / "store"
    save(root, 1)
    for path in (tmp_path, *tmp_path.parents):
        if path.name.startswith("pytest-"):
            path.chmod(0o755)
    (root / FOLDER).chmod(0o000)

    def as_nobody() -> None:
        if os.geteuid() == 0:
            os.seteuid(65534)
        LocalStore(root).list(KEY.stage)

    end = run_victim(as_nobody, ["-e", "trace=none"], tmp_path)

    (root / FOLDER).chmod(0o755)
    assert end.code == TYPED, end
    assert str(root) in end.message
    ledger("T10", "listing without permission", events=1, named=1)


BAD_PARTS = (
    "../x", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "a\0b", "A", "ä", "a b", "a\n", "․․", "%2e%2e", "a" * 201,
    "-a", ".hidden", "~", "con.pt",
)  # fmt: skip


def test_keys_that_are_no_names(ledger):
    for part in BAD_PARTS:
        for place in range(3):
            parts = ["esm2_embeddings", "b", "s"]
            parts[place] = part
            with pytest.raises(ValueError, match="not a checkpoint key"):
                CheckpointKey(*parts)
    ledger("T10", "keys that are no names", events=3 * len(BAD_PARTS), named=3 * len(BAD_PARTS))


def link_stage(root: Path, outside: Path) -> None:
    (root / KEY.stage).rename(outside / "stage")
    (root / KEY.stage).symlink_to(outside / "stage")


def link_batch(root: Path, outside: Path) -> None:
    (root / FOLDER).rename(outside / "batch")
    (root / FOLDER).symlink_to(outside / "batch")


def link_data(root: Path, outside: Path) -> None:
    path = next((root / FOLDER).glob("*.pt"))
    path.rename(outside / "data")
    path.symlink_to(outside / "data")


def link_record(root: Path, outside: Path) -> None:
    (root / RECORD).rename(outside / "record")
    (root / RECORD).symlink_to(outside / "record")


def dangle(root: Path, outside: Path) -> None:
    path = next((root / FOLDER).glob("*.pt"))
    path.unlink()
    path.symlink_to(outside / "nothing")


@pytest.mark.parametrize("link", [link_stage, link_batch, link_data, link_record, dangle])
def test_links_out_of_the_store_are_not_followed(link, tmp_path, ledger):
    root, outside = tmp_path / "store", tmp_path / "outside"
    outside.mkdir()
    save(root, 1)
    link(root, outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    store = LocalStore(root)

    of_folder = link in (link_stage, link_batch)
    for look in (store.load, store.record):
        with pytest.raises(VirnucError, match="symbolic link" if of_folder else KEY.shard):
            look(KEY)
    LocalStore(root).sweep(grace_seconds=0, superseded=True)
    if of_folder:
        with pytest.raises(StorageError, match="symbolic link"):
            save(root, 2)

    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    ledger("T10", f"{link.__name__.replace('_', ' ')}", events=2, named=2)


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save(tmp_path / "link", 1)
    assert version_at(tmp_path / "real") == 1


def test_the_longest_names_fit(tmp_path, ledger):
    """A key part has at most 200 characters, so that every file name stays under the 255 bytes of common disks."""
    key = CheckpointKey("esm2_embeddings", "b" * 200, "s" * 200)
    store = LocalStore(tmp_path)
    store.save(key, payload(1), {"version": 1})
    store.save(key, payload(2), {"version": 2})
    store.quarantine(key, "x" * 10_000)

    longest = max(len(path.name.encode()) for path in tmp_path.rglob("*"))
    assert 200 < longest <= 255
    ledger("T10", "longest names", events=3, whole=3)
