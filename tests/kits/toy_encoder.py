"""A third encoder, in one file and one row: adding it to the table is all that the pipeline needs to run with it.

As a plugin of pytest (`-p kits.toy_encoder`) it adds its row before anything that reads the table is imported.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from virnuc_dagster.embedding import registry
from virnuc_dagster.embedding.registry import EncoderSpec, Source

WIDTH = 3
ROW = EncoderSpec(
    part="toy",
    stage="toy_embeddings",
    reads="protein",
    title="Toy",
    what="The mean of a random vector a residue.",
    loader="kits.toy_encoder:load",
)
if ROW not in registry.ENCODERS:
    registry.ENCODERS = (*registry.ENCODERS, ROW)


class Residues(torch.nn.Module):
    """A vector a letter."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = torch.nn.Embedding(128, WIDTH)

    def load_published(self, state: Mapping[str, torch.Tensor]) -> None:
        self.load_state_dict(dict(state), strict=True, assign=True)

    def pack(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return self.letters.weight.detach().clone().to(device, torch.float32)


class ToyEncoder:
    """What the runner needs of an encoder."""

    dim = WIDTH

    def __init__(self, letters: torch.Tensor, model_id: str) -> None:
        self.letters, self.model_id = letters, model_id

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode("ascii")) for text in texts]

    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.letters[tokens].mean(1)


def load(source: Source) -> ToyEncoder:
    with torch.device("meta"):
        model = Residues()
    return ToyEncoder(source.pack(model), source.id)


def bundle_of_three(output: Path, seed: int) -> None:
    """Make a bundle of mini's encoders and the toy, whose weights the seed decides; the head listens to all three."""
    from virnuc_dagster.models.bundle import open_bundle
    from virnuc_dagster.models.making import file_ref, make_bundle
    from virnuc_dagster.training.writing import copied

    mini = open_bundle("mini")

    def write_parts(folder: Path) -> dict[str, Any]:
        weights, head = folder / "toy.safetensors", folder / "head.safetensors"
        save_file({"letters.weight": torch.randn(128, WIDTH, generator=torch.Generator().manual_seed(seed))}, weights)
        toy = {"part": "toy", "id": "toy", "revision": "1", "dim": WIDTH, "config": {}, "weights": file_ref(weights)}
        state = load_file(mini.path(mini.spec.head.weights))
        more = torch.randn(mini.spec.head.hidden, WIDTH, generator=torch.Generator().manual_seed(0))
        state["hidden_layer.weight"] = torch.cat((state["hidden_layer.weight"], more), dim=1)
        save_file(state, head)
        return {
            **mini.spec.model_dump(mode="json", exclude={"golden", "fallback", "training"}),
            "name": output.name,
            "encoders": [*copied(folder, mini), toy],
            "head": {
                "features": mini.spec.head.features + WIDTH,
                "hidden": mini.spec.head.hidden,
                "weights": file_ref(head),
            },
        }

    make_bundle(output, write_parts)
