"""What `bundle.json` says: the typed, checked form of a bundle's description. No files are read here, no torch.

The format has a version `major.minor`. A reader refuses a newer major, and ignores entries it does not know, so that a
newer minor may add some; a value it does not know in an entry it knows (a roll-up, say) is refused.

1.1 added `fallback`, `golden.fallback`, `roll_up` and `xxh3` of files; 1.2 `thresholds.known_share`, 1.3
`thresholds.known_bases`. 2.0 lists its encoders; in 1.x, each of the two was an entry under its own name. A bundle of
just these two is still written as 1.3, so that older programs read it. A description of either form is read as the
newer one.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from virnuc_dagster.classify.consensus import KNOWN_BASES, KNOWN_SHARE
from virnuc_dagster.classify.roll_up import ROLL_UPS
from virnuc_dagster.embedding.registry import ENCODERS, FIRST_PARTS, encoder_of
from virnuc_dagster.errors import BundleError

FORMAT_MAJOR = 2
FIRST_VERSION, VERSION = "1.3", "2.0"
"""What bundles are written as: those of the two encoders of format 1, and all others."""

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


class BundledEncoder(_Part):
    """One encoder: its id and revision at its source, Hugging Face style configuration, width, weights, other files."""

    part: str
    id: str
    revision: str
    dim: PositiveInt
    config: dict[str, Any]
    weights: FileRef
    files: dict[str, FileRef] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> BundledEncoder:
        if lacking := set(encoder_of(self.part).files) - self.files.keys():
            raise ValueError(f"{self.part} lacks {', '.join(sorted(lacking))}")
        return self


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
    vectors: dict[str, tuple[float, ...]]
    score: tuple[float, float]
    fallback: Score | None = None

    @field_validator("vectors", "score", mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {part: cls._from_list(vector) for part, vector in value.items()}
        return tuple(value) if isinstance(value, list) else value

    def text(self, part: str) -> str:
        """Return what an encoder sees of the frame."""
        return self.nucleotide if encoder_of(part).reads == "nucleotide" else self.protein


class BundleSpec(_Part):
    """The whole of `bundle.json`."""

    format: Literal["virnuc-bundle"]
    version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+$")]
    name: Annotated[str, StringConstraints(min_length=1)]
    description: str
    licence: str
    window_length: Annotated[int, Field(ge=3)]
    thresholds: Thresholds
    encoders: tuple[BundledEncoder, ...]
    head: HeadSpec
    fallback: FallbackSpec | None = None
    roll_up: str = "mean"
    training: dict[str, Any] = Field(default_factory=dict)
    golden: Golden | None = None

    @model_validator(mode="before")
    @classmethod
    def _lifted(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        version = given.get("version")
        if isinstance(version, str) and (major := re.match(r"\d+", version)) and int(major[0]) > FORMAT_MAJOR:
            raise ValueError(f"version {version} is newer than this program reads ({FORMAT_MAJOR}.x); upgrade it")
        return _of_2(given)

    @field_validator("encoders", mode="after")
    @classmethod
    def _in_order(cls, encoders: tuple[BundledEncoder, ...]) -> tuple[BundledEncoder, ...]:
        of = {encoder.part: encoder for encoder in encoders}
        if not encoders or len(of) != len(encoders):
            raise ValueError("a bundle has one or more encoders, each once")
        return tuple(of[encoder.part] for encoder in ENCODERS if encoder.part in of)

    @field_validator("roll_up")
    @classmethod
    def _known(cls, roll_up: str) -> str:
        if roll_up not in ROLL_UPS:
            raise ValueError(f"this program knows no roll-up {roll_up!r}, only {', '.join(ROLL_UPS)}; upgrade it")
        return roll_up

    @model_validator(mode="after")
    def _widths_agree(self) -> BundleSpec:
        widths = {encoder.part: encoder.dim for encoder in self.encoders}
        if self.head.features != sum(widths.values()):
            raise ValueError(f"the head takes {self.head.features} features, the encoders give {sum(widths.values())}")
        if self.golden and {part: len(vector) for part, vector in self.golden.vectors.items()} != widths:
            raise ValueError("the golden vectors are not as wide as the encoders")
        return self

    def encoder(self, part: str) -> BundledEncoder:
        """Return one of its encoders.

        Raises:
            BundleError: It has none of that name.
        """
        for encoder in self.encoders:
            if encoder.part == part:
                return encoder
        raise BundleError(
            f"bundle {self.name} has no encoder {part}",
            hint=f"it has {', '.join(of.part for of in self.encoders)}; choose another bundle, or leave that one out",
            part=part,
        )

    def files(self) -> tuple[FileRef, ...]:
        """Every file the bundle refers to."""
        files = [file for encoder in self.encoders for file in (encoder.weights, *encoder.files.values())]
        return (*files, self.head.weights, *([self.fallback.weights] if self.fallback else []))


def as_written(described: dict[str, Any]) -> dict[str, Any]:
    """Put a description in the words of the format it is written as, which `version` then says.

    Args:
        described: With `encoders`, and perhaps `golden` with `vectors`.
    """
    if tuple(encoder["part"] for encoder in described["encoders"]) != FIRST_PARTS:
        return described | {"version": VERSION}
    written: dict[str, Any] = {}
    for name, value in described.items():
        if name == "encoders":
            written |= {encoder["part"]: _entry_of_1(encoder) for encoder in value}
        elif name == "golden" and isinstance(value, dict):
            written[name] = {}
            for key, entry in value.items():
                written[name] |= entry if key == "vectors" else {key: entry}
        else:
            written[name] = value
    return written | {"version": FIRST_VERSION}


def problems_of(error: ValidationError, text: bytes) -> list[str]:
    """Say what is wrong with a description, each at its place as the file has it."""
    found: list[str] = []
    for problem in error.errors():
        place = problem["loc"]
        if place[:1] == ("encoders",) and len(place) > 1 and "encoders" not in json.loads(text):
            place = (FIRST_PARTS[int(place[1])], *(name for name in place[2:] if name != "files"))
        found.append(f"{'.'.join(map(str, place)) or 'file'}: {problem['msg']}")
    return found


def _entry_of_1(encoder: dict[str, Any]) -> dict[str, Any]:
    entry = {name: value for name, value in encoder.items() if name not in ("part", "files")}
    return entry | encoder.get("files", {})


def _of_2(described: dict[str, Any]) -> dict[str, Any]:
    """Read a description of format 1 as one of format 2; what its entries hold is checked afterwards."""
    if "encoders" in described:
        encoders = described["encoders"]
        return described | ({"encoders": tuple(encoders)} if isinstance(encoders, list) else {})
    found = {part: described[part] for part in FIRST_PARTS if isinstance(described.get(part), dict)}
    if lacking := [part for part in FIRST_PARTS if part not in found]:
        raise ValueError(f"lacks {', '.join(lacking)}")
    encoders = tuple(
        {"part": part, **entry, "files": {name: entry[name] for name in encoder_of(part).files if name in entry}}
        for part, entry in found.items()
    )
    lifted = {name: value for name, value in described.items() if name not in found} | {"encoders": encoders}
    golden = described.get("golden")
    if isinstance(golden, dict):
        vectors = {part: golden[part] for part in FIRST_PARTS if part in golden}
        lifted["golden"] = {name: value for name, value in golden.items() if name not in vectors} | {"vectors": vectors}
    return lifted
