"""Files made to do harm: pickles that run code, archives that lie, tensors that are not there.

Every payload tries to create a canary file. `cases` yields them all; none may run, and none may need much memory.
"""

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ALWAYS, CHECKED, VALUES = "always", "checked", "values"


@dataclass(frozen=True)
class Case:
    """One hostile file.

    Attributes:
        group: Its class.
        name: What it tries.
        data: The file.
        refused: `always`, `checked` (not with `skip`), or `values` (by the full check and for files without a record).
    """

    group: str
    name: str
    data: bytes
    refused: str = ALWAYS


def cases(canary: Path, group: str = "") -> Iterator[Case]:
    """All hostile files, or at least those of a group; `canary` is what they try to create."""
    programs = dict(_programs(str(canary)))
    for name, program in programs.items():
        yield Case("pickle in an archive", name, _archive({"data.pkl": program}))
        yield Case("bare pickle", name, program)
    program = next(iter(programs.values()))
    yield Case("old torch file", "magic, then a program", _old_torch(program))
    yield Case("tar file", "a program as pickle member", _tar(program))
    yield Case("bare pickle", "padded to look like an archive", b"PK\x03\x04" + program + b"PK\x05\x06" + bytes(18))
    yield from _gadgets(str(canary))
    if group in ("", "archive"):
        yield from _archives(program)
    yield from _lies()


