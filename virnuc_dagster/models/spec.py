"""What `bundle.json` says: the typed, checked form of a bundle's description. No files are read here, no torch.

The format has a version `major.minor`. A reader refuses a newer major, and ignores entries it does not know, so that a
newer minor may add some; a value it does not know in an entry it knows (a roll-up, say) is refused.

1.1 added `fallback`, `golden.fallback`, `roll_up` and `xxh3` of files; 1.2 `thresholds.known_share`, 1.3
`thresholds.known_bases`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, field_validator, model_validator

from virnuc_dagster.classify.consensus import KNOWN_BASES, KNOWN_SHARE
from virnuc_dagster.classify.roll_up import ROLL_UPS

FORMAT_MAJOR = 1
FORMAT_VERSION = "1.3"
"""What bundles are written as."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Score = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    """Immutable; no conversion of wrong types; entries of a newer minor version are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class FileRef(_Part):
    """A file of the bundle, by its path inside the folder, and the digests of its bytes.

    `sha256` identifies the file: `verify` and all provenance go by it. `xxh3`, 128 bits and many times as quick, tells
    at every load that no bit of large weights has changed; without it, `sha256` is taken then too.
    """

    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")]
    sha256: Digest
    xxh3: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None


class EncoderSpec(_Part):
    """One encoder: its id and revision at its source, Hugging Face style configuration, width, and weights."""

    id: str
    revision: str
    dim: PositiveInt
    config: dict[str, Any]
    weights: FileRef


class DnabertSSpec(EncoderSpec):
    """DNABERT-S: an encoder with a tokeniser file."""

    tokenizer: FileRef


class HeadSpec(_Part):
    """The head: width of the joined embeddings, of the hidden layer, and weights."""

    features: PositiveInt
    hidden: PositiveInt
    weights: FileRef


class FallbackSpec(_Part):
    """The model for windows without an open frame (`classify.fallback`): its k-mer length, and weights."""

    kmer: Annotated[int, Field(ge=1, le=8)]
    weights: FileRef


class Thresholds(_Part):
    """Sequence verdicts: viral from `viral` upwards, non-viral from `non_viral` downwards, uncertain between.

    A sequence is also uncertain if less than `scored_share` of its windows count: those that were scored, by frames or
    the fallback, and of which `known_share` is known (of the codons behind the score; for the fallback, of the words of
    six letters), and if fewer than `known_bases` of its bases are known.
    """

    viral: Score
    non_viral: Score
    scored_share: Score = 0.0
    known_share: Score = KNOWN_SHARE
    known_bases: Annotated[int, Field(ge=0)] = KNOWN_BASES

    @model_validator(mode="after")
    def _ordered(self) -> Thresholds:
        if self.non_viral >= self.viral:
            raise ValueError("non_viral must be below viral")
        return self


class Golden(_Part):
    """One frame and what the bundle made of it, float32: what a loaded model must reproduce.

    `fallback` is the fallback's score of `nucleotide` as if it were a window.
    """

    nucleotide: str
    protein: str
    dnabert_s: tuple[float, ...]
    esm2: tuple[float, ...]
    score: tuple[float, float]
    fallback: Score | None = None

    @field_validator("dnabert_s", "esm2", "score", mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class BundleSpec(_Part):
    """The whole of `bundle.json`."""

    format: Literal["virnuc-bundle"]
    version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+$")]
    name: Annotated[str, StringConstraints(min_length=1)]
    description: str
    licence: str
    window_length: Annotated[int, Field(ge=3)]
    thresholds: Thresholds
    dnabert_s: DnabertSSpec
    esm2: EncoderSpec
    head: HeadSpec
    fallback: FallbackSpec | None = None
    roll_up: str = "mean"
    training: dict[str, Any] = Field(default_factory=dict)
    golden: Golden | None = None

    @field_validator("version")
    @classmethod
    def _readable(cls, version: str) -> str:
        if int(re.split(r"\.", version)[0]) > FORMAT_MAJOR:
            raise ValueError(f"version {version} is newer than this program reads ({FORMAT_MAJOR}.x); upgrade it")
        return version

    @field_validator("roll_up")
    @classmethod
    def _known(cls, roll_up: str) -> str:
        if roll_up not in ROLL_UPS:
            raise ValueError(f"this program knows no roll-up {roll_up!r}, only {', '.join(ROLL_UPS)}; upgrade it")
        return roll_up

    @model_validator(mode="after")
    def _widths_agree(self) -> BundleSpec:
        joined = self.dnabert_s.dim + self.esm2.dim
        if self.head.features != joined:
            raise ValueError(f"the head takes {self.head.features} features, the encoders give {joined}")
        if self.golden and (len(self.golden.dnabert_s), len(self.golden.esm2)) != (self.dnabert_s.dim, self.esm2.dim):
            raise ValueError("the golden vectors are not as wide as the encoders")
        return self

    def files(self) -> tuple[FileRef, ...]:
        """Every file the bundle refers to."""
        files = (self.dnabert_s.weights, self.dnabert_s.tokenizer, self.esm2.weights, self.head.weights)
        return (*files, self.fallback.weights) if self.fallback else files
