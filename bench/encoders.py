"""How fast the encoders are, next to the reference programs and to the machine's own matrix products.

    python bench/encoders.py [--models 150M dnabert_s] [--frames 24] [--rounds 5] [--peers fair hf-eager hf-sdpa]

Random weights at the true shapes, one thread, CPU seconds, variants interleaved round by round, medians. ESM-2 frames
have 166 residues, in fair-esm's batches of 2,048 padded tokens; DNABERT-S frames have 90 to 120 tokens, one by one
in the reference (the same network, unpacked, float32). The peak is the best rate of packed products over the model's
own matrix shapes, 512 to 4,096 rows; the share counts the operations of the linears and of attention.
"""

import argparse
import gc
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch

from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSModel
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Encoder, Esm2Model
from virnuc_dagster.embedding.memory import keep_freed_memory
from virnuc_dagster.embedding.packed import PackedLinear
from virnuc_dagster.embedding.runner import embed

CPU = torch.device("cpu")
ESM2 = {"8M": (6, 320, 20), "35M": (12, 480, 20), "150M": (30, 640, 20), "650M": (33, 1280, 20)}
DNABERT_S = {
    "vocab_size": 4096,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
RESIDUES, REFERENCE_TOKENS, SEED = 166, 2048, 20
Variant = Callable[[], object]


def median_seconds(variants: dict[str, Variant], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each round of each variant, interleaved, after one round of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, variant in variants.items():
            before = time.process_time()
            variant()
            if round_:
                seconds[name].append(time.process_time() - before)
    return seconds


def peak(shapes: list[tuple[int, int]], dtype: torch.dtype) -> float:
    """Best rate, operations a second, of packed products over (out, in) shapes and 512 to 4,096 rows."""
    best = 0.0
    for out, inner in shapes:
        linear = PackedLinear(torch.randn(out, inner) * 0.02, torch.randn(out), dtype, CPU)
        for rows in (512, 1024, 2048, 4096):
            x = torch.randn(rows, inner).to(dtype)
            timed = median_seconds({"x": lambda x=x, linear=linear: linear(x)}, 5)
            best = max(best, 2 * rows * out * inner / statistics.median(timed["x"]))
    return best


class _Tokens:
    """Encoder whose texts are token ids in words; DNABERT-S without its tokeniser."""

    def __init__(self, model: Callable[[torch.Tensor], torch.Tensor], width: int) -> None:
        self.model, self.dim, self.model_id = model, width, "dnabert_s"

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [[int(word) for word in text.split()] for text in texts]

    @torch.inference_mode()
    def pool(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(tokens).mean(dim=1)


def ours(encoder: object, texts: list[str], budget: int) -> Variant:
    """Our encoder, through the runner."""
    ids = [str(i) for i in range(len(texts))]
    return lambda: embed(encoder, ids, texts, token_budget=budget)  # type: ignore[arg-type]


def fair_esm(model: torch.nn.Module, proteins: list[str]) -> Variant:
    """The reference program's way: padded batches of at most 2,048 tokens."""
    convert, size = model.alphabet.get_batch_converter(), REFERENCE_TOKENS // (RESIDUES + 2)

    @torch.no_grad()
    def run() -> None:
        for i in range(0, len(proteins), size):
            _, _, tokens = convert([("", protein) for protein in proteins[i : i + size]])
            model(tokens, repr_layers=[model.num_layers])

    return run


def hugging_face(model: torch.nn.Module, tokens: torch.Tensor) -> Variant:
    """Hugging Face's encoder on the same batches."""
    size = REFERENCE_TOKENS // tokens.shape[1]

    @torch.no_grad()
    def run() -> None:
        for i in range(0, len(tokens), size):
            model(tokens[i : i + size], attention_mask=torch.ones_like(tokens[i : i + size]))

    return run


def esm2_variants(name: str, frames: int, budget: int, peers: list[str]) -> tuple[dict[str, Variant], float, list]:
    """Variants, operations of one run, and matrix shapes of an ESM-2."""
    import esm
    import transformers

    layers, width, heads = ESM2[name]
    config = Esm2Config(width, layers, heads, 4 * width)
    model = Esm2Model(config)
    proteins = ["".join(random.choices("LAGVSERTIDPKQNFYMHWC", k=RESIDUES)) for _ in range(frames)]
    packed = {p: Esm2Encoder(model.pack(getattr(torch, p), CPU), name, CPU) for p in ("float32", "bfloat16")}
    tokens = torch.tensor(packed["float32"].tokenize(proteins))
    del model
    gc.collect()
    variants = {p: ours(encoder, proteins, budget) for p, encoder in packed.items()}
    if "fair" in peers:
        variants["fair-esm"] = fair_esm(esm.ESM2(layers, width, heads, alphabet="ESM-1b").eval(), proteins)
    sizes = vars(config) | {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 32}
    for kind in ("eager", "sdpa"):
        if f"hf-{kind}" in peers:
            published = transformers.EsmConfig(**sizes, attn_implementation=kind)
            network = transformers.EsmModel(published, add_pooling_layer=False).eval()
            variants[f"hf-{kind}"] = hugging_face(network, tokens)
    operations = frames * (RESIDUES + 2) * layers * (24.0 * width * width + 4.0 * (RESIDUES + 2) * width)
    return variants, operations, [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]


def dnabert_s_variants(frames: int, budget: int) -> tuple[dict[str, Variant], float, list]:
    """Variants, operations of one run, and matrix shapes of DNABERT-S."""
    model = DnabertSModel(DnabertSConfig(**DNABERT_S)).eval()
    lengths = [random.randint(90, 120) for _ in range(max(2, frames // 8))] * 8
    texts = [" ".join(str(random.randrange(5, 4096)) for _ in range(length)) for length in lengths]
    width, inner = model.word_embeddings.embedding_dim, DNABERT_S["intermediate_size"]
    variants = {
        p: ours(_Tokens(model.pack(getattr(torch, p), CPU), width), texts, budget) for p in ("float32", "bfloat16")
    }
    variants["one-by-one"] = ours(_Tokens(model, width), texts, 1)
    linear = 2.0 * (4 * width * width + 3 * width * inner)
    operations = sum(12 * n * (linear + 4.0 * n * width) for n in lengths)
    return variants, operations, [(3 * width, width), (width, width), (inner, width), (width, inner)]


def compare(name: str, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Measure one model and yield a row a variant."""
    torch.manual_seed(SEED)
    random.seed(SEED)
    if name == "dnabert_s":
        variants, operations, shapes = dnabert_s_variants(options.frames, options.token_budget)
        reference = "one-by-one"
    else:
        variants, operations, shapes = esm2_variants(name, options.frames, options.token_budget, options.peers)
        reference = "fair-esm"
    peaks = {p: peak(shapes, getattr(torch, p)) for p in ("float32", "bfloat16")}
    seconds = median_seconds(variants, options.rounds)
    for variant, rounds in seconds.items():
        row: dict[str, object] = {"model": name, "variant": variant, "cpu_s": round(statistics.median(rounds), 3)}
        if reference in seconds:
            ratios = [slow / own for slow, own in zip(seconds[reference], rounds, strict=True)]
            row |= {"ratio": round(statistics.median(ratios), 2), "range": [round(f(ratios), 2) for f in (min, max)]}
        if variant in peaks:
            row["gflops"] = round(operations / statistics.median(rounds) / 1e9, 1)
            row["peak_gflops"] = round(peaks[variant] / 1e9, 1)
            row["share_of_peak"] = round(operations / statistics.median(rounds) / peaks[variant], 3)
        yield row


def main() -> int:
    """Run the comparison; print a table and, last, one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["8M", "150M", "dnabert_s"], choices=[*ESM2, "dnabert_s"])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--token-budget", type=int, default=2048)
    parser.add_argument("--peers", nargs="*", default=["fair", "hf-eager", "hf-sdpa"])
    parser.add_argument("--plain-malloc", action="store_true", help="leave the C library's allocator as it is")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.plain_malloc:
        keep_freed_memory()
    rows = []
    print(f"{'model':10} {'variant':12} {'CPU s':>8} {'x ref':>6} {'range':>12} {'GFLOP/s':>8} {'of peak':>8}")
    for name in options.models:
        for row in compare(name, options):
            rows.append(row)
            span = "-".join(map(str, row.get("range", [])))
            print(
                f"{name:10} {row['variant']:12} {row['cpu_s']:8} {row.get('ratio', ''):>6} {span:>12}"
                f" {row.get('gflops', ''):>8} {row.get('share_of_peak', ''):>8}",
                flush=True,
            )
        gc.collect()
    print(json.dumps({"bench": "encoders", "machine": platform.processor() or platform.machine(), "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
