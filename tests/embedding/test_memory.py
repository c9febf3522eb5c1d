"""Memory: blocks that were freed are used again, and a real shortage makes batches smaller, not results wrong."""

import re
import subprocess
import sys
import textwrap

import pytest

_FAULTS = """
    import resource, torch
    from virnuc_dagster.embedding.memory import keep_freed_memory

    def faults(blocks):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(blocks):
            torch.ones(64, 2**18)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    plain = faults(20)
    assert keep_freed_memory()
    faults(60)  # glibc re-uses a block once its caches of small remainders are full: after eight, rarely after more
    print(plain, faults(20))
"""

_SHARDS = """
    import torch
    from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Encoder, Esm2Model
    from virnuc_dagster.embedding.memory import keep_freed_memory
    from virnuc_dagster.embedding.runner import embed

    def held():
        return {line.split(":")[0]: int(line.split()[1]) // 1024 for line in open("/proc/self/status") if "kB" in line}

    AMINO_ACIDS = str.maketrans("0123456789", "ACDEFGHIKL")
    keep_freed_memory()
    model = Esm2Model(Esm2Config(256, 1, 4, 1024)).pack(torch.float32, torch.device("cpu"))
    encoder = Esm2Encoder(model, "small", torch.device("cpu"))
    before = held()["VmRSS"]
    for shortest in range(100, 130, 5):
        texts = [f"{frame:03}".translate(AMINO_ACIDS) + "MKTAYIAKQR" * 15 for frame in range(240)]
        texts = [text[: shortest + frame % 3] for frame, text in enumerate(texts)]
        embed(encoder, list(map(str, range(240))), texts, token_budget=10_000)
    print(held()["VmHWM"] - before, held()["VmRSS"] - before)
"""

_SHORTAGE = """
    import resource, torch
    from virnuc_dagster.embedding.esm2 import Esm2Config, Esm2Encoder, Esm2Model
    from virnuc_dagster.embedding.memory import keep_freed_memory
    from virnuc_dagster.embedding.runner import embed

    if KEPT:
        keep_freed_memory()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Esm2Model(Esm2Config(256, 2, 4, 1024)).pack(torch.PRECISION, torch.device("cpu"))
    encoder = Esm2Encoder(model, "small", torch.device("cpu"))
    texts = ["MKTAYIAKQR" * 16 + "ACDEFGHIKLMNPQRSTVWY"[i % 20] + "LAGV"[i // 20] for i in range(80)]
    ids = [str(i) for i in range(80)]
    whole = embed(encoder, ids, texts, token_budget=400)

    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 40 * 2**20,) * 2)
    told = []
    found = embed(encoder, ids, texts, token_budget=100_000, on_reduced=told.append)
    assert (found - whole).abs().max() <= TOLERANCE, (found - whole).abs().max()
    print(*told)
"""


def run(code: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def libc_is_glibc() -> bool:
    import platform

    return platform.libc_ver()[0] == "glibc"


@pytest.mark.full  # it measures what an allocator does with its blocks, which is nobody's promise
@pytest.mark.skipif(not libc_is_glibc(), reason="only glibc has the settings")
def test_freed_blocks_are_used_again():
    plain, kept = run(_FAULTS)

    assert plain > 10_000
    assert kept < plain / 10


@pytest.mark.full  # as above
@pytest.mark.skipif(not (libc_is_glibc() and sys.platform == "linux"), reason="reads what Linux says is used")
def test_a_worker_does_not_hold_more_with_every_shard():
    peak, held = run(_SHARDS)

    assert peak > 100, "no shard needed memory worth giving back"
    assert held < peak / 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space by what Linux says is used")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-5), ("bfloat16", 5e-2)])
@pytest.mark.parametrize("kept", [False, True], ids=["plain", "kept"])
def test_a_real_shortage_of_memory_makes_batches_smaller(precision, tolerance, kept):
    """Also where freed blocks had been kept: they are given back, for oneDNN maps memory for the code of new shapes."""
    changes = {"PRECISION": precision, "TOLERANCE": str(tolerance), "KEPT": str(kept)}
    told = run(re.sub("|".join(changes), lambda found: changes[found[0]], _SHORTAGE))

    assert told, "80 frames of 164 tokens fitted into 40 MiB"
    assert told == sorted(told, reverse=True)
    assert told[-1] >= 164 * 8, "what does not fit is freed blocks, not batches"
