"""How fast this machine embeds with a bundle: a short timed run over frames of a real input, kept in the home.

A rate belongs to a bundle, a device, a precision and a number of threads; others of it are no estimate.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from virnuc_dagster.embedding.registry import ENCODERS, encoder_of
from virnuc_dagster.errors import InputError
from virnuc_dagster.files import make_folder, write_atomic
from virnuc_dagster.sequences.sampling import Counts

if TYPE_CHECKING:
    from virnuc_dagster.compute import ComputeOptions
    from virnuc_dagster.embedding.runner import Encoder
    from virnuc_dagster.models.bundle import Bundle

FILE = "calibration.json"
_SECONDS = 4.0


@dataclass(frozen=True)
class EncoderRate:
    """What one encoder did.

    Attributes:
        tokens: Tokens it was fed.
        letters: Bases or residues these were.
        seconds: Wall time, loading left out.
    """

    tokens: int
    letters: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """The encoder's speed."""
        return self.tokens / self.seconds

    def seconds_for(self, letters: int) -> float:
        """Estimate time for so many bases or residues like those it was measured on."""
        return self.seconds * letters / self.letters


@dataclass(frozen=True)
class Calibration:
    """One measurement.

    Attributes:
        measured_at: UTC.
        bundle: Name of the bundle.
        device: Name of the device.
        precision: Number format.
        threads: CPU threads.
        frames: Frames that were embedded.
        rates: Part of an encoder -> its rate; letters are what it reads, bases or residues.
    """

    measured_at: str
    bundle: str
    device: str
    precision: str
    threads: int
    frames: int
    rates: Mapping[str, EncoderRate]

    def seconds(self, counts: Counts) -> dict[str, float]:
        """Estimate seconds of each encoder for an input."""
        letters = {"nucleotide": counts.nucleotides, "protein": counts.residues}
        return {part: rate.seconds_for(letters[encoder_of(part).reads]) for part, rate in self.rates.items()}


_OF_A_RUN = [of.name for of in fields(Calibration) if of.name != "rates"]


def key_of(bundle: "Bundle", device: str, precision: str, threads: int) -> str:
    """Name what a measurement is of."""
    weights = [encoder.weights.sha256[:12] for encoder in bundle.spec.encoders]
    return "/".join([bundle.name, *weights, device, precision, str(threads)])


def stored(home: Path, key: str) -> Calibration | None:
    """Read the measurement kept in a home, if there is one; a damaged file counts as none."""
    try:
        facts = json.loads((home / FILE).read_bytes())[key]
        rates = {of.part: EncoderRate(**facts[of.part]) for of in ENCODERS if of.part in facts}
        return Calibration(**{name: facts[name] for name in _OF_A_RUN}, rates=rates)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(home: Path, key: str, measured: Calibration) -> None:
    """Put a measurement into the home, beside those of other bundles and devices."""
    try:
        known = dict(json.loads((home / FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        known = {}
    make_folder(home)
    facts = asdict(measured)
    rates = facts.pop("rates")  # beside the rest, as ever
    write_atomic(home / FILE, (json.dumps(known | {key: facts | rates}, indent=2) + "\n").encode())


def measure(
    bundle: "Bundle", options: "ComputeOptions", texts: Sequence[tuple[str, str]], seconds: float = _SECONDS
) -> Calibration:
    """Embed frames for a few seconds with each encoder; loading and a first warming batch are not counted.

    Args:
        bundle: Holds the encoders.
        options: Device, precision, token budget, threads.
        texts: Nucleotide and protein text of frames of the input.
        seconds: About how long each encoder is measured.

    Raises:
        InputError: No frame to measure with.
    """
    if not texts:
        raise InputError("no open frame was found to measure with", hint="nothing of this input will be embedded")
    device = options.make_ready()
    columns = dict(zip(("nucleotide", "protein"), zip(*texts, strict=True), strict=True))
    rates, frames = {}, []
    for part in [encoder.part for encoder in bundle.spec.encoders]:
        encoder = bundle.load_encoder(part, device, options.precision)
        rates[part], embedded = _rate(encoder, columns[encoder_of(part).reads], options, seconds)
        frames.append(embedded)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Calibration(now, bundle.name, str(device), options.precision, options.threads, min(frames), rates)


def _rate(
    encoder: "Encoder", texts: Sequence[str], options: "ComputeOptions", seconds: float
) -> tuple[EncoderRate, int]:
    """Feed parts of growing size until about that time is used; the texts come round again if they do not last."""
    from virnuc_dagster.embedding.runner import embed_tokenized, tokenize

    size, at = 8, 0
    tokens = letters = frames = 0
    spent = -1.0  # the first part only warms up
    while spent < seconds:
        part = [texts[(at + index) % len(texts)] for index in range(min(size, len(texts)))]
        at += len(part)
        ready = tokenize(encoder, [str(i) for i in range(len(part))], part)
        began = time.monotonic()
        embed_tokenized(encoder, ready, token_budget=options.token_budget)
        took = time.monotonic() - began
        size = min(2 * size, 2_048) if took < seconds / 4 else size
        if spent < 0:
            spent = 0.0
            continue
        spent += took
        tokens += sum(map(len, ready.tokens))
        letters += sum(map(len, dict.fromkeys(part)))
        frames += len(part)
    return EncoderRate(tokens, letters, round(spent, 3)), frames
