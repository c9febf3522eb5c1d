"""Tokens of the small nucleotide encoder: pairs of codons, in frame.

The text of a frame is in register, so its codons can be read off. Two at a time halve the length of a sequence, and a
pair says more than its codons one by one (neighbouring codons are not independent). A last codon without a partner is
a token of its own, odd last bases are dropped, and whatever holds an ambiguous base is [UNK].
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
CODONS = tuple("".join(bases) for bases in product("ACGT", repeat=3))
FIRST_CODON = len(SPECIAL)
FIRST_PAIR = FIRST_CODON + len(CODONS)
VOCABULARY = FIRST_PAIR + len(CODONS) ** 2

_BASE = np.full(256, -1000, dtype=np.int16)
_BASE[list(b"ACGT")] = range(4)


def codon_tokenizer() -> Tokenizer:
    """Make the tokeniser, as it goes into the bundle."""
    pairs = (first + second for first, second in product(CODONS, repeat=2))
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *CODONS, *pairs))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token, not a secret
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(".{6}|.{3}"), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def codon_ids(text: bytes) -> NDArray[np.uint8]:
    """Number single codons of texts joined at multiples of three bases; 0 is [UNK]."""
    a, b, c = _BASE[np.frombuffer(text, dtype=np.uint8)].reshape(-1, 3).T
    return np.maximum(16 * a + 4 * b + c + FIRST_CODON, 0).astype(np.uint8)


def pair_tokens(codons: torch.Tensor) -> torch.Tensor:
    """Make tokens of rows of equally many codons: pairs, and a last codon left over; [CLS] and [SEP] around.

    Args:
        codons: Tokens of single codons, int64 (B, C).

    Returns:
        int64 (B, 2 + ceil(C / 2)), the same numbers as the tokeniser's.
    """
    even = codons.shape[1] // 2 * 2
    first, second = codons[:, 0:even:2], codons[:, 1:even:2]
    known = (first >= FIRST_CODON) & (second >= FIRST_CODON)
    pair = FIRST_PAIR + (first - FIRST_CODON) * len(CODONS) + second - FIRST_CODON
    ends = torch.ones(len(codons), 1, dtype=torch.int64)
    return torch.cat((ends, torch.where(known, pair, 0), codons[:, even:], 2 * ends), dim=1)
