"""Make a bundle from published weights: read, load into our architecture, take the golden frame, write at once.

The bundle appears under its name only when it is whole and has been loaded again from disk with every check.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from virnuc_dagster.classify.head import Head
from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSModel
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Model
from virnuc_dagster.errors import BundleError
from virnuc_dagster.models.bundle import Bundle
from virnuc_dagster.models.esm_names import esm_names
from virnuc_dagster.models.hub import fetch
from virnuc_dagster.models.making import file_ref, load_all, make_bundle
from virnuc_dagster.models.published import read_encoder_folder, read_fair_esm, read_head
from virnuc_dagster.models.spec import FORMAT_VERSION

DEFAULT_THRESHOLDS = {"viral": 0.6, "non_viral": 0.4, "scored_share": 0.1}
"""Sequence verdicts of imported bundles; symmetric about the head's own decision, not calibrated on any data."""

DEFAULT_ROLL_UP = "mean"
"""Roll-up of imported bundles; chosen on no data."""


@dataclass(frozen=True)
class Sources:
    """Where the parts come from: folders, files or hub ids, with revisions for the hub."""

    dnabert_s: str
    esm2: str
    head: Path
    dnabert_s_revision: str | None = None
    esm2_revision: str | None = None


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
            "version": FORMAT_VERSION,
            "name": output.name,
            "description": "Imported from published weights; thresholds are defaults, not calibrated.",
            "licence": "see the owners of the weights",
            "window_length": window_length,
            "thresholds": DEFAULT_THRESHOLDS,
            "roll_up": DEFAULT_ROLL_UP,
            "dnabert_s": _dnabert_s(sources, folder),
            "esm2": _esm2(sources, folder),
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


def _dnabert_s(sources: Sources, folder: Path) -> dict[str, Any]:
    path, revision = fetch(sources.dnabert_s, sources.dnabert_s_revision)
    config, state = read_encoder_folder(path)
    tokenizer = path / "tokenizer.json"
    if not tokenizer.is_file():
        raise BundleError(f"{path} has no tokenizer.json", hint="give the folder as published", folder=str(path))
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    with torch.device("meta"):
        model = DnabertSModel(_config(DnabertSConfig, config, path))
    model.load_published(state)
    entry = _encoder(sources.dnabert_s, revision, config, model, folder / "dnabert_s.safetensors")
    return entry | {"tokenizer": file_ref(folder / "tokenizer.json")}


def _esm2(sources: Sources, folder: Path) -> dict[str, Any]:
    path, revision = fetch(sources.esm2, sources.esm2_revision)
    config, state = read_encoder_folder(path) if path.is_dir() else read_fair_esm(path)
    sizes = _config(Esm2Config, config, path)
    if path.is_dir():
        state = esm_names(sizes, state)
    with torch.device("meta"):
        model = Esm2Model(sizes)
    model.load_published(state)
    return _encoder(sources.esm2, revision, config, model, folder / "esm2.safetensors")


def _config(cls: Any, config: dict[str, Any], path: Path) -> Any:
    try:
        return cls.from_dict(config)
    except ValueError as error:
        raise BundleError(f"{path}: {error}", hint="this is another architecture, or a broken config.json") from error


def _encoder(
    source: str, revision: str, config: dict[str, Any], model: DnabertSModel | Esm2Model, path: Path
) -> dict[str, Any]:
    save_file(model.published_state(), path)
    name = Path(source).name if Path(source).exists() else source
    width = model.word_embeddings.embedding_dim
    return {"id": name, "revision": revision, "dim": width, "config": config, "weights": file_ref(path)}


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
