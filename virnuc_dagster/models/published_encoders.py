"""The published encoders, read into our architectures: the functions that `embedding.registry` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSModel
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Model
from virnuc_dagster.embedding.registry import Published
from virnuc_dagster.errors import BundleError
from virnuc_dagster.models.esm_names import esm_names
from virnuc_dagster.models.published import read_encoder_folder, read_fair_esm


def read_dnabert_s(path: Path) -> Published:
    """Read a folder of DNABERT-S, see `EncoderSpec.read_published`."""
    config, state = read_encoder_folder(path)
    tokenizer = path / "tokenizer.json"
    if not tokenizer.is_file():
        raise BundleError(f"{path} has no tokenizer.json", hint="give the folder as published", folder=str(path))
    return _loaded(config, DnabertSModel, _sizes(DnabertSConfig, config, path), state, {"tokenizer": tokenizer})


def read_esm2(path: Path) -> Published:
    """Read a folder of ESM-2, or a file of fair-esm, see `EncoderSpec.read_published`."""
    config, state = read_encoder_folder(path) if path.is_dir() else read_fair_esm(path)
    sizes = _sizes(Esm2Config, config, path)
    return _loaded(config, Esm2Model, sizes, esm_names(sizes, state) if path.is_dir() else state, {})


def _sizes(cls: Any, config: dict[str, Any], path: Path) -> Any:
    try:
        return cls.from_dict(config)
    except ValueError as error:
        raise BundleError(f"{path}: {error}", hint="this is another architecture, or a broken config.json") from error


def _loaded(
    config: dict[str, Any], network: Any, sizes: Any, state: dict[str, torch.Tensor], files: dict[str, Path]
) -> Published:
    with torch.device("meta"):
        model = network(sizes)
    model.load_published(state)
    return Published(config, model, model.word_embeddings.embedding_dim, files)
