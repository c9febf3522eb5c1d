"""Where results may go: decided before any work, so that nothing a user has is replaced unless that was asked for.

Four questions of each name that is to be written. Is it an input of the call, under whatever spelling? That is never
replaced. Is it anything but a file? It cannot be replaced. Who made the file that stands there? Earlier results of the
same batch are replaced, which `run.json`, `provenance.json` and `summary.json` beside them tell; others only with
`--overwrite`. And is it as it was written? What its user has changed since is replaced only with `--overwrite`, too:
the digests are in `run.json`, and of the report that is handed out next in its seal.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from virnuc_dagster.errors import SettingsError, typed_os_errors
from virnuc_dagster.files import make_folder
from virnuc_dagster.home.origins import FOLDER as ORIGINS
from virnuc_dagster.home.settings import Settings
from virnuc_dagster.report import paths
from virnuc_dagster.report.outputs import Output, write_together
from virnuc_dagster.stages.keys import slug

#: Result files that name their batch.
_MARKS = (paths.RUN, paths.PROVENANCE, paths.SUMMARY)
_NAMES = (*paths.REPRODUCIBLE, paths.PROVENANCE, paths.RUN)
_SHOWN = 4
_ELSEWHERE = "name another folder for the results with --output"


@dataclass(frozen=True)
class Inputs:
    """The files that a call reads, by path and by what the file system knows them as.

    Attributes:
        real: Path without links -> as given.
        numbers: Device and inode -> as given.
    """

    real: Mapping[str, str]
    numbers: Mapping[tuple[int, int], str]

    @classmethod
    def of(cls, given: Iterable[str | Path]) -> "Inputs":
        """Look at each input; `-` is standard input, which may be a file too."""
        real: dict[str, str] = {}
        numbers: dict[tuple[int, int], str] = {}
        for name in map(str, given):
            if name != "-":
                real[os.path.realpath(name)] = name
            try:
                facts = os.fstat(sys.stdin.fileno()) if name == "-" else Path(name).stat()
            except (OSError, ValueError, AttributeError):
                continue  # not there, which reading it will say; or no file at all
            numbers[facts.st_dev, facts.st_ino] = name
        return cls(real, numbers)

    def holds(self, target: Path) -> str | None:
        """The input, as given, that stands under a name; None if none does."""
        try:
            facts = target.stat()
        except OSError:
            return self.real.get(os.path.realpath(target))
        return self.numbers.get((facts.st_dev, facts.st_ino)) or self.real.get(os.path.realpath(target))


def refuse_unwritable(output: Path) -> None:
    """Raise if nothing can be written below `output`: said before hours of work, not after.

    Raises:
        SettingsError: The folder, or the lowest of its parents that is there, is no folder (a link that leads
            nowhere is none) or is closed to us.
    """
    there = next(path for path in (output.absolute(), *output.absolute().parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise SettingsError(
            f"--output {output}: {there} is no folder that can be written",
            hint="name a new or an existing folder, and check its owner and permissions",
        )


def refuse_targets(targets: Iterable[Path], inputs: Inputs, remedy: str = _ELSEWHERE) -> None:
    """Raise if a name to be written is an input of the call, or taken by something that is no file.

    Args:
        targets: What is to be written.
        inputs: What the call reads.
        remedy: What to do about it.

    Raises:
        SettingsError: It is.
    """
    for target in targets:
        if given := inputs.holds(target):
            raise SettingsError(
                f"{target} is to be written, but it is the input {given}", hint=remedy, path=str(target)
            )
        if (kind := _kind(target)) not in ("", "file"):
            raise SettingsError(
                f"{target} is to be written, but it is a {kind}",
                hint=f"move it away, or {remedy}",
                path=str(target),
            )


def refuse_own_folders(output: Path, settings: Settings) -> None:
    """Raise if results would go into the store or another folder that the program keeps for itself.

    Raises:
        SettingsError: They would.
    """
    own = [settings.reports, settings.dagster_home, settings.inbox, settings.logs, settings.home / ORIGINS]
    own += [settings.store] if isinstance(settings.store, Path) else []
    place = Path(os.path.realpath(output))
    for folder in own:
        if place.is_relative_to(os.path.realpath(folder)):
            raise SettingsError(
                f"--output {output} lies in {folder}, which the program keeps for itself",
                hint=_ELSEWHERE,
                path=str(output),
            )


def refuse_existing_file(target: Path, inputs: Inputs, *, overwrite: bool) -> None:
    """Raise if a single file may not be written: it is there already, and nobody said `--overwrite`.

    Raises:
        SettingsError: It may not.
    """
    refuse_unwritable(target.parent)
    refuse_targets([target], inputs, "name another file with --output")
    if not overwrite and os.path.lexists(target):
        raise SettingsError(
            f"--output {target}: there is such a file", hint="name another file, or replace it with --overwrite"
        )


@dataclass(frozen=True)
class Destination:
    """Where the results of a call go.

    Attributes:
        output: The folder that the user named.
        inputs: What the call reads.
        overwrite: Replace files that are no earlier results of the same batch, too.
        nested: Results go to a folder for each batch in `output`.
        beside: Further files that the call writes; they belong to the results in `output`.
    """

    output: Path
    inputs: Inputs
    overwrite: bool = False
    nested: bool = False
    beside: tuple[Path, ...] = ()

    def check(self, names: Sequence[str]) -> None:
        """What can be said before an input is read.

        Args:
            names: What the batches will be called.

        Raises:
            SettingsError: The results cannot go there.
        """
        refuse_unwritable(self.output)
        slugs = [slug(name) for name in names]
        if self.nested:
            self._refuse_inputs_in_results(slugs)
            return
        refuse_targets(self._targets(self.output), self.inputs)
        self._refuse_foreign(self.output, lambda batch: batch.rpartition("-")[0] in slugs, f"{slugs[0]}-...")

    def folder_of(self, batch: str, sealed: Sequence[Mapping[str, str]] = ()) -> Path:
        """The folder of a batch's results, after making sure that they may be written.

        Args:
            batch: Its key.
            sealed: Digests by file name of reports whose files may stand there, besides those that `run.json` tells of:
                a call that was killed while it put them into their places left some.

        Raises:
            SettingsError: They may not.
        """
        folder = self.output / batch if self.nested else self.output
        refuse_unwritable(folder)
        refuse_targets(self._targets(folder), self.inputs)
        self._refuse_foreign(folder, lambda known: known == batch, batch)
        if not self.overwrite and (edited := _edited(folder, sealed)):
            raise SettingsError(
                f"{_some(edited)} in {folder} {'was' if len(edited) == 1 else 'were'} changed since"
                f" {'it was' if len(edited) == 1 else 'they were'} written, and would be replaced",
                hint=f"move or rename what you changed, {_ELSEWHERE}, or replace it with --overwrite",
                path=str(folder / edited[0]),
            )
        return folder

    def _targets(self, folder: Path) -> list[Path]:
        return [*(folder / name for name in _NAMES), *self.beside]

    def _refuse_inputs_in_results(self, slugs: Sequence[str]) -> None:
        """Batch keys are not known yet; an input that lies where one of these slugs may lead is refused already."""
        root = os.path.realpath(self.output)
        for path, given in ((Path(real), given) for real, given in self.inputs.real.items()):
            ours = any(re.fullmatch(f"{re.escape(known)}-[0-9a-f]{{8}}", path.parent.name) for known in slugs)
            if path.name in _NAMES and str(path.parent.parent) == root and ours:
                raise SettingsError(f"the results of this call may replace its input {given}", hint=_ELSEWHERE)

    def _refuse_foreign(self, folder: Path, is_ours: Callable[[str], bool], batch: str) -> None:
        standing = [path for path in self._targets(folder) if os.path.lexists(path)]
        if self.overwrite or not standing:
            return
        owners = {path.name: owner_of(path) for path in (folder / mark for mark in _MARKS) if path.is_file()}
        if owners and all(owner is not None and is_ours(owner) for owner in owners.values()):
            return
        others = sorted({owner for owner in owners.values() if owner and not is_ours(owner)})
        shown = _some([path.name for path in standing])
        what = f"the results of batch {others[0]}" if others else "files that are no earlier results of this input"
        raise SettingsError(
            f"{folder} holds {what} ({shown}), which those of batch {batch} would replace",
            hint=f"{_ELSEWHERE}, or replace these files with --overwrite",
            path=str(folder),
        )


def owner_of(mark: Path) -> str | None:
    """The batch that a result file names; None if it names none, so that another program made it."""
    try:
        batch = json.loads(mark.read_bytes())["batch"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return batch if isinstance(batch, str) else None


def _edited(folder: Path, sealed: Sequence[Mapping[str, str]]) -> list[str]:
    """Result files that are none of those that a call wrote, as far as digests are known.

    Without those of `run.json` (there is none, or that of an older version) only a seal that holds the
    `provenance.json` beside the files says what they were.
    """
    written = digests_in(folder / paths.RUN)
    if not written:
        provenance = _digest(folder / paths.PROVENANCE)
        sealed = [digests for digests in sealed if provenance and digests.get(paths.PROVENANCE) == provenance]
    known = [digests for digests in (written, *sealed) if digests]
    wanted = {name: {digests[name] for digests in known if name in digests} for name in _NAMES if name != paths.RUN}
    found = {name: _digest(folder / name) for name, digests in wanted.items() if digests}
    return [name for name, digest in found.items() if digest and digest not in wanted[name]]


def digests_in(path: Path) -> dict[str, str]:
    """What a file says of the files beside it; nothing if it cannot be read."""
    try:
        return {str(name): str(digest) for name, digest in json.loads(path.read_bytes())[paths.DIGESTS].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _digest(path: Path) -> str:
    """The sha256 of a file; empty if there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def write_results(report: Path, folder: Path, run: dict[str, Any]) -> None:
    """Copy a report's files to where the user wants them, and write `run.json`: all of them, or none.

    Everything is written under temporary names first. Then `summary.json` takes its place before all others, so that
    whatever a killed call leaves is known to be ours, and `run.json` after all others.

    Args:
        report: The report's folder in the home.
        folder: Where to.
        run: Content of `run.json`; is given the digests of the files.
    """
    others = [name for name in (*paths.REPRODUCIBLE, paths.PROVENANCE) if name != paths.SUMMARY]
    digests: dict[str, str] = {}
    run[paths.DIGESTS] = digests
    order = (paths.RUN, *others, paths.SUMMARY)  # the last one opened is the first to be put in its place

    def fill(outputs: Mapping[str, Output]) -> None:
        for name in (*others, paths.SUMMARY):
            with (report / name).open("rb") as source, typed_os_errors(folder / name, partial(_size, report / name)):
                digests[name] = hashlib.file_digest(source, "sha256").hexdigest()
                source.seek(0)
                shutil.copyfileobj(source, outputs[name].file)
        outputs[paths.RUN].write(run_text(run))

    make_folder(folder.absolute())
    write_together({name: folder / name for name in order}, fill)


def run_text(run: Mapping[str, Any]) -> str:
    """Content of `run.json`."""
    return json.dumps(run, indent=2) + "\n"


def _size(path: Path) -> int:
    return path.stat().st_size


def _kind(path: Path) -> str:
    """`file`, what else it is, or nothing if nothing is there; links are not followed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return ""
    except OSError:
        return ""  # said by whoever writes there
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "symbolic link"))
    return next((kind for test, kind in kinds if test(mode)), "device or pipe")
