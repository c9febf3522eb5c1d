"""The encoders of the pipeline, one row each. A further encoder is a module with a function `load`, and a row here.

Everything that loops over encoders reads `ENCODERS`: assets, checks, bundles, sizes, reports, training of a head. No
module of an encoder is imported before the encoder is loaded, so this table costs no torch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from virnuc_dagster.embedding.runner import Encoder


class Source(Protocol):
    """What a bundle gives an encoder to be loaded from; no byte is handed out whose digest is not the recorded one."""

    @property
    def id(self) -> str:
        """The encoder's name at its source."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Its configuration, in the style of Hugging Face."""

    @property
    def device(self) -> torch.device:
        """Where to put it."""

    def read(self, name: str) -> bytes:
        """Read a small file, one of `EncoderSpec.files`."""

    def pack(self, model: Any) -> Any:
        """Give a network on the meta device its weights, and make its fast form.

        Args:
            model: Has `load_published(tensors)` and `pack(dtype, device)`.
        """


@dataclass(frozen=True)
class Published:
    """Weights as their authors published them, made ready to be written into a bundle.

    Attributes:
        config: Configuration in the style of Hugging Face.
        model: Has `published_state()`.
        dim: Width of a pooled vector.
        files: Further files of a bundle (`EncoderSpec.files`) -> where they lie.
    """

    config: dict[str, Any]
    model: Any
    dim: int
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Typical:
    """What the published encoder takes, for sizes and times in docs/scaling.md.

    Attributes:
        dim: Width of a vector.
        tokens: Tokens of a frame of 495 bases, both special ones included.
        tokens_per_second: Assumed of one GPU, not measured.
    """

    dim: int
    tokens: int
    tokens_per_second: int


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder: what it is called and how it is loaded.

    Attributes:
        part: Its name in bundles, options and measurements.
        stage: The stage, and asset, of its embeddings.
        reads: Which text of a frame it sees.
        title: Its name for people.
        what: What its embeddings are, for the web UI.
        citation: Its paper, HTML.
        loader: `module:function` that makes the `Encoder` of a `Source`.
        publisher: `module:function` that reads published weights, a `Published` of a path; empty if there is none.
        publishes: What to give for these weights, for the command line's help.
        files: Small files of a bundle that it needs besides its weights.
        typical: Figures of the published encoder; None if there are none.
        older_ids: The key under which files of older programs name its rows; empty if there are none.
        older_path: A word in the paths of such files.
    """

    part: str
    stage: str
    reads: Literal["nucleotide", "protein"]
    title: str
    what: str
    loader: str
    citation: str = ""
    publisher: str = ""
    publishes: str = ""
    files: tuple[str, ...] = ()
    typical: Typical | None = None
    older_ids: str = ""
    older_path: str = ""

    def load(self, source: Source) -> Encoder:
        """Load the encoder.

        Raises:
            ValueError: What the source describes is no such encoder.
            BundleError: A file differs from its digest.
        """
        encoder: Encoder = pkgutil.resolve_name(self.loader)(source)
        return encoder

    def read_published(self, path: Path) -> Published:
        """Read weights as they were published: a folder or a file.

        Raises:
            BundleError: They are missing, damaged, dangerous, or of another architecture.
        """
        published: Published = pkgutil.resolve_name(self.publisher)(path)
        return published


#: In this order their vectors are joined for the head.
ENCODERS: tuple[EncoderSpec, ...] = (
    EncoderSpec(
        part="dnabert_s",
        stage="dnabert_s_embeddings",
        reads="nucleotide",
        title="DNABERT-S",
        what="What a DNA language model sees in each frame: the DNABERT-S embedding of its bases (mean over all "
        "tokens), one row a frame.",
        citation="Zhou Z. et al., <em>DNABERT-S</em>, arXiv:2402.08777",
        loader="virnuc_dagster.embedding.dnabert_s:load",
        publisher="virnuc_dagster.models.published_encoders:read_dnabert_s",
        publishes="Folder or hub id, e.g. zhihan1996/DNABERT-S.",
        files=("tokenizer",),
        typical=Typical(dim=768, tokens=103, tokens_per_second=300_000),  # 113 M parameters in products
        older_ids="nucleotide",
        older_path="dnabert",
    ),
    EncoderSpec(
        part="esm2",
        stage="esm2_embeddings",
        reads="protein",
        title="ESM-2",
        what="What a protein language model sees in each frame: the ESM-2 embedding of its translation (mean over the "
        "residues), one row a frame.",
        citation="Lin Z. et al., <em>Evolutionary-scale prediction\nof atomic-level protein structure with a language "
        "model</em> (ESM-2), Science 2023, 379, 1123-1130",
        loader="virnuc_dagster.embedding.esm2:load",
        publisher="virnuc_dagster.models.published_encoders:read_esm2",
        publishes="Folder, hub id, or a fair-esm .pt file.",
        typical=Typical(dim=2560, tokens=167, tokens_per_second=15_000),  # the 3B one: 2.8 G parameters in products
        older_ids="proteins",
        older_path="esm",
    ),
)
#: The encoders of every bundle of format 1; bundles of these two are still written in it (see `models.spec`).
FIRST_PARTS = ("dnabert_s", "esm2")


def encoder_of(part: str) -> EncoderSpec:
    """Return the row of an encoder.

    Raises:
        ValueError: There is none of that name.
    """
    for encoder in ENCODERS:
        if encoder.part == part:
            return encoder
    known = ", ".join(encoder.part for encoder in ENCODERS)
    raise ValueError(f"this program knows no encoder {part!r}, only {known}; upgrade it")
