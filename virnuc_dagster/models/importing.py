"""Make a bundle from published weights: read, load into our architecture, take the golden frame, write at once.

The bundle appears under its name only when it is whole and has been loaded again from disk with every check.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from virnuc_dagster.classify.head import Head
from virnuc_dagster.embedding.registry import ENCODERS, EncoderSpec
from virnuc_dagster.errors import BundleError
from virnuc_dagster.models.bundle import Bundle
from virnuc_dagster.models.hub import fetch
from virnuc_dagster.models.making import file_ref, load_all, make_bundle
from virnuc_dagster.models.published import read_head
from virnuc_dagster.models.spec import FIRST_VERSION

DEFAULT_THRESHOLDS = {"viral": 0.6, "non_viral": 0.4, "scored_share": 0.1}
"""Sequence verdicts of imported bundles; symmetric about the head's own decision, not calibrated on any data."""

DEFAULT_ROLL_UP = "mean"
"""Roll-up of imported bundles; chosen on no data."""


@dataclass(frozen=True)
class Sources:
    """Where the parts come from.

    Attributes:
        encoders: Part -> a folder, a file or a hub id, and a revision for the hub.
        head: A file.
    """

    encoders: Mapping[str, tuple[str, str | None]]
    head: Path


def import_bundle(sources: Sources, *, window_length: int, output: Path) -> tuple[Bundle, list[str]]:
    """Make a bundle.

    Args:
        sources: The published parts.
        window_length: Bases of a window that the head was trained for.
        output: Folder to make; must not exist.

    Returns:
        The bundle, loaded and verified once, and warnings for the user.

    Raises:
        BundleError: A part is missing, damaged, dangerous, or does not fit the architecture or the other parts.
    """

    def write_parts(folder: Path) -> dict[str, Any]:
        return {
            "format": "virnuc-bundle",
            "version": FIRST_VERSION,
            "name": output.name,
            "description": "Imported from published weights; thresholds are defaults, not calibrated.",
            "licence": "see the owners of the weights",
            "window_length": window_length,
            "thresholds": DEFAULT_THRESHOLDS,
            "roll_up": DEFAULT_ROLL_UP,
            "encoders": [
                _encoder(of, *sources.encoders[of.part], folder) for of in ENCODERS if of.part in sources.encoders
            ],
            "head": _head(sources.head, folder),
        }

    return make_bundle(output, write_parts), _warnings(sources.head, window_length)


def check_loads(bundle: Bundle) -> None:
    """Verify every digest, load every part, and reproduce the golden frame.

    Raises:
        BundleError: Something is not as recorded.
    """
    bundle.verify()
    load_all(bundle)


def _encoder(encoder: EncoderSpec, source: str, revision: str | None, folder: Path) -> dict[str, Any]:
    path, commit = fetch(source, revision)
    found = encoder.read_published(path)
    files = {}
    for name, file in found.files.items():
        shutil.copyfile(file, folder / file.name)
        files[name] = file_ref(folder / file.name)
    weights = folder / f"{encoder.part}.safetensors"
    save_file(found.model.published_state(), weights)
    return {
        "part": encoder.part,
        "id": Path(source).name if Path(source).exists() else source,
        "revision": commit,
        "dim": found.dim,
        "config": found.config,
        "weights": file_ref(weights),
        "files": files,
    }


def _head(source: Path, folder: Path) -> dict[str, Any]:
    state = read_head(source)
    try:
        hidden, features = state["hidden_layer.weight"].shape
        head = Head(features, hidden)
        head.load_state_dict(state, strict=True)
    except (KeyError, ValueError, RuntimeError) as error:
        raise BundleError(f"{source} is no head of this method: {error}", hint="give 300_model.pth or alike") from error
    path = folder / "head.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, path)
    return {"features": features, "hidden": hidden, "weights": file_ref(path)}


def _warnings(head: Path, window_length: int) -> list[str]:
    named = re.match(r"(\d+)_model", head.name)
    if named and int(named[1]) != window_length:
        return [f"{head.name} is named for windows of {named[1]} bases, but --window-length is {window_length}"]
    return []
