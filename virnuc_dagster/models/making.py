"""Making bundles: what importing published weights and training share.

A bundle appears under its name only when it is whole and has been loaded again from disk with every check.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from xxhash import xxh3_128

from virnuc_dagster.classify.head import predict
from virnuc_dagster.embedding.registry import encoder_of
from virnuc_dagster.errors import BundleError, typed_os_errors
from virnuc_dagster.files import exclusive, fsync_folder, make_folder, remove_abandoned, rename
from virnuc_dagster.models.bundle import SPEC_FILE, Bundle, open_bundle
from virnuc_dagster.models.spec import as_written

#: How the name of a bundle's folder ends while it is made.
_PARTIAL = ".partial"
_GOLDEN_NUCLEOTIDE = "ATGAAACGTCTGGGTACCGAAGCTATTCGTGACCTGAAAGCAGTTCACTGGTCTAACGATCCGTTCATGTGCCAGTATAAAGGCA"
_GOLDEN_PROTEIN = "MKRLGTEAIRDLKAVHWSNDPFMCQYKGLLEAVRKHT"


def make_bundle(output: Path, write_parts: Callable[[Path], dict[str, Any]]) -> Bundle:
    """Make a bundle's folder at once: parts, golden frame, every check, then its name.

    What a call for the same name left that was killed is removed.

    Args:
        output: Folder to make; must not exist.
        write_parts: Writes the files into a folder and returns the description without `version` and `golden`.

    Raises:
        BundleError: The folder exists, or the bundle does not load.
        StorageError: The folder cannot be written; `NoSpaceError` if the disk is full.
    """
    refuse_existing(output)
    make_folder(output.absolute().parent)
    with typed_os_errors(output):
        beside = output.absolute().parent
        remove_abandoned(path for path in beside.iterdir() if _is_partial(path, output.name))
        partial = Path(tempfile.mkdtemp(prefix=f".{output.name}-", suffix=_PARTIAL, dir=beside))
    try:
        with typed_os_errors(output), exclusive(partial):
            _fill(partial, write_parts)
            rename(partial, output.absolute())
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_bundle(str(output))


def _is_partial(path: Path, name: str) -> bool:
    """Whether a folder is a bundle of that name that was not finished."""
    return path.name.startswith(f".{name}-") and path.name.endswith(_PARTIAL)


def _fill(folder: Path, write_parts: Callable[[Path], dict[str, Any]]) -> None:
    """Write a whole bundle, load it, and sync every file: what it was made from may go once it has its name."""
    spec = write_parts(folder)
    write_spec(folder, spec)
    spec["golden"] = golden_of(open_bundle(str(folder)))
    write_spec(folder, spec)
    load_all(open_bundle(str(folder)))
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            fsync_folder(path)
    fsync_folder(folder)


def refuse_existing(output: Path) -> None:
    """Raise if there is something under the name of a bundle to be made."""
    if os.path.lexists(output):
        raise BundleError(
            f"{output} exists",
            hint="name another folder with --output: what is there is never replaced",
            path=str(output),
        )


def load_all(bundle: Bundle) -> None:
    """Load every part and reproduce the golden frame.

    Raises:
        BundleError: Something is not as recorded.
    """
    cpu = torch.device("cpu")
    for encoder in bundle.spec.encoders:
        bundle.load_encoder(encoder.part, cpu)
    bundle.load_head(cpu)
    bundle.load_fallback()


def golden_of(bundle: Bundle) -> dict[str, Any]:
    """What the bundle makes of one fixed frame."""
    from virnuc_dagster.embedding.runner import embed

    cpu = torch.device("cpu")
    texts = {"nucleotide": _GOLDEN_NUCLEOTIDE, "protein": _GOLDEN_PROTEIN}
    vectors = {
        part: embed(bundle.load_encoder(part, cpu), ["golden"], [texts[encoder_of(part).reads]], token_budget=1)
        for part in [encoder.part for encoder in bundle.spec.encoders]
    }
    score = predict(bundle.load_head(cpu), vectors)
    fallback = bundle.load_fallback()
    return {
        **texts,
        "vectors": {part: vector[0].tolist() for part, vector in vectors.items()},
        "score": score[0].tolist(),
        **({"fallback": float(fallback.score([_GOLDEN_NUCLEOTIDE])[0])} if fallback else {}),
    }


def file_ref(path: Path) -> dict[str, str]:
    """A file of the bundle as its description names it."""
    with path.open("rb") as file:
        digests = {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        file.seek(0)
        return {"file": path.name, **digests, "xxh3": hashlib.file_digest(file, xxh3_128).hexdigest()}


def write_spec(folder: Path, spec: dict[str, Any]) -> None:
    """Write the description, in the oldest format that can say it."""
    (folder / SPEC_FILE).write_text(json.dumps(as_written(spec), indent=1) + "\n", encoding="utf-8")
