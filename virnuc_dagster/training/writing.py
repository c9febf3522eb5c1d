"""The files of a trained bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from virnuc_dagster.classify.fallback import FallbackModel
from virnuc_dagster.classify.head import Head
from virnuc_dagster.models.bundle import Bundle
from virnuc_dagster.models.making import file_ref
from virnuc_dagster.models.spec import FIRST_VERSION, BundleSpec
from virnuc_dagster.training.card import model_card
from virnuc_dagster.training.curves import curves_svg
from virnuc_dagster.training.data import Data
from virnuc_dagster.training.networks import Member, Part

_TOTALS = ("n", "coverage", "accuracy", "balanced_accuracy", "auroc")


@dataclass(frozen=True, eq=False)
class Result:
    """What training gave, besides the encoders.

    Attributes:
        description: What the bundle says of itself.
        window_length: Bases of a window.
        head: The head, calibrated.
        fallback: The model for windows without an open frame.
        thresholds: Of sequence verdicts.
        roll_up: Name of the roll-up.
        facts: Goes into the bundle's `training`.
    """

    description: str
    window_length: int
    head: Head
    fallback: FallbackModel
    thresholds: dict[str, float]
    roll_up: str
    facts: dict[str, Any]


def write_parts(folder: Path, name: str, encoders: dict[Part, Member] | Bundle, result: Result) -> dict[str, Any]:
    """Write weights and tokeniser; returns the description.

    Args:
        folder: Where to.
        name: The bundle's name.
        encoders: Trained here, or taken from another bundle.
        result: Everything else.
    """
    described = copied(folder, encoders) if isinstance(encoders, Bundle) else trained(folder, encoders)
    head, fallback = folder / "head.safetensors", folder / "fallback.safetensors"
    head.write_bytes(save({key: tensor.contiguous() for key, tensor in result.head.state_dict().items()}))
    fallback.write_bytes(result.fallback.to_bytes())
    return {
        "format": "virnuc-bundle",
        "version": FIRST_VERSION,
        "name": name,
        "description": result.description,
        "licence": encoders.spec.licence if isinstance(encoders, Bundle) else "MIT",
        "window_length": result.window_length,
        "thresholds": result.thresholds,
        "roll_up": result.roll_up,
        "encoders": described,
        "head": {
            "features": result.head.hidden_layer.in_features,
            "hidden": result.head.hidden_layer.out_features,
            "weights": file_ref(head),
        },
        "fallback": {"kmer": result.fallback.kmer, "weights": file_ref(fallback)},
        "training": summary_of(result.facts),
    }


def trained(folder: Path, members: dict[Part, Member]) -> list[dict[str, Any]]:
    """Write encoders that were trained here."""
    described = []
    for part, member in members.items():
        path = folder / f"{part}.safetensors"
        path.write_bytes(save(member.plain().published_state()))
        entry: dict[str, Any] = {
            "part": part,
            "id": member.model_id,
            "revision": file_ref(path)["sha256"][:12],
            "dim": member.size.width,
            "config": member.config,
            "weights": file_ref(path),
            "files": {},
        }
        for name, text in member.files().items():
            file = folder / f"{name}.json"
            file.write_text(text, encoding="utf-8")
            entry["files"][name] = file_ref(file)
        described.append(entry)
    return described


def copied(folder: Path, bundle: Bundle) -> list[dict[str, Any]]:
    """Copy the encoders of another bundle, so that embeddings made with it stay wanted."""
    bundle.verify()
    for ref in (ref for encoder in bundle.spec.encoders for ref in (encoder.weights, *encoder.files.values())):
        target = folder / ref.file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path(ref), target)
    return [encoder.model_dump() for encoder in bundle.spec.encoders]


def summary_of(facts: dict[str, Any]) -> dict[str, Any]:
    """Pick what `bundle.json` repeats of `training.json`: options, and the totals of each part."""
    totals: dict[str, Any] = {
        part: {name: {key: figures[key] for key in _TOTALS} for name, figures in facts[part].items()}
        for part in ("dev", "val")
        if part in facts
    }
    return {"options": facts["options"], **({"encoders": facts["encoders"]} if "encoders" in facts else {}), **totals}


def write_documents(folder: Path, spec: dict[str, Any], facts: dict[str, Any], data: Data, notes: str) -> None:
    """Write all figures, and what is for people: model card, training curves, and the part of every record."""
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    card = model_card(BundleSpec.model_validate(spec), facts, notes)
    (folder / "model-card.md").write_text(card, encoding="utf-8")
    (folder / "curves.svg").write_text(curves_svg(facts["curves"]), encoding="utf-8")
    rows = (
        f"{record.id}\t{'virus' if record.is_virus else 'other'}\t{record.category}\t{record.group}\t{name}\n"
        for name, part in data.parts().items()
        for record in part
    )
    (folder / "records.tsv").write_text("id\tlabel\tcategory\tgroup\tpart\n" + "".join(rows), encoding="utf-8")
