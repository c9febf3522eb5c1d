"""What the mini model is trained on: labelled records cut into open frames, and both kinds of tokens of each."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import nn

from virnuc_dagster.embedding.esm2 import tokenize_protein
from virnuc_dagster.sequences.translation import open_frames

WINDOW_LENGTH = 500
SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
CODONS = tuple("".join(bases) for bases in product("ACGT", repeat=3))


@dataclass
class Frames:
    """Frames of one split as padded token tables, and what is known of each.

    Attributes:
        dna: Codon token ids, [CLS] and [SEP] included, int64 (N, T), padded with 3.
        protein: Residue token ids, `<cls>` and `<eos>` included, int64 (N, T), padded with 1.
        length: Tokens of each frame, the same for both, (N,).
        sequence, window: Row of the record, and of the window within it, (N,).
        virus: 1 for frames of viruses, (N,).
        category: Category of each frame's record.
        nucleotide, residues: The texts, for embedding as the product does.
    """

    dna: torch.Tensor
    protein: torch.Tensor
    length: torch.Tensor
    sequence: NDArray[np.int64]
    window: NDArray[np.int64]
    virus: torch.Tensor
    category: NDArray[np.str_]
    nucleotide: list[str]
    residues: list[str]


def codon_tokenizer() -> Tokenizer:
    """Tokeniser of a frame's nucleotide text: codons from its start, odd last bases dropped, others [UNK]."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *CODONS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token, not a secret
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("..."), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def read_records(folder: Path) -> tuple[list[dict[str, str]], list[bytes]]:
    """Read the table of records and their sequences, in the order of the table."""
    sequences: dict[str, bytes] = {}
    with gzip.open(folder / "train.fasta.gz", "rb") as file:
        for record in file.read().split(b">")[1:]:
            header, _, body = record.partition(b"\n")
            sequences[header.split()[0].decode()] = body.replace(b"\n", b"").upper()
    with (folder / "train.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return rows, [sequences[row["id"]] for row in rows]


def frames_of(rows: list[dict[str, str]], sequences: list[bytes], split: str, shifts: tuple[int, ...] = (0,)) -> Frames:
    """Cut the records of a split into windows and open frames, as the product does, and tokenise them.

    Args:
        rows: All records.
        sequences: Their sequences.
        split: The split to take.
        shifts: Bases to drop at the start of every record; with several, each record is cut once for each, which gives
            more frames to train on.
    """
    chosen = [i for i, row in enumerate(rows) if row["split"] == split] * len(shifts)
    shift_of = np.repeat(shifts, len(chosen) // len(shifts)).tolist()
    table = open_frames([sequences[i][shift:] for i, shift in zip(chosen, shift_of, strict=True)], WINDOW_LENGTH)
    record = np.asarray(table.sequence, dtype=np.int64)
    tokenizer = codon_tokenizer()
    dna = [encoding.ids for encoding in tokenizer.encode_batch(list(table.nucleotide))]
    protein = [tokenize_protein(residues) for residues in table.protein]
    return Frames(
        dna=padded(dna, 3),
        protein=padded(protein, 1),
        length=torch.tensor([min(len(a), len(b)) for a, b in zip(dna, protein, strict=True)]),
        sequence=record,
        window=np.asarray(table.window, dtype=np.int64),
        virus=torch.tensor([int(rows[chosen[i]]["label"] == "virus") for i in record]),
        category=np.array([rows[chosen[i]]["category"] for i in record]),
        nucleotide=list(table.nucleotide),
        residues=list(table.protein),
    )


def padded(tokens: list[list[int]], padding: int) -> torch.Tensor:
    """Put token lists of unequal length into one table."""
    return nn.utils.rnn.pad_sequence([torch.tensor(t) for t in tokens], batch_first=True, padding_value=padding)
