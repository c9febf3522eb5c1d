"""The commit protocol: previous or new, never a third state; whatever is damaged is named."""

import dataclasses
import hashlib
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
import torch

from virnuc_dagster import files
from virnuc_dagster.checkpoints import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointKey,
    CheckpointMissingError,
    LocalStore,
    NoSpaceError,
    StorageError,
)
from virnuc_dagster.checkpoints import (
    store as store_module,
)

KEY = CheckpointKey("esm2_embeddings", "demo-1", "demo-1__0001")


def payload(seed: int, rows: int = 20, dim: int = 8) -> dict:
    data = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return {"ids": [f"s_chunk_{i}F1" for i in range(rows)], "data": data}


def tree(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def test_load_returns_what_was_saved(tmp_path):
    store = LocalStore(tmp_path)
    saved = payload(1)

    record = store.save(KEY, saved, {"model": "a"})

    loaded = store.load(KEY)
    assert loaded["ids"] == saved["ids"]
    assert torch.equal(loaded["data"], saved["data"])
    assert (record.rows, record.dim, record.dtype) == (20, 8, "float32")
    assert store.record(KEY) == record
    assert store.list("esm2_embeddings") == [KEY]


def test_equal_content_gives_equal_bytes_whatever_object_it_is(tmp_path):
    store = LocalStore(tmp_path)
    first = payload(1)
    base = torch.zeros(40, 8)
    base[::2] = first["data"]
    view = {"ids": ["".join(list(text)) for text in first["ids"]], "data": base[::2]}

    records = [store.save(KEY, first, {}), store.save(KEY, view, {}), store.save(KEY, store.load(KEY), {})]

    assert len({r.sha256 for r in records}) == 1
    assert records[0].bytes < 5_000  # the view did not drag its base along


def test_overwrite_keeps_one_generation_and_removes_older_ones(tmp_path):
    store = LocalStore(tmp_path)
    records = [store.save(KEY, payload(seed), {}) for seed in (1, 2, 3)]

    assert records[2].previous == (records[1].file,)
    left = {p.name for p in (tmp_path / "esm2_embeddings/demo-1").glob("*.pt")}
    assert left == {records[2].file, records[1].file}
    assert torch.equal(store.load(KEY)["data"], payload(3)["data"])


def test_invalid_payload_replaces_nothing(tmp_path):
    store = LocalStore(tmp_path)
    store.save(KEY, payload(1), {})
    before = tree(tmp_path)
    bad = payload(2)
    bad["data"][3, 3] = float("nan")

    with pytest.raises(CheckpointDamagedError, match="NaN or infinite"):
        store.save(KEY, bad, {})

    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "bad",
    [
        {"ids": ["a", "a"], "data": torch.zeros(2, 3)},  # duplicate ids
        {"ids": ["a"], "data": torch.zeros(2, 3)},  # a row without an id
        {"ids": ["a", "b"], "data": torch.zeros(2)},  # wrong shape
        {"ids": ["a", "b"], "data": torch.zeros(2, 3, dtype=torch.int64)},  # wrong dtype
        {"ids": ["a", 2], "data": torch.zeros(2, 3)},  # an id that is no text
    ],
)
def test_a_payload_against_its_schema_is_refused(tmp_path, bad):
    with pytest.raises(CheckpointIncompatibleError, match="incompatible"):
        LocalStore(tmp_path).save(KEY, bad, {})
    assert LocalStore(tmp_path).record(KEY) is None


