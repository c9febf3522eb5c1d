"""Training one encoder with a head of its own: random crops of frames, a moving average of the weights, early stopping.

The loop can be killed at any time: its whole state is written now and then, atomically, and the same call goes on from
there and ends with the same weights as an unbroken one.
"""

from __future__ import annotations

import hashlib
import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from virnuc_dagster.embedding.registry import encoder_of
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.errors import VirnucError
from virnuc_dagster.files import write_atomic
from virnuc_dagster.progress import Progress
from virnuc_dagster.training.frames import FrameSet
from virnuc_dagster.training.networks import MEMBERS, Member, Part, Size

TOKEN_BUDGET = 8_192
"""Tokens an encoder is fed at once when whole frames are embedded."""


_DIGEST_SIZE = hashlib.sha256().digest_size


class OtherTrainingError(VirnucError):
    """A stored training state is damaged, or belongs to other data or options (field: `path`)."""


class StoppedError(VirnucError):
    """The training was asked to stop; its last state is kept."""


@dataclass(frozen=True)
class Recipe:
    """The recipe by which one encoder is trained.

    Attributes:
        size: Size of the network.
        steps: Most optimiser steps.
        batch: Crops of a step, of mean length `crop`.
        crop: Mean length of a crop in codons; each batch has one length from half to one and a half of it.
        rate: Highest learning rate.
        masked: Share of tokens masked.
        average: Decay of the moving average of the weights, a step.
        evaluate_every: Steps between two looks at `dev`.
        patience: Looks without a better one after which training stops.
    """

    size: Size
    steps: int
    batch: int = 96
    crop: int = 64
    rate: float = 2e-3
    masked: float = 0.15
    average: float = 0.998
    evaluate_every: int = 250
    patience: int = 8


@dataclass(frozen=True, eq=False)
class Task:
    """One encoder to train.

    Attributes:
        part: Which architecture.
        recipe: How.
        seed: Decides weights, crops and masks.
        fit: Frames to learn from.
        kinds: Category of each frame of `fit`, counted from 0, int64 (N,).
        dev: Frames to choose the best weights by.
        fingerprint: Names data and options; a stored state with another one is refused.
        state: File of the training state.
    """

    part: Part
    recipe: Recipe
    seed: int
    fit: FrameSet
    kinds: NDArray[np.int64]
    dev: FrameSet
    fingerprint: str
    state: Path


