"""Make a bundle from published weights: read, load into our architecture, take the golden frame, write at once.

The bundle appears under its name only when it is whole and has been loaded again from disk with every check.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from virnuc_dagster.classify.head import Head, predict
from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSModel
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Model
from virnuc_dagster.errors import BundleError
from virnuc_dagster.models.bundle import SPEC_FILE, Bundle, open_bundle
from virnuc_dagster.models.hub import fetch
from virnuc_dagster.models.published import read_encoder_folder, read_fair_esm, read_head

DEFAULT_THRESHOLDS = {"viral": 0.6, "non_viral": 0.4, "scored_share": 0.1}
"""Sequence verdicts of imported bundles; symmetric about the head's own decision, not calibrated on any data."""

_GOLDEN_NUCLEOTIDE = "ATGAAACGTCTGGGTACCGAAGCTATTCGTGACCTGAAAGCAGTTCACTGGTCTAACGATCCGTTCATGTGCCAGTATAAAGGCA"
_GOLDEN_PROTEIN = "MKRLGTEAIRDLKAVHWSNDPFMCQYKGLLEAVRKHT"


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
    if output.exists():
        raise BundleError(f"{output} exists", hint="choose another --output, or remove it", path=str(output))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        spec = {
            "format": "virnuc-bundle",
            "version": "1.0",
            "name": output.name,
            "description": "Imported from published weights; thresholds are defaults, not calibrated.",
            "licence": "see the owners of the weights",
            "window_length": window_length,
            "thresholds": DEFAULT_THRESHOLDS,
            "dnabert_s": _dnabert_s(sources, partial),
            "esm2": _esm2(sources, partial),
            "head": _head(sources.head, partial),
        }
        _write_spec(partial, spec)
        spec["golden"] = _golden(open_bundle(str(partial)))
        _write_spec(partial, spec)
        _load_all(open_bundle(str(partial)))
        partial.chmod(0o755)
        partial.replace(output)
    except OSError as error:
        raise BundleError(f"cannot write {output}: {error.strerror}", path=str(output)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_bundle(str(output)), _warnings(sources.head, window_length)


def check_loads(bundle: Bundle) -> None:
    """Verify every digest, load every part, and reproduce the golden frame.

    Raises:
        BundleError: Something is not as recorded.
    """
    bundle.verify()
    _load_all(bundle)


def _load_all(bundle: Bundle) -> None:
    cpu = torch.device("cpu")
    bundle.load_dnabert_s(cpu)
    bundle.load_esm2(cpu)
    bundle.load_head(cpu)
    bundle.load_fallback()


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
    return entry | {"tokenizer": _file(folder / "tokenizer.json")}


def _esm2(sources: Sources, folder: Path) -> dict[str, Any]:
    path, revision = fetch(sources.esm2, sources.esm2_revision)
    config, state = read_encoder_folder(path) if path.is_dir() else read_fair_esm(path)
    with torch.device("meta"):
        model = Esm2Model(_config(Esm2Config, config, path))
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
    return {"id": name, "revision": revision, "dim": width, "config": config, "weights": _file(path)}


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
    return {"features": features, "hidden": hidden, "weights": _file(path)}


def _golden(bundle: Bundle) -> dict[str, Any]:
    """What the bundle makes of one fixed frame."""
    from virnuc_dagster.embedding.runner import embed

    cpu = torch.device("cpu")
    dna = embed(bundle.load_dnabert_s(cpu), ["golden"], [_GOLDEN_NUCLEOTIDE], token_budget=1)
    protein = embed(bundle.load_esm2(cpu), ["golden"], [_GOLDEN_PROTEIN], token_budget=1)
    score = predict(bundle.load_head(cpu), dna, protein)
    return {
        "nucleotide": _GOLDEN_NUCLEOTIDE,
        "protein": _GOLDEN_PROTEIN,
        "dnabert_s": dna[0].tolist(),
        "esm2": protein[0].tolist(),
        "score": score[0].tolist(),
    }


def _file(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_spec(folder: Path, spec: dict[str, Any]) -> None:
    (folder / SPEC_FILE).write_text(json.dumps(spec, indent=1) + "\n")


def _warnings(head: Path, window_length: int) -> list[str]:
    named = re.match(r"(\d+)_model", head.name)
    if named and int(named[1]) != window_length:
        return [f"{head.name} is named for windows of {named[1]} bases, but --window-length is {window_length}"]
    return []
