"""What a store promises, whatever it is kept on: the same tests on a folder, in memory, and on an S3 service."""

import os
import threading
import uuid
from collections.abc import Iterator

import pytest
import torch
from kits.s3 import SECRET, environment, new_bucket, service
from kits.waiting import HANG_SECONDS

from virnuc_dagster.checkpoints import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointKey,
    CheckpointMissingError,
    Level,
    StorageError,
    Store,
    open_store,
)

KEY = CheckpointKey("esm2_embeddings", "demo-1", "demo-1__0001")
OTHER = CheckpointKey("esm2_embeddings", "demo-1", "demo-1__0002")


def payload(seed: int, rows: int = 20, dim: int = 8) -> dict:
    data = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return {"ids": [f"s_chunk_{i}F1" for i in range(rows)], "data": data}


@pytest.fixture(scope="module")
def s3_service() -> Iterator[int]:
    """The port of an S3 service of our own on loopback, in a process of its own."""
    pytest.importorskip("s3fs", reason="needs the extra [s3]")
    with service() as port:
        yield port


@pytest.fixture
def on_s3(s3_service, monkeypatch) -> int:
    """The service's port; stores of this test find it."""
    for name, value in environment(s3_service).items():
        monkeypatch.setenv(name, value)
    return s3_service


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request, tmp_path, monkeypatch) -> Store:
    if request.param == "folder":
        return open_store(tmp_path / "store")
    if request.param == "memory":
        return open_store(f"memory://{uuid.uuid4().hex}/store")
    return open_store(new_bucket(request.getfixturevalue("on_s3")))


def files(store: Store) -> set[str]:
    """Everything below the root that holds bytes, by path."""
    found = set()
    for pattern in ("*", "*/*", "*/*/*"):
        for path in store.medium.glob(pattern):
            try:
                store.medium.facts(path)
                store.medium.read(path, 1)
            except (FileNotFoundError, StorageError, CheckpointError):  # a folder
                continue
            found.add(path.relative_to(store.root).as_posix())
    return found


def damage(store: Store, name: str, change) -> None:
    path = store.root / name
    store.medium.put_whole(path, change(store.medium.read(path)))


def data_file(store: Store, key: CheckpointKey = KEY) -> str:
    return f"{key.stage}/{key.batch}/{store.record(key).file}"


def test_load_returns_what_was_saved(store):
    saved = payload(1)

    record = store.save(KEY, saved, {"model": "a"}, {"host": "h"})

    for level in Level:
        loaded = store.load(KEY, level)
        assert loaded["ids"] == saved["ids"]
        assert torch.equal(loaded["data"], saved["data"])
    assert store.record(KEY) == record
    assert (record.rows, record.dim, record.provenance) == (20, 8, {"model": "a"})


def test_what_was_never_saved_is_missing(store):
    assert store.record(KEY) is None
    assert list(store.list(KEY.stage)) == []
    for look in (store.load, store.check_bytes):
        with pytest.raises(CheckpointMissingError):
            look(KEY)


def test_records_of_many_keys_are_those_of_each_in_their_order(store):
    keys = [CheckpointKey(KEY.stage, "demo-1", f"demo-1__{number:04}") for number in range(1, 41)]
    for number, key in enumerate(keys):
        if number % 3:
            store.save(key, payload(number), {"number": number})
    damage(store, f"{KEY.stage}/demo-1/{keys[1].shard}.pt.done", lambda text: text[: len(text) // 2])

    found = store.records(keys[::-1])

    assert isinstance(found[-2], CheckpointDamagedError)
    assert keys[1].shard in str(found[-2])
    assert list(found[:-2]) == [store.record(key) for key in keys[:1:-1]]
    assert [record.provenance["number"] for record in found[:-2] if record] == [n for n in range(39, 1, -1) if n % 3]
    assert found[-1] is None
    assert store.records([]) == []


def test_many_records_are_asked_of_a_service_at_once_after_a_first(monkeypatch):
    """One request after another, a look at ten thousand shards would take minutes; a service that is away gets one."""
    store = open_store(f"memory://{uuid.uuid4().hex}/store")
    store.save(KEY, payload(1), {})
    committed, found = store.record(KEY), store.medium.read
    asked: list[bool] = []
    sixteen = threading.Barrier(16, timeout=HANG_SECONDS)  # breaks unless as many ask at the same time

    def read(*given):
        asked.append(threading.current_thread() is threading.main_thread())
        if not asked[-1]:
            sixteen.wait()
        return found(*given)

    monkeypatch.setattr(store.medium, "read", read)

    assert store.records([KEY] * 33) == [committed] * 33
    assert asked == [True] + [False] * 32


def test_list_is_sorted_and_by_batch(store):
    elsewhere = CheckpointKey(KEY.stage, "demo-2", "demo-2__0001")
    for key in (OTHER, elsewhere, KEY):
        store.save(key, payload(1), {})

    assert list(store.list(KEY.stage)) == [KEY, OTHER, elsewhere]
    assert list(store.list(KEY.stage, "demo-1")) == [KEY, OTHER]
    assert list(store.list("predictions")) == []


def test_overwrite_hands_out_the_new_version_and_sweep_leaves_what_is_kept(store):
    first, second, third = (store.save(KEY, payload(seed), {"v": seed}) for seed in (1, 2, 3))

    swept = store.sweep(grace_seconds=0)

    folder = f"{KEY.stage}/{KEY.batch}"
    assert files(store) == {f"{folder}/{name}" for name in (second.file, third.file, f"{KEY.shard}.pt.done")}
    assert {file.path for file in swept} <= {f"{folder}/{first.file}"}
    assert third.previous == (second.file,)
    assert torch.equal(store.load(KEY)["data"], payload(3)["data"])


def test_a_refused_payload_replaces_nothing(store):
    store.save(KEY, payload(1), {})
    before = files(store)
    bad = payload(2)
    bad["data"][3, 3] = float("nan")

    with pytest.raises(CheckpointError, match="NaN or infinite"):
        store.save(KEY, bad, {})

    assert torch.equal(store.load(KEY)["data"], payload(1)["data"])
    store.sweep(grace_seconds=0)
    assert files(store) == before


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data[:-1], "size differs"),
        (lambda data: b"", "0 bytes"),
        (lambda data: data[:600] + bytes([data[600] ^ 1]) + data[601:], "digest differs"),
    ],
    ids=["truncated", "empty", "bit flip"],
)
def test_damaged_data_is_named(store, change, error):
    store.save(KEY, payload(1), {})
    store.check_bytes(KEY)
    damage(store, data_file(store), change)

    for look in (store.load, store.check_bytes):
        with pytest.raises(CheckpointDamagedError, match=error) as caught:
            look(KEY)

        assert caught.value.exit_code == 3
        assert KEY.shard in str(caught.value)


