"""Where results may go: decided before any work, so that nothing a user has is replaced unless that was asked for.

Three questions of each name that is to be written. Is it an input of the call, under whatever spelling? That is never
replaced. Is it anything but a file? It cannot be replaced. Who made the file that stands there? Earlier results of the
same batch are replaced, which `run.json`, `provenance.json` and `summary.json` beside them tell; others only with
`--overwrite`.
"""

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

from virnuc_dagster.checkpoints.errors import typed_os_errors
from virnuc_dagster.cli.options import refuse_unwritable
from virnuc_dagster.errors import SettingsError
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

    def folder_of(self, batch: str) -> Path:
        """The folder of a batch's results, after making sure that they may be written.

        Raises:
            SettingsError: They may not.
        """
        folder = self.output / batch if self.nested else self.output
        refuse_unwritable(folder)
        refuse_targets(self._targets(folder), self.inputs)
        self._refuse_foreign(folder, lambda known: known == batch, batch)
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
        shown = ", ".join(path.name for path in standing[:_SHOWN]) + (", ..." if len(standing) > _SHOWN else "")
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


def write_results(report: Path, folder: Path, run: Mapping[str, Any]) -> None:
    """Copy a report's files to where the user wants them, and write `run.json`: all of them, or none.

    Everything is written under temporary names first. Then `summary.json` takes its place before all others, so that
    whatever a killed call leaves is known to be ours, and `run.json` after all others.

    Args:
        report: The report's folder in the home.
        folder: Where to.
        run: Content of `run.json`.
    """
    others = [name for name in (*paths.REPRODUCIBLE, paths.PROVENANCE) if name != paths.SUMMARY]
    order = (paths.RUN, *others, paths.SUMMARY)  # the last one opened is the first to be put in its place

    def fill(outputs: Mapping[str, Output]) -> None:
        outputs[paths.RUN].write(run_text(run))
        for name in (*others, paths.SUMMARY):
            with (report / name).open("rb") as source, typed_os_errors(folder / name, partial(_size, report / name)):
                shutil.copyfileobj(source, outputs[name].file)

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
