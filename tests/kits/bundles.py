"""Bundles to be changed, and to be loaded whole."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from virnuc_dagster.models.bundle import Bundle

CPU = torch.device("cpu")


def edit(folder: Path, change: Callable[[dict], None]) -> Path:
    """Change `bundle.json` in place."""
    spec = json.loads((folder / "bundle.json").read_text())
    change(spec)
    (folder / "bundle.json").write_text(json.dumps(spec))
    return folder


def load_all(bundle: Bundle) -> None:
    bundle.load_encoder("dnabert_s", CPU)
    bundle.load_encoder("esm2", CPU)
    bundle.load_head(CPU)
