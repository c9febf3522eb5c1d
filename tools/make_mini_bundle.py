"""Train the packaged `mini` bundle and write it: a small first model in the production architecture.

    python tools/make_mini_bundle.py ../shared/data/genomes --output virnuc_dagster/models/mini

The folder holds `train.fasta.gz` and `train.tsv` (columns id, label, category, group, split). Encoders and head are
trained on split `train`; thresholds and the metrics in `bundle.json` come from split `val`, whose groups never occur in
`train`. Same seed, data, threads and machine: same bundle.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mini_data import CODONS, WINDOW_LENGTH, codon_tokenizer, frames_of, read_records
from mini_metrics import evaluate
from mini_training import DNA_CONFIG, HIDDEN, PROTEIN_CONFIG, Encoders, train
from safetensors.torch import save

from virnuc_dagster.classify.head import Head, predict
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.models.bundle import SPEC_FILE, open_bundle

DESCRIPTION = (
    "A small first model for trying the product, not for science: the architecture of DNABERT-S (on codons) and of "
    "ESM-2, far smaller, trained in minutes on a few thousand public genomes. It is neither DNABERT-S nor ESM-2 and "
    "is far less accurate than the published weights."
)
SHIFTS = (0, 167, 333)
"""Training records are cut into windows from each of these bases on."""


@dataclass
class Trained:
    """What one training gave."""

    encoders: Encoders
    head: Head
    thresholds: dict[str, float]
    training: dict[str, Any]


def golden_frame(seed: int) -> tuple[str, str]:
    """Make a random frame of 60 codons without a stop, and a random protein; synthetic, from no genome."""
    random = np.random.default_rng(seed)
    open_codons = [codon for codon in CODONS if codon not in ("TAA", "TAG", "TGA")]
    return "".join(random.choice(open_codons, 60)), "".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), 60))


def write_bundle(folder: Path, trained: Trained, seed: int) -> None:
    """Write weights, tokeniser and `bundle.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    nucleotide, protein = golden_frame(seed)
    dna_encoder, protein_encoder = trained.encoders.dna, trained.encoders.protein
    dna = embed(dna_encoder, ["golden"], [nucleotide], token_budget=1)
    residues = embed(protein_encoder, ["golden"], [protein], token_budget=1)

    def put(name: str, content: bytes) -> dict[str, str]:
        (folder / name).write_bytes(content)
        return {"file": name, "sha256": hashlib.sha256(content).hexdigest()}

    spec = {
        "format": "virnuc-bundle",
        "version": "1.0",
        "name": "mini",
        "description": DESCRIPTION,
        "licence": "MIT",
        "window_length": WINDOW_LENGTH,
        "thresholds": trained.thresholds,
        "dnabert_s": {
            "id": "virnuc-mini-codon",
            "revision": "1",
            "dim": dna_encoder.dim,
            "config": DNA_CONFIG,
            "weights": put("dnabert_s.safetensors", save(dna_encoder.model.published_state())),
            "tokenizer": put("tokenizer.json", codon_tokenizer().to_str(pretty=True).encode()),
        },
        "esm2": {
            "id": "virnuc-mini-protein",
            "revision": "1",
            "dim": protein_encoder.dim,
            "config": PROTEIN_CONFIG,
            "weights": put("esm2.safetensors", save(protein_encoder.model.published_state())),
        },
        "head": {
            "features": dna_encoder.dim + protein_encoder.dim,
            "hidden": HIDDEN,
            "weights": put("head.safetensors", save(trained.head.state_dict())),
        },
        "golden": {
            "nucleotide": nucleotide,
            "protein": protein,
            "dnabert_s": dna[0].tolist(),
            "esm2": residues[0].tolist(),
            "score": predict(trained.head, dna, residues)[0].tolist(),
        },
        "training": trained.training,
    }
    (folder / SPEC_FILE).write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")


def train_and_measure(arguments: argparse.Namespace) -> Trained:
    """Train on split `train`, choose thresholds and measure on split `val`."""
    rows, sequences = read_records(arguments.genomes)
    frames = frames_of(rows, sequences, "train", SHIFTS)
    print(f"{len(frames.residues)} frames to train on", file=sys.stderr, flush=True)
    torch.manual_seed(arguments.seed)
    encoders = Encoders()
    head = train(frames, encoders, arguments)
    val = frames_of(rows, sequences, "val")
    scores = predict(head, *encoders.features(val)).double().numpy()
    thresholds, metrics = evaluate([row for row in rows if row["split"] == "val"], val, scores)
    options = {name: getattr(arguments, name) for name in ("seed", "steps", "batch", "crop", "rate", "masked")}
    training = {
        "command": "tools/make_mini_bundle.py",
        "data": "public INSDC/RefSeq records labelled virus or other by their source; split by group (family, genus, "
        "species or chromosome), so that no group is on both sides",
        "records": {split: sum(row["split"] == split for row in rows) for split in ("train", "val")},
        "bases": {
            split: sum(len(s) for row, s in zip(rows, sequences, strict=True) if row["split"] == split)
            for split in ("train", "val")
        },
        "frames": {"train": len(frames.residues), "val": len(val.residues)},
        "options": {**options, "shifts": list(SHIFTS)},
        "thresholds": "chosen on val so that 95 % of the calls are right, were both classes equally frequent; the "
        "figures of sequences below are of the same records and flatter a little",
        "val": metrics,
    }
    return Trained(encoders, head, thresholds, training)


def main() -> int:
    """Train, write, open and verify the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("genomes", type=Path, help="folder with train.fasta.gz and train.tsv")
    parser.add_argument("--output", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1300, help="optimiser steps")
    parser.add_argument("--batch", type=int, default=96, help="crops of a step")
    parser.add_argument("--crop", type=int, default=64, help="mean length of a crop in codons")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--masked", type=float, default=0.1, help="share of codons masked, 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    trained = train_and_measure(arguments)
    write_bundle(arguments.output, trained, arguments.seed)
    bundle = open_bundle(str(arguments.output.resolve()))
    bundle.verify()
    cpu = torch.device("cpu")
    bundle.load_dnabert_s(cpu)
    bundle.load_esm2(cpu)
    bundle.load_head(cpu)
    print(json.dumps({"thresholds": trained.thresholds, **trained.training["val"]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
