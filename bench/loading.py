"""How long a model of production size takes to be ready, and that it then works.

    python bench/loading.py [--model 650M] [--precision float32] [--rounds 3]

Makes random weights at the true shape in the published layout (Hugging Face safetensors, a DNABERT-S of one layer, a
pickled head), imports them with `virnuc models import`, verifies them, and loads them warm: digest, packing for the
processor and the golden frame included. Then one shard of 64 frames is embedded and scored. The peer is the plain way:
build the network, read the file, copy the weights in; it checks nothing. Wall seconds, interleaved, medians.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from encoders import ESM2
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from virnuc_dagster.classify.head import Head, predict
from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSModel
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Model, published_name
from virnuc_dagster.embedding.runner import embed
from virnuc_dagster.models.bundle import open_bundle
from virnuc_dagster.models.importing import Sources, check_loads, import_bundle

CPU = torch.device("cpu")
DNA = {
    "vocab_size": 9,
    "hidden_size": 768,
    "num_hidden_layers": 1,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}


def publish(folder: Path, name: str) -> tuple[Sources, Esm2Config]:
    """Write the three parts as their owners publish them."""
    torch.manual_seed(0)
    layers, width, heads = ESM2[name]
    config = Esm2Config(width, layers, heads, 4 * width)
    dna, protein, head = folder / "dnabert_s", folder / "esm2", folder / "500_model.safetensors"
    for part, network, settings in (
        (dna, DnabertSModel(DnabertSConfig(**DNA)), DNA),
        (protein, Esm2Model(config), vars(config)),
    ):
        part.mkdir(parents=True)
        (part / "config.json").write_text(json.dumps(settings))
        save_file(network.published_state(), part / "model.safetensors")
    vocabulary = {token: i for i, token in enumerate(("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", *"ACGT"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(dna / "tokenizer.json"))
    save_file({k: v.contiguous() for k, v in Head(768 + width, 512).state_dict().items()}, head)
    return Sources({"dnabert_s": (str(dna), None), "esm2": (str(protein), None)}, head), config


def plainly(config: Esm2Config, path: Path) -> Callable[[], object]:
    """The usual way: random initialisation, a full read, a copy."""

    def load() -> Esm2Model:
        model = Esm2Model(config)
        weights = load_file(path)
        for name, parameter in model.named_parameters():
            parameter.data.copy_(weights[published_name(name)])
        return model.eval()

    return load


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> int:
    """Import, verify, load, score; print a table and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="650M", choices=list(ESM2))
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="virnuc-bench-") as scratch:
        sources, config = publish(Path(scratch) / "published", options.model)
        output = Path(scratch) / "bundle"
        row = {"import_s": seconds(lambda: import_bundle(sources, window_length=500, output=output))}
        bundle = open_bundle(str(output))
        row["verify_s"] = seconds(lambda: check_loads(bundle))
        plain = plainly(config, bundle.path(bundle.spec.encoder("esm2").weights))
        loads: dict[str, list[float]] = {"load_s": [], "plain_s": []}
        for _ in range(options.rounds):
            loads["load_s"].append(seconds(lambda: bundle.load_encoder("esm2", CPU, options.precision)))
            loads["plain_s"].append(seconds(plain))
        row |= {name: statistics.median(values) for name, values in loads.items()}
        row["ratio"] = statistics.median(p / o for p, o in zip(loads["plain_s"], loads["load_s"], strict=True))
        encoders = {
            "dnabert_s": bundle.load_encoder("dnabert_s", CPU),
            "esm2": bundle.load_encoder("esm2", CPU, options.precision),
        }
        ids, texts = [str(i) for i in range(64)], (["ACGTTGCA" * 6] * 64, ["MKTAYIAKQRLVGE"] * 64)
        found = zip(encoders.items(), texts, strict=True)
        vectors = {part: embed(e, ids, t, token_budget=2048) for (part, e), t in found}
        scores = predict(bundle.load_head(CPU), vectors)
        assert scores.shape == (64, 2)
        assert torch.allclose(scores.sum(1), torch.ones(64))
    row = {name: round(value, 2) for name, value in row.items()}
    for name, value in row.items():
        print(f"{name:10} {value:8}")
    print(json.dumps({"bench": "loading", "model": options.model, "precision": options.precision, **row}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