def test_a_data_file_that_is_gone_is_damage(store):
    store.save(KEY, payload(1), {})
    store.medium.unlink(store.root / data_file(store))

    with pytest.raises(CheckpointDamagedError, match="missing"):
        store.record(KEY)


@pytest.mark.parametrize(
    ("text", "kind"),
    [(b"", CheckpointDamagedError), (b"{}", CheckpointDamagedError), (b"x" * 10_000, CheckpointDamagedError),
     (b'{"format": "virnuc-checkpoint", "version": "9.0"}', CheckpointIncompatibleError)],
)  # fmt: skip
def test_a_damaged_record_is_named(store, text, kind):
    store.save(KEY, payload(1), {})
    store.medium.put_whole(store.root / f"{KEY.stage}/{KEY.batch}/{KEY.shard}.pt.done", text)

    for look in (store.record, store.load):
        with pytest.raises(kind, match=r"demo-1__0001\.pt\.done"):
            look(KEY)


def test_remove_forgets_every_generation(store):
    for seed in (1, 2):
        store.save(KEY, payload(seed), {})
    store.save(OTHER, payload(5), {})

    store.remove(KEY)
    store.remove(KEY)

    assert store.record(KEY) is None
    store.sweep(grace_seconds=0)
    assert all(OTHER.shard in name for name in files(store))
    assert torch.equal(store.load(OTHER)["data"], payload(5)["data"])


def test_quarantine_keeps_the_bytes_and_the_reason(store):
    record = store.save(KEY, payload(1), {})
    damage(store, data_file(store), lambda data: data[:100])

    store.quarantine(KEY, "size differs | by\na lot")

    assert store.record(KEY) is None
    kept = [name for name in files(store) if name.startswith(".quarantine/")]
    assert sorted(name.rsplit(".", 1)[-1] for name in kept) == ["done", "pt"]
    assert any(store.medium.read(store.root / name) and name.endswith(record.file) for name in kept)
    store.save(KEY, payload(1), {})
    assert torch.equal(store.load(KEY)["data"], payload(1)["data"])


def test_sweep_by_kind_dry_run_first(store):
    first = store.save(KEY, payload(1), {})
    second = store.save(KEY, payload(2), {})
    store.save(OTHER, payload(3), {})
    store.quarantine(OTHER, "for the test")
    folder = f"{KEY.stage}/{KEY.batch}"
    store.medium.put_whole(store.root / folder / "demo-1__0009.0123456789abcdef.pt", b"never committed")
    everything = {"superseded": True, "quarantine_seconds": 0.0}
    before = files(store)

    assert list(store.sweep(grace_seconds=3600)) == []
    planned = store.sweep(0, **everything, dry_run=True)
    assert files(store) == before
    done = store.sweep(0, **everything)

    assert planned == done
    assert sorted(file.why for file in done) == ["leftover", "quarantined", "quarantined", "superseded"]
    assert sum(file.bytes for file in done if file.why == "superseded") == first.bytes
    assert store.record(KEY).previous == ()
    left = {name for name in files(store) if not name.startswith("failed_checkpoints")}
    assert left == {f"{folder}/{second.file}", f"{folder}/{KEY.shard}.pt.done"}
    assert torch.equal(store.load(KEY)["data"], payload(2)["data"])


def test_a_url_with_credentials_is_refused_without_repeating_them():
    with pytest.raises(StorageError, match="do not belong in a URL") as caught:
        open_store("s3://key:hush@bucket/x")
    assert SECRET not in str(caught.value)


def test_an_unknown_service_is_named():
    with pytest.raises(StorageError, match="gopher"):
        open_store("gopher://bucket/x")
    with pytest.raises(StorageError, match="ftp://"):  # fsspec knows it and connects at once
        open_store("ftp://no.such.host.invalid/x")


def test_a_bucket_that_is_not_there_is_a_named_error(on_s3):
    with pytest.raises(StorageError, match="create the bucket first"):
        open_store("s3://no-such-bucket-here/x").save(KEY, payload(1), {})


def test_a_service_that_does_not_answer_is_a_named_error(monkeypatch):
    pytest.importorskip("s3fs", reason="needs the extra [s3]")
    for name, value in environment(9).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VIRNUC_STORE_PATIENCE_SECONDS", "1")
    store = open_store(f"s3://bucket-{os.getpid()}/x")

    with pytest.raises(StorageError, match="s3://bucket") as caught:
        store.save(KEY, payload(1), {})

    assert SECRET not in str(caught.value)