class Crops:
    """A source of batches of crops of one length.

    Args:
        task: What is trained.
        random: Decides frames and places.
    """

    def __init__(self, task: Task, random: torch.Generator) -> None:
        self._task, self._random = task, random
        frames, dna = task.fit, encoder_of(task.part).reads == "nucleotide"
        self._tokens = torch.from_numpy(frames.codons if dna else frames.residues)
        self._start, self._length = torch.from_numpy(frames.start), torch.from_numpy(frames.length)
        self._virus, self._kinds = torch.from_numpy(frames.virus).long(), torch.from_numpy(task.kinds)
        self._weight, self._cumulated = torch.from_numpy(frames.weight), {0: torch.empty(0)}

    def draw(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw codons or residues (B, C), class (B,) and category (B,) of one batch."""
        recipe = self._task.recipe
        least, most = max(1, recipe.crop // 2), max(2, recipe.crop * 3 // 2)
        size = int(torch.randint(least, most, (1,), generator=self._random))
        size = min(size, int(self._length.max()))
        count = max(2, recipe.batch * recipe.crop // size)  # BatchNorm needs two
        places = torch.rand(2, count, generator=self._random, dtype=torch.float64)
        cumulated = self._chances(size)
        rows = torch.searchsorted(cumulated, places[0] * cumulated[-1], right=True).clamp_max(len(cumulated) - 1)
        start = self._start[rows] + (places[1] * (self._length[rows] - size + 1)).long()
        middle = self._tokens[start[:, None] + torch.arange(size)].long()
        return middle, self._virus[rows], self._kinds[rows]

    def _chances(self, size: int) -> torch.Tensor:
        """Cumulate the weights of the frames that are long enough."""
        if size not in self._cumulated:
            self._cumulated[size] = (self._weight * (self._length >= size)).cumsum(0)
        return self._cumulated[size]


class Training:
    """The state of one training: networks, optimiser, random numbers, what was best.

    Args:
        task: What to train.
    """

    def __init__(self, task: Task) -> None:
        self.task, recipe = task, task.recipe
        torch.manual_seed(task.seed)
        self.network = MEMBERS[task.part](recipe.size, int(task.kinds.max()) + 1).train()
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True
        ).eval()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.rate, weight_decay=0.05, betas=(0.9, 0.98)
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.08
        )
        self.random = torch.Generator().manual_seed(task.seed)
        self.crops = Crops(task, self.random)
        self.step, self.seen = 0, 0.0
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}

    def advance(self) -> None:
        """Take one optimiser step, and look at `dev` when it is time."""
        recipe = self.task.recipe
        loss = self.network.loss(*self.crops.draw(), self.random, recipe.masked)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.network)
        self.step += 1
        self.seen += float(loss.detach())
        if self.step % recipe.evaluate_every == 0 or self.step == recipe.steps:
            self._look()

    def _look(self) -> None:
        """Measure the averaged weights on `dev`, and keep them if they are the best so far."""
        logit = self.dev_logits()
        frames = self.task.dev
        signed = logit * np.where(frames.virus, 1.0, -1.0)
        entry = {
            "step": self.step,
            "train_loss": self.seen / (self.step - (self.curve[-1]["step"] if self.curve else 0)),
            "dev_loss": float(np.average(np.logaddexp(0.0, -signed), weights=frames.weight)),
            "dev_accuracy": float(np.average(signed > 0, weights=frames.weight)),
        }
        if not self.curve or entry["dev_loss"] < min(past["dev_loss"] for past in self.curve):
            self.best = {name: tensor.clone() for name, tensor in self.average.module.state_dict().items()}
        self.curve.append(entry)
        self.seen = 0.0

    def dev_logits(self) -> NDArray[np.float64]:
        """Log odds of virus of each `dev` frame under the averaged weights, (N,)."""
        return member_logits(self.average.module, self.task.dev)  # type: ignore[arg-type]

    @property
    def is_done(self) -> bool:
        """Whether all steps are done, or `dev` got no better for as long as the recipe waits."""
        losses = [entry["dev_loss"] for entry in self.curve]
        waited = len(losses) - 1 - losses.index(min(losses)) if losses else 0
        return self.step >= self.task.recipe.steps or waited >= self.task.recipe.patience

    def save(self) -> None:
        """Write the whole state, atomically, behind its digest: torch checks no byte of what it reads."""
        state = {
            "fingerprint": self.task.fingerprint,
            "step": self.step,
            "seen": self.seen,
            "curve": self.curve,
            "best": self.best,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": self.random.get_state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        write_atomic(self.task.state, hashlib.sha256(data).digest() + data)

    def restore(self) -> None:
        """Go on from the stored state, if there is one.

        Raises:
            OtherTrainingError: It cannot be read, or belongs to other data or options.
        """
        if not self.task.state.exists():
            return
        try:
            stored = self.task.state.read_bytes()
        except OSError as error:
            raise self._refused(f"cannot be read: {error.strerror}") from error
        digest, data = stored[:_DIGEST_SIZE], stored[_DIGEST_SIZE:]
        if hashlib.sha256(data).digest() != digest:
            raise self._refused("is damaged")
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
            belongs = state["fingerprint"] == self.task.fingerprint
        except Exception as error:  # whole, but of another program
            raise self._refused("cannot be read") from error
        if not belongs:
            raise self._refused("belongs to other data or options")
        self.step, self.seen = state["step"], state["seen"]
        self.curve, self.best = state["curve"], state["best"]
        for name in ("network", "average", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.random.set_state(state["random"])

    def _refused(self, why: str) -> OtherTrainingError:
        return OtherTrainingError(
            f"the training state {self.task.state} {why}",
            hint=f"give another --output, or move the folder {self.task.state.parent} away to start anew",
            path=str(self.task.state),
        )


def train_member(training: Training, *, progress: Progress, stop: threading.Event, save_every: int = 100) -> Member:
    """Train to the end and return the best network, in evaluation mode.

    Args:
        training: A fresh or restored training.
        progress: Told of steps and of each look at `dev`.
        stop: Set from elsewhere to stop soon.
        save_every: Steps between two writings of the state.

    Raises:
        StoppedError: `stop` was set; the state is kept.
    """
    stage, looks = f"train_{training.task.part}", len(training.curve)
    progress.advance(stage, training.step)
    if training.step == 0:
        training.save()  # a folder that cannot be written to is found now, not after an hour
    while not training.is_done:
        if stop.is_set():
            training.save()
            raise StoppedError("training stopped", hint="run the same command to go on")
        training.advance()
        progress.advance(stage, 1)
        if len(training.curve) > looks:
            looks += 1
            progress.note(f"{training.task.part}: {_shown(training.curve[-1])}")
        if training.step % save_every == 0 or training.is_done:
            training.save()
    network = training.network
    network.load_state_dict(training.best)
    return network.eval()


def _shown(entry: dict[str, float]) -> str:
    figures = (f"{name.replace('_', ' ')} {value:.4f}" for name, value in entry.items() if name != "step")
    return f"step {entry['step']:,}, {', '.join(figures)}"


def member_logits(member: Member, frames: FrameSet) -> NDArray[np.float64]:
    """Log odds of virus of whole frames, embedded as the product does, by an encoder and its own head, (N,)."""
    logits = member.head(member_vectors(member, frames)).double()
    difference: NDArray[np.float64] = (logits[:, 1] - logits[:, 0]).detach().numpy()
    return difference


def member_vectors(member: Member, frames: FrameSet) -> torch.Tensor:
    """Embed whole frames as the product does, float32 (N, D)."""
    texts = frames.nucleotide if encoder_of(member.part).reads == "nucleotide" else frames.protein
    ids = [str(i) for i in range(len(texts))]
    return embed(member.as_encoder(), ids, texts, token_budget=TOKEN_BUDGET)
