"""Wrote the files of this folder, once. They stand for every format version ever written and are never written again.

    python tests/checkpoints/archive/make_archive.py FOLDER

A new format version adds a function here and its files beside the others.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from virnuc_dagster.checkpoints import CheckpointKey, LocalStore

IDS = ["seq_1_chunk_1F1", "seq_1_chunk_1R2", "seq_2_chunk_1F3"]


def values(dim: int) -> torch.Tensor:
    """Numbers that every format keeps exactly."""
    return torch.arange(len(IDS) * dim, dtype=torch.float32).reshape(len(IDS), dim) / 64 - 1


def version_0(folder: Path) -> None:
    """The original program: no version, no marker; a list a row; ESM-2 in an order of its own."""
    rows = [{"label": name, "mean_representation": row.tolist()} for name, row in zip(IDS, values(4), strict=True)]
    torch.save({"nucleotide": IDS, "data": rows}, folder / "output_1_DNABERT_S.pt")
    torch.save({"nucleotide": IDS, "data": rows}, folder / "output_2_DNABERT.pt")
    backwards = IDS[::-1]
    torch.save({"proteins": backwards, "data": [row.clone() for row in values(6).flip(0)]}, folder / "output_1_ESM.pt")
    merged = torch.cat([values(4), values(6)], 1)
    torch.save({"ids": IDS, "data": merged}, folder / "output_1_merged.pt")
    torch.save({"ids": IDS, "data": merged, "labels": [1]}, folder / "train_1_merged.pt")


def version_1(folder: Path) -> None:
    """The first refactoring: version and status inside, an empty marker beside; segments of numpy arrays."""
    for source in ("output_1_DNABERT_S.pt", "output_1_ESM.pt", "output_1_merged.pt"):
        old = torch.load(folder / "0.x" / source, weights_only=True)
        torch.save({**old, "version": "1.0", "status": "complete"}, folder / "1.0" / source)
        (folder / "1.0" / f"{source}.done").touch()
    torch.save({**old, "version": "1.0", "status": "in_progress"}, folder / "1.0" / "output_9_merged.pt")
    segment = folder / "1.0" / "esm" / "shard_0"
    segment.mkdir(parents=True)
    held = {"embeddings": np.asarray(values(6)), "sequence_ids": IDS, "metadata": {"batch": 1}}
    torch.save(held, segment / "batch_00001.pt")
    (segment / "batch_00001.pt.done").touch()


def version_2(folder: Path) -> None:
    """This platform: every kind."""
    count = torch.tensor([1, 2, 3])
    probabilities = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    payloads = {
        "sequences": {"description": ["", "x", "y z"], "sequence": ["ACGT", "", "NNN"]},
        "frames": {"nucleotide": ["ACG", "TTTA", "GGG"], "protein": ["T", "F", "G"]},
        "sequence_batch": {
            **dict.fromkeys(("length", "windows", "open_windows", "frames", "ambiguous"), count),
            "shards": ["b__0001"], "shard_rows": [3], "window_length": 500, "shard_size": 10,
        },
        "dnabert_s_embeddings": {"data": values(4)},
        "esm2_embeddings": {"data": values(6)},
        "predictions": {"data": probabilities},
    }  # fmt: skip
    for kind, payload in payloads.items():
        LocalStore(folder).save(
            CheckpointKey(kind, "b", "b__0001"), {"ids": IDS, **payload}, {"made": "for the archive"}
        )


def expected() -> dict:
    """What every reader must find in each file."""
    dna, esm = values(4).tolist(), values(6).tolist()
    merged = torch.cat([values(4), values(6)], 1).tolist()
    backwards = {"ids": IDS[::-1], "data": esm[::-1]}
    return {
        "0.x/output_1_DNABERT_S.pt": {"kind": "dnabert_s_embeddings", "ids": IDS, "data": dna},
        "0.x/output_2_DNABERT.pt": {"kind": "dnabert_s_embeddings", "ids": IDS, "data": dna},
        "0.x/output_1_ESM.pt": {"kind": "esm2_embeddings", **backwards},
        "0.x/output_1_merged.pt": {"kind": "merged_features", "ids": IDS, "data": merged},
        "0.x/train_1_merged.pt": {"kind": "merged_features", "ids": IDS, "data": merged, "labels": [1, 1, 1]},
        "1.0/output_1_DNABERT_S.pt": {"kind": "dnabert_s_embeddings", "ids": IDS, "data": dna},
        "1.0/output_1_ESM.pt": {"kind": "esm2_embeddings", **backwards},
        "1.0/output_1_merged.pt": {"kind": "merged_features", "ids": IDS, "data": merged},
        "1.0/esm/shard_0/batch_00001.pt": {"kind": "segment", "ids": IDS, "data": esm},
    }


def main(folder: Path) -> None:
    """Write everything."""
    for name in ("0.x", "1.0", "2.0"):
        (folder / name).mkdir(parents=True)
    version_0(folder / "0.x")
    version_1(folder)
    version_2(folder / "2.0")
    (folder / "expected.json").write_text(json.dumps(expected(), indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
