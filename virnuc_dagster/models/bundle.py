"""Bundles: open, verify, and load the encoders and the head of one folder.

A bundle is a folder with `bundle.json` (see `spec`), safetensors and a tokeniser file; nothing in it is ever executed
and nothing is fetched. What is loaded is what was verified: small files are read once and their digest taken from those
bytes. An encoder's weights are mapped and laid out for the processor while another thread takes the file's digest; the
encoder is given out only if that is the recorded one and the file is still the same. After loading, the golden frame,
if there is one, must come out as recorded.

Importing this module and reading a spec do not import torch. Making bundles belongs elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from virnuc_dagster.embedding.device import Precision, torch_dtype
from virnuc_dagster.embedding.registry import encoder_of
from virnuc_dagster.errors import BundleError
from virnuc_dagster.models.spec import BundledEncoder, BundleSpec, FileRef, problems_of

if TYPE_CHECKING:
    import torch

    from virnuc_dagster.classify.fallback import FallbackModel
    from virnuc_dagster.classify.head import Head
    from virnuc_dagster.embedding.runner import Encoder

SPEC_FILE = "bundle.json"

_PACKAGED = Path(__file__).parent

# Largest difference from a golden value, relative to the largest of the vector: other processors and thread counts
# differ in the last bits; a wrong weight, head count or slope is off by far more.
_GOLDEN_TOLERANCE: dict[str, float] = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}


def list_bundles() -> list[str]:
    """Names of the packaged bundles, sorted."""
    return sorted(path.parent.name for path in _PACKAGED.glob(f"*/{SPEC_FILE}"))


def open_bundle(name_or_dir: str) -> Bundle:
    """Open a bundle and check its description; weights are read only on loading.

    Args:
        name_or_dir: Name of a packaged bundle, or else a folder (`./mini` for a folder of the same name).

    Raises:
        BundleError: No such bundle, or a `bundle.json` that is damaged, too new or refers to files outside.
    """
    packaged = name_or_dir in list_bundles()
    folder = _PACKAGED / name_or_dir if packaged else Path(name_or_dir)
    if not (folder / SPEC_FILE).is_file():
        raise BundleError(
            f"no bundle {name_or_dir!r}: it is no packaged name and no folder with a {SPEC_FILE}",
            hint=f"packaged bundles: {', '.join(list_bundles()) or 'none'}; or give the path of a bundle's folder",
            name=name_or_dir,
        )
    try:
        text = (folder / SPEC_FILE).read_bytes()
        spec = BundleSpec.model_validate_json(text)
    except ValidationError as error:
        problems = problems_of(error, text)
        raise BundleError(
            f"{folder / SPEC_FILE} is not a usable bundle description: {'; '.join(problems)}",
            hint="restore the bundle, or make it again",
            problems=problems,
        ) from error
    bundle = Bundle(folder.resolve(), spec)
    for ref in spec.files():
        bundle.path(ref)
    return bundle


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file is replaced or written to."""
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: Where it lies.
        spec: What its `bundle.json` says.
    """

    folder: Path
    spec: BundleSpec

    @property
    def name(self) -> str:
        """The name the bundle gives itself."""
        return self.spec.name

    def path(self, ref: FileRef) -> Path:
        """Where a file of the bundle lies.

        Raises:
            BundleError: It leads out of the folder (a symbolic link).
        """
        path = (self.folder / ref.file).resolve()
        if not path.is_relative_to(self.folder):
            raise BundleError(
                f"bundle {self.name}: {ref.file} leads out of the bundle's folder",
                hint="replace the link by the file itself",
                file=ref.file,
            )
        return path

    def verify(self) -> None:
        """Compare every file with its digest.

        Raises:
            BundleError: Files are missing or differ; each is named (field `files`).
        """
        problems = {}
        for ref in self.spec.files():
            try:
                with self._open(ref) as file:
                    self._check_digest(ref, file)
            except BundleError as error:
                problems[ref.file] = error.message
        if problems:
            raise BundleError(
                f"bundle {self.name} is damaged: " + "; ".join(problems.values()),
                hint="restore the files, or reinstall the package for a packaged bundle",
                files=sorted(problems),
            )

    def provenance(self, stage: str, precision: Precision = "float32") -> dict[str, str]:
        """What decides the numbers of a stage, as plain text entries to store with a result.

        Args:
            stage: Part of an encoder, `head` or `fallback` (nothing for a bundle without one).
            precision: Of the encoder; head and fallback do not depend on it.
        """
        if stage == "fallback":
            return {"fallback_sha256": self.spec.fallback.weights.sha256} if self.spec.fallback else {}
        if stage == "head":
            return {"head_sha256": self.spec.head.weights.sha256}
        encoder = self.spec.encoder(stage)
        config = json.dumps(encoder.config, sort_keys=True, separators=(",", ":"))
        return {
            "model_id": encoder.id,
            "revision": encoder.revision,
            "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
            "weights_sha256": encoder.weights.sha256,
            "precision": precision,
            **{f"{name}_sha256": file.sha256 for name, file in encoder.files.items()},
        }

    def verdict_provenance(self) -> dict[str, Any]:
        """What makes verdicts of predictions: name, roll-up, all thresholds, and the fallback if there is one."""
        thresholds = self.spec.thresholds.model_dump()
        return {"bundle": self.name, "roll_up": self.spec.roll_up, "thresholds": thresholds} | self.provenance(
            "fallback"
        )

    def load_encoder(self, part: str, device: torch.device, precision: Precision = "float32") -> Encoder:
        """Load an encoder.

        Args:
            part: Which one.
            device: Where to put it.
            precision: Number format of its weights.

        Raises:
            BundleError: The bundle has no such encoder, a file differs from its digest, or it is not the model that the
                bundle describes.
        """
        from virnuc_dagster.embedding.runner import embed

        described = self.spec.encoder(part)
        source = _EncoderFiles(self, described, torch_dtype(precision), device)
        try:
            encoder = encoder_of(part).load(source)
        except ValueError as error:
            raise self.unusable(part, error) from error
        if golden := self.spec.golden:
            found = embed(encoder, ["golden frame"], [golden.text(part)], token_budget=1)[0]
            self._compare(described.id, found, golden.vectors[part], precision)
        return encoder

    def load_head(self, device: torch.device) -> Head:
        """Load the head, in evaluation mode.

        Args:
            device: Where to put it.

        Raises:
            BundleError: The file differs from its digest, or is not the head the bundle describes.
        """
        import torch

        from virnuc_dagster.classify.head import Head, predict

        spec = self.spec.head
        with torch.device("meta"):
            head = Head(spec.features, spec.hidden)
        try:
            head.load_state_dict(self._small_tensors(spec.weights), strict=True, assign=True)
        except RuntimeError as error:  # names every missing, unexpected and wrongly shaped entry
            raise self.unusable("head", error) from error
        head.to(device=device, dtype=torch.float32).eval()
        if self.spec.golden:
            golden = self.spec.golden
            score = predict(head, {part: torch.tensor([vector]) for part, vector in golden.vectors.items()})[0]
            self._compare("head", score, golden.score, "float32")
        return head

    def check_fallback(self) -> None:
        """Compare the fallback's file, if there is one, with its digest; quick, and needs no numpy.

        Raises:
            BundleError: It differs.
        """
        if self.spec.fallback:
            self.read(self.spec.fallback.weights)

    def load_fallback(self) -> FallbackModel | None:
        """Load the model for windows without an open frame; None if the bundle has none. Needs no torch.

        Raises:
            BundleError: The file differs from its digest, or is not the model the bundle describes.
        """
        from virnuc_dagster.classify.fallback import FallbackModel

        spec, golden = self.spec.fallback, self.spec.golden
        if spec is None:
            return None
        try:
            model = FallbackModel.from_bytes(self.read(spec.weights), spec.kmer)
        except ValueError as error:
            raise self.unusable("fallback", error) from error
        if golden and golden.fallback is not None:
            score = float(model.score([golden.nucleotide])[0])
            if not abs(score - golden.fallback) <= _GOLDEN_TOLERANCE["float32"]:
                raise self.unusable("fallback", f"scores the golden frame {score:.6f}, not {golden.fallback:.6f}")
        return model

    @contextmanager
    def mapped(self, ref: FileRef) -> Iterator[dict[str, torch.Tensor]]:
        """The tensors of a safetensors file, mapped for the length of the block, while its digest is taken.

        Raises:
            BundleError: At the end of the block: the file differs from its digest, or changed meanwhile. That error
                comes before any other that the block raises, for it explains it.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path(ref)
        with ThreadPoolExecutor(1, "digest") as thread, self._open(ref) as file:
            before = _identity(os.fstat(file.fileno()))
            check = thread.submit(self._check_digest, ref, file, quickly=True)
            try:
                with safe_open(path, "pt") as mapped:
                    yield {name: mapped.get_tensor(name) for name in mapped.keys()}  # noqa: SIM118 - no mapping
            except SafetensorError as error:
                raise self.unusable(ref.file, error) from error
            finally:
                check.result()
                if _identity(path.stat()) != before:
                    raise BundleError(f"{ref.file} changed while it was loaded", hint="run the command again")

    def _open(self, ref: FileRef) -> io.BufferedReader:
        try:
            return self.path(ref).open("rb")
        except OSError as error:
            raise BundleError(f"cannot read {ref.file}: {error.strerror}", file=ref.file) from error

    def _check_digest(self, ref: FileRef, file: io.BufferedReader | io.BytesIO, *, quickly: bool = False) -> None:
        """Refuse a file that is not the recorded one; `quickly` goes by the quick digest where one is recorded."""
        from xxhash import xxh3_128

        name, expected = ("xxh3", ref.xxh3) if quickly and ref.xxh3 else ("sha256", ref.sha256)
        try:
            digest = hashlib.file_digest(file, xxh3_128 if name == "xxh3" else "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"cannot read {ref.file}: {error.strerror}", file=ref.file) from error
        if digest != expected:
            raise BundleError(
                f"{ref.file} has {name} {digest[:12]}..., expected {expected[:12]}...",
                hint=f"restore the file; `virnuc models verify {self.folder}` checks the whole bundle",
                file=ref.file,
            )

    def read(self, ref: FileRef) -> bytes:
        """Read a small file once and return those bytes if they have the recorded digest."""
        with self._open(ref) as file:
            content = io.BytesIO(file.read())
        self._check_digest(ref, content)
        return content.getvalue()

    def _small_tensors(self, ref: FileRef) -> dict[str, torch.Tensor]:
        """Read the tensors of a verified safetensors file into memory."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(self.read(ref))
        except SafetensorError as error:
            raise self.unusable(ref.file, error) from error

    def _compare(self, what: str, found: torch.Tensor, expected: Sequence[float], precision: Precision) -> None:
        """Refuse a vector that is not the golden one."""
        import torch

        golden = torch.tensor(expected)
        off = float((found - golden).abs().max() / golden.abs().max().clamp_min(1e-6))
        if not off <= _GOLDEN_TOLERANCE[precision]:
            raise self.unusable(what, f"the golden frame is off by {off:.2g} of its largest value")

    def unusable(self, what: str, why: object) -> BundleError:
        """The error for a part that is intact but not what the bundle says."""
        return BundleError(
            f"bundle {self.name}, {what}: {why}", hint="the bundle was made wrongly; make it again", part=what
        )


@dataclass(frozen=True)
class _EncoderFiles:
    """What an encoder of a bundle is loaded from (`registry.Source`)."""

    bundle: Bundle
    described: BundledEncoder
    dtype: torch.dtype
    device: torch.device

    @property
    def id(self) -> str:
        return self.described.id

    @property
    def config(self) -> dict[str, Any]:
        return self.described.config

    def read(self, name: str) -> bytes:
        return self.bundle.read(self.described.files[name])

    def pack(self, model: Any) -> Any:
        """Give a network on the meta device its weights and make its fast form, which shares no memory with it."""
        from virnuc_dagster.embedding.memory import keep_freed_memory

        if self.device.type == "cpu":
            keep_freed_memory()
        with self.bundle.mapped(self.described.weights) as tensors:
            try:
                model.load_published(tensors)
            except BundleError as error:
                raise self.bundle.unusable(self.id, error.message) from error
            return model.pack(self.dtype, self.device)
