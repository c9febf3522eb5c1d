"""Weights as their owners publish them: read, without ever running what is in a file, under the names we use.

Safetensors are read as such. Pickled files go through torch's tensors-only loader, with an allow-list that is in force
for this one file and maps the few classes such files name to records that hold values and do nothing. Fetching from
the hub and writing bundles belong elsewhere.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from virnuc_dagster.errors import BundleError

State = dict[str, torch.Tensor]


class Record:
    """Values that a pickled object held; it has no behaviour."""


class _Classifier(Record):
    pass


class _Layer(Record):
    pass


class _Namespace(Record):
    pass


_HEAD_CLASSES: tuple[tuple[type, str], ...] = (
    (_Classifier, "__main__.MLPClassifier"),
    (_Layer, "torch.nn.modules.linear.Linear"),
    (_Layer, "torch.nn.modules.batchnorm.BatchNorm1d"),
    (_Layer, "torch.nn.modules.dropout.Dropout"),
    (_Layer, "torch.nn.modules.activation.ReLU"),
)
_FAIR_ESM_CLASSES: tuple[tuple[type, str], ...] = ((_Namespace, "argparse.Namespace"),)
_HEAD_PARTS = {"hidden_layer", "bn1", "output_layer"}
_BATCH_NORM_EPS = 1e-5

_FAIR_PREFIX = re.compile(r"^encoder\.(?:sentence_encoder\.)?")
_FAIR_NAMES = (
    (re.compile(r"^embed_tokens\."), "embeddings.word_embeddings."),
    (re.compile(r"^emb_layer_norm_after\."), "encoder.emb_layer_norm_after."),
    (re.compile(r"^layers\."), "encoder.layer."),
    (re.compile(r"self_attn\.q_proj"), "attention.self.query"),
    (re.compile(r"self_attn\.k_proj"), "attention.self.key"),
    (re.compile(r"self_attn\.v_proj"), "attention.self.value"),
    (re.compile(r"self_attn\.out_proj"), "attention.output.dense"),
    (re.compile(r"self_attn\.rot_emb"), "attention.self.rotary_embeddings"),
    (re.compile(r"self_attn_layer_norm"), "attention.LayerNorm"),
    (re.compile(r"fc1"), "intermediate.dense"),
    (re.compile(r"fc2"), "output.dense"),
    (re.compile(r"final_layer_norm"), "LayerNorm"),
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ALLOWING = threading.Lock()


def read_head(path: Path) -> State:
    """Read a published head: a pickled `MLPClassifier`, a plain state dict, or safetensors.

    Args:
        path: `300_model.pth`, `500_model.pth` or alike.

    Returns:
        Parameters and buffers by the names of `classify.head.Head`.

    Raises:
        BundleError: The file names anything but a classifier and tensors, or is damaged.
    """
    content = load_file(path) if path.suffix == ".safetensors" else _load(path, _HEAD_CLASSES)
    if isinstance(content, _Classifier):
        content = _state_of(content, path)
    return _tensors(content, path)


def read_encoder_folder(folder: Path) -> tuple[dict[str, Any], State]:
    """Read `config.json` and the weights of a Hugging Face folder, whole or in shards, by the names in its files.

    Other weights beside them (`model.fp16.safetensors`, an adapter) are another making of the model and are not read.

    Raises:
        BundleError: A file is missing, damaged, or holds more than tensors.
    """
    config = _json(folder / "config.json")
    state: State = {}
    for file in _weight_files(folder):
        try:
            content = load_file(file) if file.suffix == ".safetensors" else _load(file, ())
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{file} is damaged: {error}", hint="download it again", file=str(file)) from error
        tensors = _tensors(content, file)
        if twice := sorted(state.keys() & tensors.keys()):
            raise BundleError(f"{file} holds again what another shard holds: {twice[:5]}", file=str(file))
        state |= tensors
    return config, state


def _weight_files(folder: Path) -> list[Path]:
    """The files that make up the weights, found in the order in which transformers looks for them."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    shards = sorted(folder.glob("model-*-of-*.safetensors")) or sorted(folder.glob("pytorch_model-*-of-*.bin"))
    if not shards:
        raise BundleError(
            f"{folder} has no weights", hint="it should hold model.safetensors or pytorch_model.bin", folder=str(folder)
        )
    return shards


