"""How fast the encoders are, next to the reference programs and to the machine's own matrix products.

    python bench/encoders.py [--models 150M dnabert_s] [--frames 24] [--rounds 5] [--peers fair hf-eager hf-sdpa]

Random weights at the true shapes, one thread, CPU seconds, variants interleaved round by round, medians. ESM-2 frames
have 166 residues, in fair-esm's batches of 2,048 padded tokens; DNABERT-S frames have 90 to 120 tokens, one by one
in the reference (the same network, unpacked, float32). The peak is the best rate of packed products over the model's
own matrix shapes, 512 to 4,096 rows; the share counts the operations of the linears and of attention.

Peers run in a process of their own, with the C library's allocator as it is; `--kept all` gives them our setting for
freed memory (`embedding.memory`), `--kept none` takes it from our encoders too.
"""

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch

from virnuc_dagster.embedding.dnabert_s import DnabertSConfig, DnabertSModel
from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Encoder, Esm2Model, tokenize_protein
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
_FORK = multiprocessing.get_context("fork")  # this process itself computes nothing, so that nothing is inherited


def cpu_seconds(variant: Variant) -> float:
    """CPU seconds of one run."""
    before = time.process_time()
    variant()
    return time.process_time() - before


def serve(requests: Connection, build: Callable[[], dict[str, Variant]], *, kept: bool) -> None:
    """A process of its own: builds variants, says which, and times the one it is asked for."""
    start(kept=kept)
    variants = build()
    requests.send(list(variants))
    while name := requests.recv():
        requests.send(cpu_seconds(variants[name]))


def start(*, kept: bool) -> None:
    """Make a process ready: one thread, the seed, and what becomes of freed memory."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    random.seed(SEED)
    if kept:
        keep_freed_memory()


@contextmanager
def processes(builds: dict[str, Callable[[], dict[str, Variant]]], kept: str) -> Iterator[dict[str, Connection]]:
    """Processes for our variants and for the peers': variant -> the process that has it."""
    holders, running = {}, []
    for side, build in builds.items():
        ours_end, theirs = _FORK.Pipe()
        process = _FORK.Process(
            target=serve, args=(theirs, build), kwargs={"kept": kept == "all" or kept == side}, daemon=True
        )
        process.start()
        running.append((process, ours_end))
        holders |= dict.fromkeys(ours_end.recv(), ours_end)
    yield holders
    for process, ours_end in running:
        ours_end.send(None)
        process.join()


def interleaved_seconds(holders: dict[str, Connection], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each round of each variant, interleaved, after one round of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in holders}
    for round_ in range(rounds + 1):
        for name, holder in holders.items():
            holder.send(name)
            taken = holder.recv()
            if round_:
                seconds[name].append(taken)
    return seconds


def peak(shapes: list[tuple[int, int]], dtype: torch.dtype) -> float:
    """Best rate, operations a second, of packed products over (out, in) shapes and 512 to 4,096 rows."""
    best = 0.0
    for out, inner in shapes:
        linear = PackedLinear(torch.randn(out, inner) * 0.02, torch.randn(out), dtype, CPU)
        for rows in (512, 1024, 2048, 4096):
            x = torch.randn(rows, inner).to(dtype)
            times = [cpu_seconds(lambda x=x, linear=linear: linear(x)) for _ in range(6)]
            best = max(best, 2 * rows * out * inner / statistics.median(times[1:]))
    return best


def peaks_of(shapes: list[tuple[int, int]]) -> dict[str, float]:
    """The peak of each number format; in a process of its own, for what it does to memory cannot be undone."""
    start(kept=True)
    return {p: peak(shapes, getattr(torch, p)) for p in ("float32", "bfloat16")}


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


def esm2(name: str, frames: int, budget: int) -> dict[str, Variant]:
    """Our variants of an ESM-2."""
    layers, width, heads = ESM2[name]
    model = Esm2Model(Esm2Config(width, layers, heads, 4 * width))
    texts = proteins(frames)
    return {
        p: ours(Esm2Encoder(model.pack(getattr(torch, p), CPU), name, CPU), texts, budget)
        for p in ("float32", "bfloat16")
    }


