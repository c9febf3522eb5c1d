"""A model of power loss: which disks may be found after the current fails at any moment of an operation.

The operation's system calls are recorded by strace. Of them survive for certain: a file's bytes up to its last fsync,
and a folder's entries up to the folder's last fsync. Of everything later any subset may survive: each entry operation
on its own, and a file's unsynced bytes whole, in part, as zeros, or not at all. Only a rename is one step.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Call:
    """One recorded system call that changes the disk."""

    name: str
    path: str
    target: str = ""
    data: bytes = b""


def parse(trace: str, root: Path) -> list[Call]:
    """The calls of a trace (`strace -y -s 10000000`) that succeeded below a root."""
    calls = []
    for line in trace.splitlines():
        match = re.match(r"(\w+)\((.*)\)\s+= (\S+)", line)
        if not match or match[3].startswith("-1"):
            continue
        name, arguments = match[1], match[2]
        if name == "openat":
            if "O_CREAT" in arguments or "O_TRUNC" in arguments:
                calls.append(Call("create", _quoted(arguments)[0]))
        elif name in ("write", "pwrite64"):
            path = re.match(r"\d+<(.*?)>", arguments)
            if path and path[1].startswith("/"):
                calls.append(Call("write", path[1], data=_bytes(arguments)))
        elif name in ("fsync", "fdatasync"):
            calls.append(Call("fsync", re.match(r"\d+<(.*?)>", arguments)[1]))
        elif name.startswith("rename"):
            calls.append(Call("rename", *_quoted(arguments)[:2]))
        elif name.startswith(("unlink", "mkdir")):
            calls.append(Call(name.removesuffix("at"), _quoted(arguments)[0]))
    return [call for call in calls if call.path.startswith(str(root))]


def _quoted(arguments: str) -> list[str]:
    return re.findall(r'"((?:[^"\\]|\\.)*)"', arguments)


def _bytes(arguments: str) -> bytes:
    return ast.literal_eval(f'b"{_quoted(arguments)[0]}"')


@dataclass
class _File:
    """A file's bytes: those that a power loss keeps, and those that programs see."""

    durable: bytes | None
    seen: bytes

    def variants(self) -> list[bytes]:
        if self.durable == self.seen:
            return [self.seen]
        half = self.seen[: len(self.seen) // 2]
        return list(dict.fromkeys([self.durable or b"", self.seen, half, b"\0" * len(self.seen), b""]))


@dataclass
class Disk:
    """What is durable, and what is pending, after some calls."""

    files: list[_File] = field(default_factory=list)
    entries: dict[str, int] = field(default_factory=dict)  #: path -> number of its file, durable
    seen: dict[str, int] = field(default_factory=dict)  #: the same as programs see it
    folders: set[str] = field(default_factory=set)  #: durable folders
    pending: list[tuple[frozenset[str], dict[str, int | None]]] = field(default_factory=list)

    def apply(self, call: Call) -> None:
        """Take one call into account."""
        parent = str(Path(call.path).parent)
        if call.name == "create":
            self.files.append(_File(None, b""))
            self._change({parent}, {call.path: len(self.files) - 1})
        elif call.name == "write":
            self.files[self.seen[call.path]].seen += call.data
        elif call.name == "rename":
            both = {parent, str(Path(call.target).parent)}
            self._change(both, {call.path: None, call.target: self.seen[call.path]})
        elif call.name == "unlink":
            self._change({parent}, {call.path: None})
        elif call.name == "mkdir":
            self._change({parent}, {call.path: -1})
        elif call.path in self.seen and self.seen[call.path] >= 0:
            file = self.files[self.seen[call.path]]
            file.durable = file.seen
        else:
            self._sync_folder(call.path)

    def _change(self, folders: set[str], change: dict[str, int | None]) -> None:
        self.pending.append((frozenset(folders), change))
        _update(self.seen, change)

    def _sync_folder(self, folder: str) -> None:
        for folders, change in self.pending:
            if folder in folders:
                _update(self.entries, change)
        self.pending = [(folders, change) for folders, change in self.pending if folder not in folders]

    def states(self) -> Iterator[dict[str, bytes | None]]:
        """Every disk that may be found: path -> bytes, None for a folder."""
        for chosen in itertools.product((False, True), repeat=len(self.pending)):
            entries = dict(self.entries)
            for take, (_, change) in zip(chosen, self.pending, strict=True):
                if take:
                    _update(entries, change)
            reachable = {path: number for path, number in entries.items() if _has_folders(path, entries, self.folders)}
            numbers = sorted({number for number in reachable.values() if number >= 0})
            for contents in itertools.product(*(self.files[number].variants() for number in numbers)):
                held = dict(zip(numbers, contents, strict=True))
                yield {path: None if number < 0 else held[number] for path, number in reachable.items()}


def _update(entries: dict[str, int], change: dict[str, int | None]) -> None:
    for path, number in change.items():
        if number is None:
            entries.pop(path, None)
        else:
            entries[path] = number


def _has_folders(path: str, entries: dict[str, int], folders: set[str]) -> bool:
    parent = str(Path(path).parent)
    return parent in folders or (entries.get(parent) == -1 and _has_folders(parent, entries, folders))


def disk_of(root: Path) -> Disk:
    """The model's disk for a folder whose every byte is durable."""
    disk = Disk(folders={str(root.parent)})
    for path in (root, *sorted(root.rglob("*"))):
        if path.is_dir():
            disk.entries[str(path)] = -1
        else:
            content = path.read_bytes()
            disk.files.append(_File(content, content))
            disk.entries[str(path)] = len(disk.files) - 1
    disk.seen = dict(disk.entries)
    return disk
