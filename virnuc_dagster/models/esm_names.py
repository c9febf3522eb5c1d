"""The names of published ESM-2 weights, whichever version of transformers wrote them.

The versions differ in what they call a parameter, and each reads what the earlier ones wrote, so the names are resolved
by the installed one: its loader gets tensors that are in memory already and a configuration of our own making. Nothing
of the folder reaches it, so that no entry of a `config.json` or adapter beside it can ask for code. Reading files
belongs to `published`, comparing the outcome with what the encoder needs to `embedding.layers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from virnuc_dagster.embedding.esm2 import ALPHABET, ROTARY_BUFFER, Esm2Config
from virnuc_dagster.embedding.layers import plain_names
from virnuc_dagster.errors import BundleError
from virnuc_dagster.models.published import State


def esm_names(config: Esm2Config, state: State) -> State:
    """Bring the weights of an `EsmModel` or `EsmForMaskedLM` under the names of `EsmModel`.

    The loader fills what a file lacks with random numbers, and drops what it does not know. Here the first stays
    missing and the second stays in, so that `Esm2Model.load_published` names both.

    Args:
        config: Sizes of the encoder.
        state: Tensors by the names in the files, in any number format.

    Returns:
        float32 tensors.

    Raises:
        BundleError: Two entries are the same parameter.
    """
    from transformers import EsmConfig, EsmModel

    given = {name: tensor.float() for name, tensor in plain_names(state, ("esm.",)).items() if _is_weight(name)}
    sizes = EsmConfig(
        **vars(config), position_embedding_type="rotary", emb_layer_norm_before=False,
        pad_token_id=ALPHABET.index("<pad>"), mask_token_id=ALPHABET.index("<mask>"),
    )  # fmt: skip
    try:
        with _quiet():
            loader: Any = EsmModel  # its annotation knows nothing of the second value
            model, found = loader.from_pretrained(
                None, config=sizes, state_dict=given, output_loading_info=True, ignore_mismatched_sizes=True,
                add_pooling_layer=False, local_files_only=True,
            )  # fmt: skip
    except Exception as error:  # whatever odd names and shapes provoke in it
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(
            f"transformers cannot read these weights: {reason}",
            hint="check that the weights and the configuration belong together",
        ) from error
    unread = set(found["missing_keys"]) | {key for key, *_ in found["mismatched_keys"]}
    loaded = {name: tensor for name, tensor in model.state_dict().items() if name not in unread and _is_weight(name)}
    unknown = {name: given.get(name, torch.empty(0)) for name in found["unexpected_keys"]}
    misshapen = {name: torch.empty(shape, device="meta") for name, shape, _ in found["mismatched_keys"]}
    return loaded | unknown | misshapen


def _is_weight(name: str) -> bool:
    """Whether an entry is more than the rotary frequencies, which every version keeps elsewhere and none needs."""
    return not name.endswith(ROTARY_BUFFER)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loader's own report and progress bar to itself: what matters of them is said in our words."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