def proteins(frames: int) -> list[str]:
    """Random proteins of a window's length."""
    return ["".join(random.choices("LAGVSERTIDPKQNFYMHWC", k=RESIDUES)) for _ in range(frames)]


def esm2_peers(name: str, frames: int, peers: list[str]) -> dict[str, Variant]:
    """The reference programs on as many frames of the same length."""
    import esm
    import transformers

    layers, width, heads = ESM2[name]
    texts, variants = proteins(frames), {}
    tokens = torch.tensor([tokenize_protein(text) for text in texts])
    if "fair" in peers:
        variants["fair-esm"] = fair_esm(esm.ESM2(layers, width, heads, alphabet="ESM-1b").eval(), texts)
    sizes = vars(Esm2Config(width, layers, heads, 4 * width))
    sizes |= {"position_embedding_type": "rotary", "pad_token_id": 1, "mask_token_id": 32}
    for kind in ("eager", "sdpa"):
        if f"hf-{kind}" in peers:
            published = transformers.EsmConfig(**sizes, attn_implementation=kind)
            network = transformers.EsmModel(published, add_pooling_layer=False).eval()
            variants[f"hf-{kind}"] = hugging_face(network, tokens)
    return variants


def dnabert_s(texts: list[str], budget: int, *, peer: bool) -> dict[str, Variant]:
    """Our variants of DNABERT-S, or the reference: one frame at a time, unpacked."""
    model = DnabertSModel(DnabertSConfig(**DNABERT_S)).eval()
    width = model.word_embeddings.embedding_dim
    if peer:
        return {"one-by-one": ours(_Tokens(model, width), texts, 1)}
    return {p: ours(_Tokens(model.pack(getattr(torch, p), CPU), width), texts, budget) for p in ("float32", "bfloat16")}


def work(name: str, options: argparse.Namespace) -> tuple[dict[str, Callable[[], dict[str, Variant]]], float, list]:
    """How to build the variants of each side, the operations of one run, and the matrix shapes of a model."""
    frames, budget = options.frames, options.token_budget
    if name != "dnabert_s":
        layers, width, _ = ESM2[name]
        operations = frames * (RESIDUES + 2) * layers * (24.0 * width * width + 4.0 * (RESIDUES + 2) * width)
        builds = {
            "ours": lambda: esm2(name, frames, budget),
            "peers": lambda: esm2_peers(name, frames, options.peers),
        }
        return builds, operations, [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    random.seed(SEED)
    lengths = [random.randint(90, 120) for _ in range(max(2, frames // 8))] * 8
    texts = [" ".join(str(random.randrange(5, 4096)) for _ in range(length)) for length in lengths]
    width, inner = DNABERT_S["hidden_size"], DNABERT_S["intermediate_size"]
    linear = 2.0 * (4 * width * width + 3 * width * inner)
    operations = sum(12 * n * (linear + 4.0 * n * width) for n in lengths)
    builds = {
        "ours": lambda: dnabert_s(texts, budget, peer=False),
        "peers": lambda: dnabert_s(texts, budget, peer=True),
    }
    return builds, operations, [(3 * width, width), (width, width), (inner, width), (width, inner)]


def compare(name: str, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Measure one model and yield a row a variant."""
    builds, operations, shapes = work(name, options)
    reference = "one-by-one" if name == "dnabert_s" else "fair-esm"
    with processes(builds, options.kept) as holders:
        seconds = interleaved_seconds(holders, options.rounds)
    with _FORK.Pool(1) as pool:
        peaks = pool.apply(peaks_of, (shapes,))
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
    parser.add_argument("--kept", choices=["ours", "all", "none"], default="ours", help="who keeps freed memory")
    options = parser.parse_args()
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
    facts = {"bench": "encoders", "machine": platform.processor() or platform.machine(), "kept": options.kept}
    print(json.dumps({**facts, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
