"""How fast this machine embeds with a bundle: a short timed run over frames of a real input, kept in the home.

A rate belongs to a bundle, a device, a precision and a number of threads; others of it are no estimate.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from virnuc_dagster.errors import InputError
from virnuc_dagster.files import make_folder, write_atomic
from virnuc_dagster.sequences.sampling import Counts

if TYPE_CHECKING:
    from virnuc_dagster.models.bundle import Bundle
    from virnuc_dagster.stages.shards import ComputeOptions

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
        dnabert_s: Its rate, letters are bases.
        esm2: Its rate, letters are residues.
    """

    measured_at: str
    bundle: str
    device: str
    precision: str
    threads: int
    frames: int
    dnabert_s: EncoderRate
    esm2: EncoderRate

    def seconds(self, counts: Counts) -> dict[str, float]:
        """Estimate seconds of each encoder for an input."""
        return {
            "dnabert_s": self.dnabert_s.seconds_for(counts.nucleotides),
            "esm2": self.esm2.seconds_for(counts.residues),
        }


def key_of(bundle: "Bundle", device: str, precision: str, threads: int) -> str:
    """Name what a measurement is of."""
    weights = [bundle.spec.dnabert_s.weights.sha256[:12], bundle.spec.esm2.weights.sha256[:12]]
    return "/".join([bundle.name, *weights, device, precision, str(threads)])


def stored(home: Path, key: str) -> Calibration | None:
    """Read the measurement kept in a home, if there is one; a damaged file counts as none."""
    try:
        facts = json.loads((home / FILE).read_bytes())[key]
        rates = {name: EncoderRate(**facts[name]) for name in ("dnabert_s", "esm2")}
        return Calibration(**{**facts, **rates})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(home: Path, key: str, measured: Calibration) -> None:
    """Put a measurement into the home, beside those of other bundles and devices."""
    try:
        known = dict(json.loads((home / FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        known = {}
    make_folder(home)
    write_atomic(home / FILE, (json.dumps(known | {key: asdict(measured)}, indent=2) + "\n").encode())


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
    dna, dna_frames = _rate(bundle.load_dnabert_s(device, options.precision), [t[0] for t in texts], options, seconds)
    protein, frames = _rate(bundle.load_esm2(device, options.precision), [t[1] for t in texts], options, seconds)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Calibration(
        now, bundle.name, str(device), options.precision, options.threads, min(frames, dna_frames), dna, protein
    )


def _rate(encoder: object, texts: list[str], options: "ComputeOptions", seconds: float) -> tuple[EncoderRate, int]:
    """Feed parts of growing size until about that time is used; the texts come round again if they do not last."""
    from virnuc_dagster.embedding.runner import embed_tokenized, tokenize

    size, at = 8, 0
    tokens = letters = frames = 0
    spent = -1.0  # the first part only warms up
    while spent < seconds:
        part = [texts[(at + index) % len(texts)] for index in range(min(size, len(texts)))]
        at += len(part)
        ready = tokenize(encoder, [str(i) for i in range(len(part))], part)  # type: ignore[arg-type]
        began = time.monotonic()
        embed_tokenized(encoder, ready, token_budget=options.token_budget)  # type: ignore[arg-type]
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
