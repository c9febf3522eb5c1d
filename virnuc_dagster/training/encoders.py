"""Both small encoders, trained side by side, a thread each: torch leaves Python's lock while it computes."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from virnuc_dagster.classify.head import Head
from virnuc_dagster.home.locks import only_one
from virnuc_dagster.progress import Progress
from virnuc_dagster.training.data import Data, fingerprint
from virnuc_dagster.training.frames import FrameSet, frames_of, require_both_classes
from virnuc_dagster.training.head import join_heads, stack
from virnuc_dagster.training.loop import Recipe, StoppedError, Task, Training, member_logits, train_member
from virnuc_dagster.training.networks import PARTS, Member, Part, Size


@dataclass(frozen=True)
class EncoderOptions:
    """What decides the weights of the encoders, besides the data.

    Attributes:
        seed: Of weights, crops and masks.
        window_length: Bases of a window.
        shifts: Records are cut from each of these bases on.
        widths: Shorter windows to learn from as well.
        recipes: How each encoder is trained.
    """

    seed: int
    window_length: int = 500
    shifts: tuple[int, ...] = (0, 83, 167, 250, 333, 417)
    widths: tuple[int, ...] = (300,)
    recipes: Mapping[Part, Recipe] = field(
        default_factory=lambda: {
            "dnabert_s": Recipe(Size(128, 4, 4, 192, 64), steps=3500, crop=96),
            "esm2": Recipe(Size(64, 2, 4, 128, 64), steps=1500, batch=64),
        }
    )

    @classmethod
    def of(cls, seed: int, steps: int | None = None) -> EncoderOptions:
        """Return the default options, with another number of steps if given."""
        options = cls(seed)
        if steps is None:
            return options
        return replace(options, recipes={part: replace(r, steps=steps) for part, r in options.recipes.items()})


@dataclass(frozen=True, eq=False)
class Trained:
    """Trained encoders and their common head.

    Attributes:
        members: Each encoder with its own head.
        head: The head on both.
        curves: Training curve of each encoder.
        factors: What the log odds of each encoder's own head count in the common one.
    """

    members: dict[Part, Member]
    head: Head
    curves: dict[str, list[dict[str, float]]]
    factors: dict[str, float]


def train_encoders(data: Data, options: EncoderOptions, states: Path, progress: Progress) -> Trained:
    """Train both encoders and join their heads; calibrated on `dev`.

    Args:
        data: The parts of the data.
        options: What to train and how.
        states: Folder of the training states; a call that was killed goes on from them.
        progress: Told of steps and of each look at `dev`.

    Raises:
        InputError: A class has no open frame.
        OtherTrainingError: The folder holds states of other data or options.
        AlreadyRunningError: Another process trains in this folder.
    """
    fit = frames_of(data.fit, options.window_length, options.shifts, options.widths)
    dev = frames_of(data.dev, options.window_length)
    require_both_classes(fit, "to learn from")
    require_both_classes(dev, "to choose by")
    kinds = np.unique([record.kind for record in data.fit], return_inverse=True)[1][fit.record].astype(np.int64)
    states.mkdir(parents=True, exist_ok=True)
    hint = "wait for it, or name another --output"
    with only_one(states / "lock", f"process {os.getpid()} trains this bundle", hint):
        trainings: dict[Part, Training] = {}
        for part in PARTS:
            recipe = options.recipes[part]
            name = fingerprint(data, replace(options, recipes={part: recipe}))
            task = Task(part, recipe, options.seed, fit, kinds, dev, name, states / f"{part}.pt")
            trainings[part] = Training(task)
            trainings[part].restore()
            progress.start(f"train_{part}", 0, recipe.steps)
        members = _side_by_side(trainings, progress)
    factors, head = _common_head(members, dev)
    return Trained(members, head, {part: training.curve for part, training in trainings.items()}, factors)


def forget_states(states: Path) -> None:
    """Remove the training states, and their folder if nothing else is in it."""
    for path in (states / "lock", *(path for part in PARTS for path in states.glob(f"*{part}.pt*"))):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        states.rmdir()


def _side_by_side(trainings: Mapping[Part, Training], progress: Progress) -> dict[Part, Member]:
    """Train all at once; an error or an interruption of one stops the others, whose states are kept."""
    stop = threading.Event()

    def train(part: Part) -> Member:
        return train_member(trainings[part], progress=progress, stop=stop)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(len(trainings), thread_name_prefix="train") as pool:
            try:
                futures = {part: pool.submit(train, part) for part in trainings}
                wait(futures.values(), return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
        errors = [error for future in futures.values() if (error := future.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
            raise error
        return {part: future.result() for part, future in futures.items()}
    finally:
        torch.set_num_threads(threads)


def _common_head(members: Mapping[Part, Member], dev: FrameSet) -> tuple[dict[str, float], Head]:
    """Join the heads so that their log odds add up to calibrated ones."""
    log_odds = np.stack([member_logits(members[part], dev) for part in PARTS], axis=1)
    factors, shift = stack(log_odds, dev.virus, dev.weight)
    head = join_heads([members[part].head for part in PARTS], factors, shift)
    return dict(zip(PARTS, factors, strict=True)), head
