"""The two trainings from records to a bundle: small encoders with their head, or a head for encoders that exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from virnuc_dagster.classify.head import Head
from virnuc_dagster.models.bundle import Bundle
from virnuc_dagster.models.making import make_bundle
from virnuc_dagster.progress import Progress
from virnuc_dagster.training.data import Data
from virnuc_dagster.training.encoders import EncoderOptions, forget_states, train_encoders
from virnuc_dagster.training.finish import Part, choose_roll_up, fit_fallbacks
from virnuc_dagster.training.frames import frames_of, require_both_classes
from virnuc_dagster.training.head import join_heads, log_odds, stack, train_head
from virnuc_dagster.training.loop import member_vectors
from virnuc_dagster.training.measures import floor_of, measure_part
from virnuc_dagster.training.networks import Member
from virnuc_dagster.training.networks import Part as Encoder
from virnuc_dagster.training.records import Record
from virnuc_dagster.training.writing import Result, write_documents, write_parts

HIDDEN, EPOCHS = 512, 100
"""Hidden layer of a head for existing encoders, as the published ones have it; and its most epochs."""
Vectors = tuple[list[str], dict[str, torch.Tensor]]
"""Frame ids, and the embeddings (N, D) of each encoder."""


@dataclass(frozen=True)
class Wanted:
    """The bundle to make.

    Attributes:
        output: Its folder.
        description: What it says of itself.
        notes: What only its makers know, Markdown, put first in its model card.
    """

    output: Path
    description: str
    notes: str = ""


def train_all(records: list[Record], options: EncoderOptions, wanted: Wanted, progress: Progress) -> Bundle:
    """Train small encoders and their head; goes on from where a killed call was.

    Raises:
        InputError: The records cannot be split.
        BundleError: The bundle exists, or cannot be written.
    """
    data = Data.of(records, options.seed, options.window_length)
    states = wanted.output.parent / f".{wanted.output.name}.training"
    trained = train_encoders(data, options, states, progress)

    def part(records: list[Record]) -> Part:
        frames = frames_of(records, options.window_length)
        return Part(records, frames, {name: member_vectors(of, frames) for name, of in trained.members.items()})

    facts = {"options": dataclasses.asdict(options), "curves": trained.curves, "factors": trained.factors}
    bundle = _finish(data, part, trained.head, trained.members, options.window_length, wanted, facts)
    forget_states(states)
    return bundle


def train_head_only(
    records: list[Record],
    encoders: Bundle,
    vectors: Vectors,
    seed: int,
    epochs: int,
    wanted: Wanted,
    progress: Progress,
) -> Bundle:
    """Train a head for the encoders of a bundle.

    Args:
        records: Labelled records, in the order of their file.
        encoders: The bundle.
        vectors: Its embeddings of every frame of the records, in the order of the frames.
        seed: Decides the third part, weights and order.
        epochs: Most epochs.
        wanted: The bundle to make.
        progress: Told of each epoch.

    Raises:
        InputError: The records cannot be split, or a class has no open frame.
        BundleError: The bundle exists, or cannot be written.
    """
    window_length = encoders.spec.window_length
    data = Data.of(records, seed, window_length)
    ids, embeddings = vectors
    rows = {name: row for row, name in enumerate(ids)}

    def part(records: list[Record]) -> Part:
        frames = frames_of(records, window_length)
        mine = [rows[name] for name in frames.ids]
        return Part(records, frames, {name: of[mine].float() for name, of in embeddings.items()})

    fit, dev = part(data.fit), part(data.dev)
    require_both_classes(fit.frames, "to learn from")
    require_both_classes(dev.frames, "to choose by")
    curve: list[dict[str, float]] = []

    def on_epoch(entry: dict[str, float]) -> None:
        curve.append(entry)
        progress.advance("train_head", 1)

    progress.start("train_head", 0, epochs)
    head = train_head(fit, dev, hidden=HIDDEN, seed=seed, epochs=epochs, on_epoch=on_epoch)
    factors, shift = stack(log_odds(head, dev.joined)[:, None], dev.frames.virus, dev.frames.weight)
    head = join_heads([head], factors, shift)
    facts = {
        "options": {"seed": seed, "epochs": epochs, "hidden": HIDDEN, "window_length": window_length},
        "encoders": encoders.name,
        "curves": {"head": curve},
    }
    return _finish(data, part, head, encoders, window_length, wanted, facts)


def _finish(
    data: Data,
    part: Callable[[list[Record]], Part],
    head: Head,
    encoders: dict[Encoder, Member] | Bundle,
    window_length: int,
    wanted: Wanted,
    facts: dict[str, Any],
) -> Bundle:
    """Choose what is left to choose on `dev`, score `val` once, write the bundle."""
    dev = part(data.dev)
    chosen_by, fallback = fit_fallbacks(data.fit, dev, head, window_length)
    windows = dev.windows(head, chosen_by, window_length)
    roll_up, tried, thresholds = choose_roll_up(data.dev, windows)
    facts = {
        "data": data.counts(),
        **facts,
        "roll_ups": tried,
        "dev": measure_part(data.dev, windows, roll_up, thresholds),
    }
    if data.val:
        windows = part(data.val).windows(head, fallback, window_length)
        facts["val"] = measure_part(data.val, windows, roll_up, thresholds)
        for name, floor in floor_of(data, window_length).items():
            facts["val"][name]["floor"] = floor
    result = Result(wanted.description, window_length, head, fallback, thresholds, roll_up, facts)

    def write(folder: Path) -> dict[str, Any]:
        spec = write_parts(folder, wanted.output.name, encoders, result)
        write_documents(folder, spec, facts, data, wanted.notes)
        return spec

    return make_bundle(wanted.output, write)