def test_a_payload_of_wrong_shape_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(CheckpointIncompatibleError, match="1 ids but 2 rows"):
        LocalStore(tmp_path).save(KEY, {"ids": ["a"], "data": torch.zeros(2, 3)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["fsync data", "rename data", "write record", "rename record"])
def test_failure_at_any_step_leaves_the_previous_checkpoint(tmp_path, monkeypatch, failing):
    store = LocalStore(tmp_path)
    store.save(KEY, payload(1), {"v": 1})
    calls = {"fsync": 0, "rename": 0}
    real_fsync, real_rename = files.os.fsync, Path.replace

    def fsync(descriptor):
        calls["fsync"] += 1
        if (failing, calls["fsync"]) in {("fsync data", 1), ("write record", 3)}:
            raise OSError(5, "Input/output error")
        real_fsync(descriptor)

    def rename(self, target):
        calls["rename"] += 1
        if (failing, calls["rename"]) in {("rename data", 1), ("rename record", 2)}:
            raise OSError(30, "Read-only file system")
        return real_rename(self, target)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    with pytest.raises(StorageError, match="esm2_embeddings"):
        store.save(KEY, payload(2), {"v": 2})
    monkeypatch.undo()

    assert torch.equal(store.load(KEY)["data"], payload(1)["data"])
    assert store.record(KEY).provenance == {"v": 1}
    assert not list(tmp_path.rglob("*.tmp"))


def test_order_of_durability(tmp_path, monkeypatch):
    """Data synced before it is renamed, folder synced before the record is written, record last."""
    events = []
    real_fsync, real_rename = files.os.fsync, Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (events.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda p, t: (events.append(t.name[-5:]), real_rename(p, t))[1])
    real_read = store_module.read_payload

    def read_payload(*arguments, **named):
        events.append("validate")
        return real_read(*arguments, **named)

    monkeypatch.setattr(store_module, "read_payload", read_payload)
    store = LocalStore(tmp_path)
    store.save(KEY, payload(1), {})  # creates the folders
    events.clear()

    record = store.save(KEY, payload(2), {})

    assert events == ["fsync", "validate", record.file[-5:], "fsync", "fsync", ".done", "fsync"]


def _save_with_file_limit(root: Path, limit: int, connection) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        LocalStore(root).save(KEY, payload(2, rows=2_000), {})
    except NoSpaceError as error:
        connection.send((error.exit_code, str(error)))
    else:
        connection.send((0, ""))


@pytest.mark.parametrize("limit", [0, 1, 4_096, 40_000])
def test_full_disk_is_named_and_harmless(tmp_path, limit):
    store = LocalStore(tmp_path)
    store.save(KEY, payload(1), {})
    before = tree(tmp_path)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_save_with_file_limit, args=(tmp_path, limit, there))
    process.start()
    process.join()

    code, message = here.recv()

    assert code == 5
    assert "no space left" in message
    assert "bytes" in message
    assert tree(tmp_path) == before