class Runs:
    """Reduces to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def _programs(canary: str) -> Iterator[tuple[str, bytes]]:
    """Pickles that would create the canary: each protocol, each opcode that can call something."""
    import os
    import subprocess

    for protocol in range(6):
        yield f"os.mkdir, protocol {protocol}", pickle.dumps(Runs(os.mkdir, canary), protocol)
    for function, arguments in (
        (exec, (f"open({canary!r}, 'w')",)), (eval, (f"open({canary!r}, 'w')",)), (open, (canary, "w")),
        (os.system, (f"touch {canary}",)), (subprocess.check_call, (["touch", canary],)), (__import__, ("this",)),
        (getattr, (os, "mkdir")), (torch.load, (canary,)), (torch.save, ({}, canary)), (torch.hub.load, (canary, "x")),
        (torch.jit.load, (canary,)), (Path, (canary,)),
    ):  # fmt: skip
        if isinstance(arguments[0], type(os)):
            continue
        yield f"{getattr(function, '__name__', function)}", pickle.dumps(Runs(function, *arguments))
    path = canary.encode()
    text = b"V" + path + b"\n"
    yield "INST", b"(" + text + b"iposix\nmkdir\n."
    yield "OBJ", b"(cposix\nmkdir\n" + text + b"o."
    yield "GLOBAL and REDUCE by hand", b"cposix\nmkdir\n(" + text + b"tR."
    yield "NEWOBJ", b"\x80\x02cposix\nmkdir\n(" + text + b"t\x81."
    yield "NEWOBJ_EX", b"\x80\x04cposix\nmkdir\n(" + text + b"t}\x92."
    yield "STACK_GLOBAL", b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93(" + text + b"tR."
    yield (
        "BUILD with a state",
        b"\x80\x02ctorch.nn.modules.module\nModule\n)\x81}U\x01xcposix\nmkdir\n(" + text + b"tRsb.",
    )
    yield "EXT1", b"\x80\x02\x82\x01."
    yield "EXT2", b"\x80\x02\x83\x01\x00."
    yield "EXT4", b"\x80\x02\x84\x01\x00\x00\x00."
    yield "PERSID", b"Pposix\n."
    yield "BINPERSID of a program", b"\x80\x02cposix\nmkdir\n(" + text + b"tRQ."
    yield "a program behind a whole dict", b"\x80\x02}q\x000cposix\nmkdir\n(" + text + b"tR."
    yield "memo far away", b"\x80\x02}r\xff\xff\xff\x7f."
    yield "text of 2^62 bytes", b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x."
    yield "bytes of 2^62 bytes", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x."
    yield "frame of 2^62 bytes", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}."
    yield "integer of 2^31 digits", b"\x80\x02\x8b\xff\xff\xff\x7fx."
    yield "deep lists", b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."


def _archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED, folder: str = "archive") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in {"version": b"3\n", **members}.items():
            archive.writestr(f"{folder}/{name}", content)
    return out.getvalue()


def _old_torch(program: bytes) -> bytes:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    return magic + pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2) + program


def _tar(program: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(program)
            archive.addfile(info, io.BytesIO(program))
    return out.getvalue()


class Persistent:
    """Stands for a storage in a hand-made pickle: pickled as a persistent id."""

    def __init__(self, *identity: Any) -> None:
        self.identity = identity


def _tensor_pickle(value: Any) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            return item.identity if isinstance(item, Persistent) else None

    out = io.BytesIO()
    Pickler(out, 2).dump(value)
    return out.getvalue()


def _gadgets(canary: str) -> Iterator[Case]:
    """Functions that torch allows, with arguments that it should not."""
    from collections import OrderedDict

    rebuild = torch._utils._rebuild_tensor_v2
    storage = Persistent("storage", torch.FloatStorage, "0", "cpu", 4)
    four = {"data/0": struct.pack("<4f", 1, 2, 3, 4)}
    hooks: OrderedDict = OrderedDict()

    def tensor(offset: int, size: tuple, stride: tuple, of: Persistent = storage) -> Runs:
        return Runs(rebuild, of, offset, size, stride, False, hooks)

    shapes = {
        "one number a billion times": tensor(0, (10**9, 10**6), (0, 0)),
        "a million rows of one": tensor(0, (10**6, 1_000), (0, 1)),
        "beyond its storage": tensor(0, (10**6,), (1,)),
        "before its storage": tensor(-5, (4,), (1,)),
        "offset of 2^62": tensor(2**62, (4,), (1,)),
        "negative size": tensor(0, (-4,), (1,)),
        "negative stride": tensor(0, (4,), (-1,)),
        "size of 2^63 - 1": tensor(0, (2**63 - 1,), (0,)),
        "sizes that overflow": tensor(0, (2**32, 2**32, 2**32), (0, 0, 0)),
        "overlapping rows": tensor(0, (3, 2), (1, 1)),
        "storage that is not there": tensor(0, (4,), (1,), Persistent("storage", torch.FloatStorage, "7", "cpu", 4)),
        "storage of 2^60 numbers": tensor(0, (4,), (1,), Persistent("storage", torch.FloatStorage, "0", "cpu", 2**60)),
        "storage outside the archive": tensor(
            0, (4,), (1,), Persistent("storage", torch.FloatStorage, "../../../etc/passwd", "cpu", 4)
        ),
        "a storage that is a program": tensor(
            0, (4,), (1,), Persistent("module", Runs(open, canary, "w"), "0", "cpu", 4)
        ),
    }
    for name, shape in shapes.items():
        whole = {"version": "2.0", "status": "complete", "kind": "esm2_embeddings", "ids": ["a"] * 3, "data": shape}
        refused = CHECKED if name == "overlapping rows" else ALWAYS
        yield Case("tensor gadget", name, _archive({"data.pkl": _tensor_pickle(whole), **four}), refused)
    for name in ("_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_meta_tensor_no_storage", "_rebuild_parameter",
                 "_rebuild_wrapper_subclass", "_rebuild_device_tensor_from_numpy"):  # fmt: skip
        function = getattr(torch._utils, name)
        data = _tensor_pickle({"version": "2.0", "data": Runs(function, canary, 1, 2)})
        yield Case("tensor gadget", name, _archive({"data.pkl": data, **four}))
    from_type = torch._tensor._rebuild_from_type_v2
    state = Runs(from_type, rebuild, torch.Tensor, (storage, 0, (4,), (1,), False, hooks), {"__setstate__": canary})
    yield Case("tensor gadget", "state on a tensor", _archive({"data.pkl": _tensor_pickle({"data": state}), **four}))


def _saved(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def _good() -> dict:
    ids = [f"s_chunk_{row}F1" for row in range(4)]
    head = {"version": "2.0", "status": "complete", "kind": "esm2_embeddings", "ids": ids}
    return {**head, "data": torch.arange(12.0).reshape(4, 3)}


def _archives(program: bytes) -> Iterator[Case]:
    """Archives that are not what `torch.save` writes."""
    good = _saved(_good())
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        members = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    bomb = _archive({**members, "data/9": bytes(300_000_000)}, zipfile.ZIP_DEFLATED)
    yield Case("archive", "a bomb of 300 MB", bomb)
    yield Case("archive", "a bomb in bzip2", _archive({"data.pkl": bytes(10_000_000)}, zipfile.ZIP_BZIP2))
    yield Case("archive", "300,000 members", _archive({f"data/{n}": b"" for n in range(300_000)} | members))
    yield Case("archive", "something before it", b"#!/bin/sh\n" + good)
    yield Case("archive", "something behind it", good + program)
    yield Case("archive", "a comment behind it", good[:-2] + struct.pack("<H", 1_000) + bytes(1_000))
    yield Case("archive", "a program beside it", _archive({**members, "code/__torch__.py": b"import os"}))
    yield Case("archive", "TorchScript", _archive({**members, "constants.pkl": program}))
    yield Case("archive", "a path that climbs", _archive({**members, "../../evil": b"x"}))
    yield Case("archive", "two folders", _archive(members)[:-22] + _archive(members, folder="other"))
    yield Case("archive", "a name twice", _twice(members, program))
    yield Case("archive", "members that overlap", _overlapping(good))
    yield Case("archive", "a size that lies", _patched(good, 24, 2**31 - 1))
    yield Case("archive", "an offset that lies", _patched(good, 42, 2**31 - 1))
    yield Case("archive", "encrypted members", _patched(good, 8, 1, "<H"))
    yield Case("archive", "65,535 members by its own word", good[:-12] + b"\xff\xff" + good[-10:])
    yield Case("archive", "no members", b"PK\x05\x06" + bytes(18))
    yield Case("archive", "an archive in an archive", _archive({"data.pkl": good}))


def _twice(members: dict[str, bytes], program: bytes) -> bytes:
    import warnings

    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")
        for name, content in [*members.items(), ("data.pkl", program)]:
            archive.writestr(f"archive/{name}", content)
    return out.getvalue()


def _directory(data: bytes) -> int:
    return int.from_bytes(data[-6:-2], "little")


def _patched(data: bytes, offset: int, value: int, form: str = "<I") -> bytes:
    """A field of the first entry of the central directory set to a value."""
    at = _directory(data) + offset
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


def _overlapping(data: bytes) -> bytes:
    """The second entry of the directory points to the first member."""
    first = _directory(data)
    name, extra, comment = struct.unpack("<3H", data[first + 28 : first + 34])
    second = first + 46 + name + extra + comment
    return data[: second + 42] + bytes(4) + data[second + 46 :]


def _lies() -> Iterator[Case]:
    """Whole archives whose content is not a checkpoint."""
    nan, infinite = _good(), _good()
    nan["data"][1, 1], infinite["data"][3, 2] = float("nan"), float("inf")
    base = torch.zeros(1, 3)
    changes: dict[str, tuple[Any, str]] = {
        "NaN": (nan, VALUES),
        "infinity": (infinite, VALUES),
        "an id twice": ({**_good(), "ids": ["a", "a", "b", "c"]}, VALUES),
        "too few ids": ({**_good(), "ids": ["a"]}, CHECKED),
        "an id that is a number": ({**_good(), "ids": ["a", "b", "c", 4]}, CHECKED),
        "ids that are one text": ({**_good(), "ids": "abcd"}, CHECKED),
        "whole numbers": ({**_good(), "data": torch.ones(4, 3, dtype=torch.int64)}, CHECKED),
        "three dimensions": ({**_good(), "data": torch.ones(4, 3, 1)}, CHECKED),
        "a view": ({**_good(), "data": base.expand(4, 3)}, CHECKED),
        "transposed": ({**_good(), "data": torch.ones(3, 4).T}, CHECKED),
        "sparse": ({**_good(), "data": torch.eye(4).to_sparse()}, ALWAYS),
        "a parameter": ({**_good(), "data": torch.nn.Parameter(torch.ones(4, 3))}, ALWAYS),
        "a list of rows": ({**_good(), "data": [torch.ones(3)] * 4}, CHECKED),
        "no data": ({k: v for k, v in _good().items() if k != "data"}, CHECKED),
        "another kind": ({**_good(), "kind": "predictions"}, CHECKED),
        "no known kind": ({**_good(), "kind": "evil"}, CHECKED),
        "unfinished": ({**_good(), "status": "in_progress"}, CHECKED),
        "version 10.0": ({**_good(), "version": "10.0"}, ALWAYS),
        "version two": ({**_good(), "version": "two"}, ALWAYS),
        "version of 400 digits": ({**_good(), "version": "9" * 400 + ".0"}, ALWAYS),
        "not a dict": ([1, 2, 3], ALWAYS),
        "names that are numbers": ({1: 2}, ALWAYS),
        "nothing": (None, ALWAYS),
    }
    for name, (value, refused) in changes.items():
        yield Case("content", name, _saved(value), refused)
