"""What is learnt from: all stop-free frames of the windows of records, as flat token tables, and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnuc_dagster.embedding.esm2 import ALPHABET
from virnuc_dagster.errors import InputError
from virnuc_dagster.sequences.translation import frame_id, open_frames
from virnuc_dagster.training.records import Record
from virnuc_dagster.training.tokens import codon_ids

_RESIDUE = np.full(256, ALPHABET.index("<unk>"), dtype=np.uint8)
for _id, _token in enumerate(ALPHABET):
    if len(_token) == 1:
        _RESIDUE[ord(_token)] = _id


@dataclass(frozen=True, eq=False)
class FrameSet:
    """Frames of some records.

    Attributes:
        codons, residues: Token ids of all frames one after the other, without special tokens, uint8.
        start, length: Where each frame's tokens begin, and how many they are (codons = residues), int64 (N,).
        record, window: Index of the frame's record, and of the window within it, (N,).
        ids: Frame ids; with shifts or further widths they are not unique.
        virus: Class of each frame, bool (N,).
        weight: Chance of each frame to be drawn, float64 (N,); sums to 1.
        nucleotide, protein: The texts, as the product embeds them.
    """

    codons: NDArray[np.uint8]
    residues: NDArray[np.uint8]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    record: NDArray[np.int64]
    window: NDArray[np.int64]
    ids: list[str]
    virus: NDArray[np.bool_]
    weight: NDArray[np.float64]
    nucleotide: list[str]
    protein: list[str]

    def __len__(self) -> int:
        return len(self.start)


def frames_of(
    records: Sequence[Record], window_length: int, shifts: Sequence[int] = (0,), widths: Sequence[int] = ()
) -> FrameSet:
    """Cut records into windows and stop-free frames, as prediction does.

    Args:
        records: What to cut.
        window_length: Bases of a window.
        shifts: Each record is cut once from each of these bases on: more, overlapping frames to learn from.
        widths: Other window lengths to cut as well: short genes fill no long window.
    """
    texts: dict[str, list[str]] = {"nucleotide": [], "protein": [], "ids": []}
    places: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for width in (window_length, *widths):
        for shift in shifts:
            table = open_frames([record.sequence[shift:] for record in records], width)
            texts["nucleotide"] += table.nucleotide
            texts["protein"] += table.protein
            texts["ids"] += [
                frame_id(records[record].id, window, frame)
                for record, window, frame in zip(
                    *(c.tolist() for c in (table.sequence, table.window, table.frame)), strict=True
                )
            ]
            places.append((table.sequence.astype(np.int64), table.window.astype(np.int64)))
    record, window = (np.concatenate(column) for column in zip(*places, strict=True))
    length = np.fromiter(map(len, texts["protein"]), dtype=np.int64, count=len(record))
    joined = "".join(text[: 3 * size] for text, size in zip(texts["nucleotide"], length.tolist(), strict=True))
    virus = np.array([r.is_virus for r in records], dtype=bool)
    return FrameSet(
        codons=codon_ids(joined.encode("latin-1")),
        residues=_RESIDUE[np.frombuffer("".join(texts["protein"]).encode("ascii"), dtype=np.uint8)],
        start=np.cumsum(length) - length,
        length=length,
        record=record,
        window=window,
        ids=texts["ids"],
        virus=virus[record],
        weight=balanced_weights(records, record),
        nucleotide=texts["nucleotide"],
        protein=texts["protein"],
    )


def require_both_classes(frames: FrameSet, purpose: str) -> None:
    """Make sure that there is something to learn, or to choose by, before hours are spent.

    Args:
        frames: Of a part of the data.
        purpose: What the part is for; ends the sentence.

    Raises:
        InputError: A class has no open frame (field: `label`).
    """
    for is_virus, label in ((True, "virus"), (False, "other")):
        if not (frames.virus == is_virus).any():
            raise InputError(
                f"no record of label {label} {purpose} has an open frame",
                hint="add records of this label that hold genes; most of the human genome, say, has no open frame",
                label=label,
            )


def balanced_weights(records: Sequence[Record], record: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weigh items (frames or windows) so that every class is one half of the whole.

    Within a class, categories share by the square root of their number of items, and so do groups within a category:
    large ones count more, but not in proportion.

    Args:
        records: All records.
        record: Index of each item's record, (N,).

    Returns:
        float64 (N,), sum 1.
    """
    classes = np.array([r.is_virus for r in records])[record]
    kinds = np.unique([r.kind for r in records], return_inverse=True)[1][record]
    groups = np.unique([f"{r.kind}/{r.group}" for r in records], return_inverse=True)[1][record]
    weight = np.zeros(len(record))
    for label in np.unique(classes):
        mine = classes == label
        for kind, share in _by_root(kinds[mine]):
            of_kind = mine & (kinds == kind)
            shares = np.zeros(groups.max() + 1)
            for group, part in _by_root(groups[of_kind]):
                shares[group] = share * part
            weight[of_kind] = (shares / np.maximum(np.bincount(groups[of_kind], minlength=len(shares)), 1))[
                groups[of_kind]
            ]
    return weight / weight.sum()


def _by_root(labels: NDArray[np.int64]) -> list[tuple[int, float]]:
    """Give each label its share by the square root of its count."""
    values, counts = np.unique(labels, return_counts=True)
    shares = np.sqrt(counts) / np.sqrt(counts).sum()
    return list(zip(values.tolist(), shares.tolist(), strict=True))
