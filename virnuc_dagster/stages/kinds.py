"""What the checkpoint of each stage holds. Importing any stage registers these kinds with the checkpoint stores."""

from virnuc_dagster.checkpoints import Kind, register

_FLOATS = ("float32", "float16", "bfloat16")
_COUNT = (("int64",), 1)

#: Stage -> what its data file holds; `merged_features` are of older programs only.
KINDS: dict[str, Kind] = {
    "sequences": Kind(text=("description", "sequence")),
    "frames": Kind(text=("nucleotide", "protein")),
    "sequence_batch": Kind(
        tensors={"length": _COUNT, "windows": _COUNT, "open_windows": _COUNT, "frames": _COUNT, "ambiguous": _COUNT},
        free=("shards", "shard_rows", "window_length", "shard_size"),
    ),
    "dnabert_s_embeddings": Kind(tensors={"data": (_FLOATS, 2)}, older_ids="nucleotide"),
    "esm2_embeddings": Kind(tensors={"data": (_FLOATS, 2)}, older_ids="proteins"),
    "predictions": Kind(tensors={"data": (("float32",), 2)}, probabilities=True),
    "merged_features": Kind(tensors={"data": (("float32",), 2)}, optional=("labels",), older_ids="ids"),
}
register(KINDS)