def test_every_flipped_bit_is_found(tmp_path):
    store = LocalStore(tmp_path)
    record = store.save(KEY, payload(1), {})
    path = tmp_path / "esm2_embeddings/demo-1" / record.file
    good = path.read_bytes()
    for position in range(0, len(good), max(1, len(good) // 150)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(CheckpointDamagedError, match="corrupted"):
            store.load(KEY)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncation_is_found_without_loading(tmp_path, keep):
    store = LocalStore(tmp_path)
    record = store.save(KEY, payload(1), {})
    path = tmp_path / "esm2_embeddings/demo-1" / record.file
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(CheckpointDamagedError, match=r"0 bytes|size differs") as caught:
        store.record(KEY)

    assert caught.value.exit_code == 3
    assert "--force-resume" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"null", b'{"format": "virnuc-checkpoint"}', b"\xff\xfe", b"[" * 4000, b"x" * 5000,
        b'{"format": "virnuc-checkpoint", "version": "9.0"}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_named(tmp_path, text):
    store = LocalStore(tmp_path)
    store.save(KEY, payload(1), {})
    (tmp_path / "esm2_embeddings/demo-1/demo-1__0001.pt.done").write_bytes(text)

    with pytest.raises(CheckpointError, match=r"demo-1__0001\.pt\.done"):
        store.record(KEY)


def test_a_record_that_points_elsewhere_is_refused(tmp_path):
    store = LocalStore(tmp_path)
    record = store.save(KEY, payload(1), {})
    path = tmp_path / "esm2_embeddings/demo-1/demo-1__0001.pt.done"
    path.write_bytes(dataclasses.replace(record, file="../../secret.pt").to_json())  # a record that is whole otherwise

    with pytest.raises(CheckpointDamagedError, match="points to"):
        store.load(KEY)


def test_a_record_counts_only_in_its_own_place(tmp_path):
    store = LocalStore(tmp_path)
    other = CheckpointKey(KEY.stage, KEY.batch, "demo-1__0002")
    stage = CheckpointKey("dnabert_s_embeddings", KEY.batch, KEY.shard)
    for key, seed in ((KEY, 1), (other, 2), (stage, 1)):
        store.save(key, payload(seed), {})
    folder = tmp_path / "esm2_embeddings/demo-1"
    text = (folder / "demo-1__0001.pt.done").read_bytes()
    (folder / "demo-1__0002.pt.done").write_bytes(text)
    (tmp_path / "dnabert_s_embeddings/demo-1/demo-1__0001.pt.done").write_bytes(text)
    for path in folder.glob("demo-1__0001.*.pt"):
        (tmp_path / "dnabert_s_embeddings/demo-1" / path.name).write_bytes(path.read_bytes())

    with pytest.raises(CheckpointDamagedError, match="record of another checkpoint"):
        store.load(other)
    with pytest.raises(CheckpointDamagedError, match="record of esm2_embeddings"):
        store.record(stage)


def test_a_pipe_in_the_place_of_a_record_blocks_nothing(tmp_path):
    store = LocalStore(tmp_path)
    store.save(KEY, payload(1), {})
    path = tmp_path / "esm2_embeddings/demo-1/demo-1__0001.pt.done"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointDamagedError, match="empty"):
        store.record(KEY)


def test_any_change_of_a_record_is_found(tmp_path):
    store = LocalStore(tmp_path)
    store.save(KEY, payload(1), {"model": "a"}, {"host": "h"})
    path = tmp_path / "esm2_embeddings/demo-1/demo-1__0001.pt.done"
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(CheckpointError):
            store.record(KEY)


def test_quarantine_keeps_the_evidence_and_the_reason(tmp_path):
    store = LocalStore(tmp_path)
    record = store.save(KEY, payload(1), {})

    store.quarantine(KEY, "digest differs | on a\nbad disk")

    assert store.record(KEY) is None
    names = [p.name for p in (tmp_path / ".quarantine").iterdir()]
    assert len(names) == 2
    assert any(name.endswith(record.file) for name in names)
    line = (tmp_path / "failed_checkpoints.txt").read_text()
    assert line.count("|") == 2
    assert line.count("\n") == 1


def test_sweep_removes_leftovers_of_the_dead_and_nothing_else(tmp_path):
    store = LocalStore(tmp_path)
    store.save(KEY, payload(1), {})
    store.save(KEY, payload(2), {})
    folder = tmp_path / "esm2_embeddings/demo-1"
    (folder / ".x.tmp").write_bytes(b"half")
    (folder / "demo-1__0009.0123456789abcdef.pt").write_bytes(b"never committed")

    assert store.sweep(grace_seconds=60) == []
    removed = store.sweep(grace_seconds=0)

    assert len(removed) == 2
    assert store.sweep(grace_seconds=0) == []
    assert torch.equal(store.load(KEY)["data"], payload(2)["data"])


def test_remove_forgets_everything_of_a_key(tmp_path):
    store = LocalStore(tmp_path)
    for seed in (1, 2):
        store.save(KEY, payload(seed), {})
    store.remove(KEY)
    store.remove(KEY)

    with pytest.raises(CheckpointMissingError):
        store.load(KEY)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("part", ["../x", "a/b", "", ".", "..", "A", "a b", "a" * 201, "a\0b", "ä"])
def test_keys_cannot_leave_the_store(part):
    with pytest.raises(ValueError, match="not a checkpoint key"):
        CheckpointKey("frames", "b", part)


def _write_many(root: Path, writer: int) -> None:
    store = LocalStore(root)
    for turn in range(15):
        seed = (writer + turn) % 3  # equal contents meet, too
        store.save(KEY, payload(seed), {"seed": seed})


def test_concurrent_writers_and_a_reader_see_only_whole_generations(tmp_path):
    store = LocalStore(tmp_path)
    store.save(KEY, payload(0), {"seed": 0})
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(tmp_path, i)) for i in range(3)]
    for process in writers:
        process.start()
    reads = 0
    while any(process.is_alive() for process in writers):
        try:
            data = store.load(KEY)["data"]
        except CheckpointDamagedError as error:  # two commits between record and data, twice in a row
            if "missing" not in error.reason:
                raise
            continue
        assert any(torch.equal(data, payload(seed)["data"]) for seed in range(3))
        reads += 1
    assert [process.exitcode for process in writers] == [0, 0, 0]
    assert reads > 10
    final = store.record(KEY)
    assert torch.equal(store.load(KEY)["data"], payload(final.provenance["seed"])["data"])
