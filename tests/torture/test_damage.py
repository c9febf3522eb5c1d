"""T6, T7, T8: cut files, flipped bits, and nonsense. Every damage is named; nothing else is ever raised."""

import dataclasses
import hashlib
import json
import random
import time
import zipfile

import pytest
from kits.torture import FOLDER, KEY, RECORD, payload, save, version_at

from virnuc_dagster.checkpoints import CheckpointDamagedError, CheckpointError, Level, LocalStore, archive
from virnuc_dagster.errors import VirnucError

ROWS = 400


@pytest.fixture
def store(tmp_path):
    save(tmp_path, 1, ROWS)
    return LocalStore(tmp_path)


def data_path(store):
    return store.root / FOLDER / store.record(KEY).file


def header_bytes(data: bytes) -> list[int]:
    """Positions of everything in a data file that is not a member's content, and of the pickle's first bytes."""
    inside = bytearray(len(data))
    for member in archive.members(data):
        skip = 64 if member.name.endswith("data.pkl") else 0
        inside[member.start + skip : member.start + member.size] = b"\1" * max(0, member.size - skip)
    return [position for position, flag in enumerate(inside) if not flag]


def offsets(data: bytes, number: int, seed: int) -> list[int]:
    return random.Random(seed).sample(range(len(data)), min(number, len(data)))


def named(store, look) -> int:
    """1 if looking ends in a named error about this shard."""
    with pytest.raises(CheckpointError) as caught:
        look()
    assert KEY.shard in str(caught.value)
    return 1


def test_truncated_anywhere(store, full, ledger):
    """T6: the size in the record gives every cut away, also to the quick check."""
    path = data_path(store)
    good = path.read_bytes()
    cuts = sorted({*header_bytes(good), *offsets(good, 1_200 if full else 200, 6)})
    found = 0
    for cut in cuts:
        path.write_bytes(good[:cut])
        found += named(store, lambda: store.record(KEY)) and named(store, lambda: store.load(KEY))
    path.write_bytes(good)
    assert version_at(store.root) == 1
    ledger("T6", "truncated data file", events=len(cuts), named=found)


def test_truncated_record(store, ledger):
    path = store.root / RECORD
    good = path.read_bytes()
    found = 0
    for cut in range(len(good)):
        path.write_bytes(good[:cut])
        found += named(store, lambda: store.record(KEY))
    path.write_bytes(good)
    assert version_at(store.root) == 1
    ledger("T6", "truncated record", events=len(good), named=found)


def test_a_flipped_bit_in_the_data(store, full, ledger):
    """T7: the digest finds each flip before a byte is unpickled."""
    path = data_path(store)
    good = path.read_bytes()
    bits = [(position, bit) for position in header_bytes(good) for bit in range(8)]
    bits = bits if full else random.Random(7).sample(bits, min(2_000, len(bits)))
    bits += [(position, position % 8) for position in offsets(good, 10_000 if full else 500, 70)]
    levels = (Level.LOAD, Level.FULL)
    found = 0
    for position, bit in bits:
        path.write_bytes(good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :])
        found += all(named(store, lambda level=level: store.load(KEY, level)) for level in levels)
    path.write_bytes(good)
    assert version_at(store.root) == 1
    ledger("T7", "flipped bit in a data file", events=len(bits), named=found)


def test_damaged_bytes_are_never_unpickled(store, monkeypatch):
    import torch

    path = data_path(store)
    good = path.read_bytes()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    for position in offsets(good, 50, 71):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(CheckpointDamagedError):
            store.load(KEY)


def test_a_flipped_bit_in_the_record(store, ledger):
    path = store.root / RECORD
    good = path.read_bytes()
    found = 0
    for position in range(len(good)):
        for bit in range(8):
            path.write_bytes(good[:position] + bytes([good[position] ^ 1 << bit]) + good[position + 1 :])
            found += named(store, lambda: store.record(KEY))
    path.write_bytes(good)
    assert version_at(store.root) == 1
    ledger("T7", "flipped bit in a record", events=8 * len(good), named=found)


JSON_NONSENSE = (
    None,
    True,
    -1,
    10**400,
    1.5,
    float("nan"),
    "",
    "\ud800",
    "../../x.pt",
    "x" * 300,
    [],
    {},
    [[]],
    {"a": 1},
)


def fuzzed_record(record, chance: random.Random) -> bytes:
    """A record with a field of another type or value, whose check digest is right: an attacker's, not an accident's."""
    field = chance.choice([f.name for f in dataclasses.fields(record)])
    try:
        return dataclasses.replace(record, **{field: chance.choice(JSON_NONSENSE)}).to_json()
    except (ValueError, TypeError):
        return json.dumps({field: str(field)}).encode()


def fuzzed_bytes(good: bytes, chance: random.Random) -> bytes:
    """Cut, repeated, overwritten or mixed pieces."""
    at, length = chance.randrange(len(good)), chance.randrange(1, 200)
    piece = good[chance.randrange(len(good)) :][:length]
    return chance.choice(
        [
            good[:at] + piece + good[at:],
            good[:at] + good[at + length :],
            good[:at] + chance.randbytes(length) + good[at + length :],
            good[:at] + b"\0" * length + good[at + length :],
            piece,
            good + piece,
            piece + good,
        ]
    )


def fuzzed_member(good: bytes, chance: random.Random) -> bytes:
    """A data file with one damaged member and right CRCs."""
    listed = archive.members(good)
    victim = chance.choice(listed)
    import io

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for member in listed:
            content = good[member.start : member.start + member.size]
            if member == victim and content:
                content = fuzzed_bytes(content, chance)
            target.writestr(zipfile.ZipInfo(member.name), content)
    return out.getvalue()


@pytest.mark.parametrize("what", ["record", "record bytes", "file bytes", "member"])
def test_fuzzed(what, store, full, ledger):
    """T8: whole or a named error, in bounded time; a record made to fit nonsense does not make it a checkpoint."""
    record, path = store.record(KEY), data_path(store)
    good, good_record = path.read_bytes(), (store.root / RECORD).read_bytes()
    chance = random.Random(what)
    whole = errors = 0
    for _ in range(25_000 if full else 500):
        data, text = good, good_record
        if what == "record":
            text = fuzzed_record(record, chance)
        elif what == "record bytes":
            text = fuzzed_bytes(good_record, chance)
        else:
            data = fuzzed_bytes(good, chance) if what == "file bytes" else fuzzed_member(good, chance)
            digest = hashlib.sha256(data).hexdigest()
            name = f"{KEY.shard}.{digest[:16]}.pt"
            text = dataclasses.replace(record, file=name, bytes=len(data), sha256=digest).to_json()
            path = path.with_name(name)
        path.write_bytes(data)
        (store.root / RECORD).write_bytes(text)
        began = time.process_time()
        try:
            loaded = store.load(KEY, Level.FULL)
        except VirnucError as error:
            errors += KEY.shard in str(error)
        else:
            assert len(loaded["ids"]) == loaded["data"].shape[0] == store.record(KEY).rows
            assert loaded["data"].isfinite().all()
            if what == "record bytes":
                assert loaded["ids"] == payload(1, ROWS)["ids"]
            whole += 1
        assert time.process_time() - began < 60, (
            "seconds of this process, not of the clock: nonsense made it work for ever"
        )
        if data is not good:
            path.unlink()
    assert errors > 0
    ledger("T8", f"fuzzed {what}", events=whole + errors, whole=whole, named=errors)