def _shards(index: Path) -> list[Path]:
    """The shards that an index names, all there and none outside its folder."""
    names = _json(index).get("weight_map")
    if not isinstance(names, Mapping) or not names or not all(isinstance(name, str) for name in names.values()):
        raise BundleError(f"{index} names no shards", hint="download it again", file=str(index))
    shards = sorted(set(names.values()))
    if outside := [name for name in shards if Path(name).name != name]:
        raise BundleError(f"{index} names files outside its folder: {outside}", file=str(index))
    if missing := [name for name in shards if not (index.parent / name).is_file()]:
        raise BundleError(
            f"{index.parent} lacks {len(missing)} of {len(shards)} shards: {', '.join(missing)}",
            hint="download what is missing; `virnuc models import` with the hub id does",
            missing=missing,
        )
    return [index.parent / name for name in shards]


def _json(path: Path) -> dict[str, Any]:
    """An object of a published JSON file."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path.parent} has no readable {path.name}: {error}", hint="give the folder as downloaded from its owner"
        ) from error
    return content


def read_fair_esm(path: Path) -> tuple[dict[str, Any], State]:
    """Read an ESM-2 `.pt` file of fair-esm.

    Returns:
        A Hugging Face style configuration, and the weights under the names of Hugging Face `EsmModel`.

    Raises:
        BundleError: The file is no ESM-2, is damaged, or names anything but tensors and plain settings.
    """
    content = _load(path, _FAIR_ESM_CLASSES)
    try:
        settings = content["cfg"]["model"]
        settings = vars(settings) if isinstance(settings, _Namespace) else dict(settings)
        width = settings["encoder_embed_dim"]
        config = {
            "hidden_size": width,
            "num_hidden_layers": settings["encoder_layers"],
            "num_attention_heads": settings["encoder_attention_heads"],
            "intermediate_size": 4 * width,
            "token_dropout": settings["token_dropout"],
        }
        weights = _tensors(content["model"], path)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{path} is no ESM-2 of fair-esm: {error!r}", hint="give a file like esm2_t33_650M_UR50D.pt", file=str(path)
        ) from error
    return config, {_hugging_face_name(name): tensor for name, tensor in weights.items()}


def _hugging_face_name(name: str) -> str:
    """Translate a parameter name of fair-esm."""
    name = _FAIR_PREFIX.sub("", name)
    for pattern, new in _FAIR_NAMES:
        name = pattern.sub(new, name)
    return name


@contextmanager
def _only(classes: tuple[tuple[type, str], ...]) -> Iterator[None]:
    """Make these the only classes, beside torch's own tensors, that torch's loader accepts in the body."""
    with _ALLOWING:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            torch.serialization.add_safe_globals(list(classes))
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _load(path: Path, classes: tuple[tuple[type, str], ...]) -> Any:
    """Load a pickled file of tensors and records."""
    try:
        with _only(classes):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}", file=str(path)) from error
    except Exception as error:  # whatever a hostile or broken file provokes in the reader
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(
            f"{path} was not read: it is damaged, or asks for more than tensors ({reason})",
            hint="get the file from its owner again; nothing in it was executed",
            file=str(path),
        ) from error


def _state_of(classifier: Record, path: Path) -> State:
    """Parameters and buffers of a pickled classifier, by part."""
    parts = vars(classifier).get("_modules")
    if not isinstance(parts, Mapping) or not set(parts) >= _HEAD_PARTS:
        raise BundleError(f"{path} is no classifier with {', '.join(sorted(_HEAD_PARTS))}", file=str(path))
    state: State = {}
    for name, part in parts.items():
        held = vars(part) if isinstance(part, _Layer) else {}
        if name == "bn1" and held.get("eps") != _BATCH_NORM_EPS:
            raise BundleError(f"{path}: batch normalisation with eps {held.get('eps')}, not 1e-5", file=str(path))
        for kind in ("_parameters", "_buffers"):
            entries = held.get(kind) or {}
            state |= {f"{name}.{entry}": tensor for entry, tensor in entries.items() if tensor is not None}
    return state


def _tensors(content: Any, path: Path) -> State:
    """Check that a mapping holds nothing but tensors by name."""
    if not isinstance(content, Mapping) or not content:
        raise BundleError(f"{path} holds no tensors by name", hint="give a state dict", file=str(path))
    strangers = [k for k, v in content.items() if not (isinstance(k, str) and isinstance(v, torch.Tensor))]
    if strangers:
        raise BundleError(f"{path} holds more than tensors: {strangers[:5]}", file=str(path))
    return {name: tensor.detach() for name, tensor in content.items()}
