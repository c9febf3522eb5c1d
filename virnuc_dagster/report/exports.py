"""Stored results as files for other tools: one writer a format, each fed shard by shard and within bounded memory.

Only the ids are held whole, by the formats that must know them first. Libraries are imported where they are used: those
of `parquet` and `h5ad` are optional.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from virnuc_dagster.errors import VirnucError, typed_os_errors
from virnuc_dagster.files import rename, temporary_file
from virnuc_dagster.report.tables import fasta

#: Name of the entry in a file's own metadata that holds stage, batch and provenance as JSON.
METADATA = "virnuc"


@dataclass(frozen=True)
class Matrix:
    """A result of N frames and D columns.

    Attributes:
        columns: Names of the D columns.
        ids: All N frame ids.
        parts: Their values in the same order, float32 (n, D) each; can be gone through once.
        facts: Where it comes from.
    """

    columns: tuple[str, ...]
    ids: list[str]
    parts: Iterable[npt.NDArray[np.float32]]
    facts: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns, N and D."""
        return len(self.ids), len(self.columns)

    def batches(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        """Yield ids and values, part by part."""
        done = 0
        for part in self.parts:
            yield self.ids[done : done + len(part)], part
            done += len(part)
        if done != len(self.ids):
            raise AssertionError(f"{len(self.ids)} ids, {done} rows")


@dataclass(frozen=True)
class Texts:
    """Sequences with a header each."""

    records: Iterable[tuple[str, str]]


def frame_parts(frame_id: str) -> tuple[str, str, str]:
    """Split a frame id into sequence id, window id and frame.

    >>> frame_parts("contig_1_chunk_12R3")
    ('contig_1', 'contig_1_chunk_12', 'R3')
    """
    window_id = frame_id[:-2]
    return window_id.rsplit("_chunk_", 1)[0], window_id, frame_id[-2:]


#: Extra of this package -> what it brings.
EXTRAS = {"parquet": "pyarrow", "anndata": "anndata"}
_OWNER = ("sequence_id", "window_id", "frame")


def write_tsv(matrix: Matrix, file: BinaryIO) -> None:
    """Write a line a frame: id, then the values as the shortest text that reads back as the same float32."""
    file.write(("\t".join(("id", *matrix.columns)) + "\n").encode())
    for ids, values in matrix.batches():
        for frame_id, row in zip(ids, values, strict=True):
            file.write((frame_id + "\t" + "\t".join(map(str, row)) + "\n").encode())


def write_safetensors(matrix: Matrix, file: BinaryIO) -> None:
    """Write `data` (N, D) float32, and the ids as JSON under `ids` in the metadata.

    The library writes from memory only; the format is a header and the bytes (safetensors, "Format").
    """
    rows, columns = matrix.shape
    header = {
        "__metadata__": {"ids": json.dumps(matrix.ids), METADATA: json.dumps(matrix.facts)},
        "data": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, rows * columns * 4]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, values in matrix.batches():
        file.write(np.ascontiguousarray(values, "<f4").data)


def write_parquet(matrix: Matrix, file: BinaryIO) -> None:
    """Write a row a frame, a row group a shard: id, sequence_id, window_id, frame, and the values.

    Two named columns for the scores; one column `embedding` of fixed-size lists for embeddings.
    """
    arrow, parquet = _optional("pyarrow", "parquet"), _optional("pyarrow.parquet", "parquet")
    named = matrix.facts["stage"] == "predictions"
    width = len(matrix.columns)
    values = [(name, arrow.float32()) for name in matrix.columns]
    values = values if named else [("embedding", arrow.list_(arrow.float32(), width))]
    schema = arrow.schema(
        [(name, arrow.string()) for name in ("id", *_OWNER)] + values, metadata={METADATA: json.dumps(matrix.facts)}
    )
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for ids, part in matrix.batches():
            owners = list(zip(*map(frame_parts, ids), strict=True)) or [(), (), ()]
            flat = np.ascontiguousarray(part).reshape(-1)
            data = list(part.T) if named else [arrow.FixedSizeListArray.from_arrays(arrow.array(flat), width)]
            arrays = [arrow.array(column) for column in (ids, *map(list, owners))] + [arrow.array(c) for c in data]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


def write_h5ad(matrix: Matrix, path: Path) -> None:
    """Write an AnnData file: `X` (N, D), a row of `obs` a frame, `uns["virnuc"]` says where it comes from.

    The library writes everything but `X`; `X` is then filled shard by shard, as its format says
    (anndata, "On-disk format", dense arrays).
    """
    anndata, h5py, pandas = (_optional(name, "anndata") for name in ("anndata", "h5py", "pandas"))
    owners = [frame_parts(frame_id) for frame_id in matrix.ids]
    frame = pandas.DataFrame(owners, columns=list(_OWNER), index=pandas.Index(matrix.ids, name="id"), dtype=str)
    table = anndata.AnnData(
        obs=frame, var=pandas.DataFrame(index=list(matrix.columns)), uns={METADATA: json.dumps(matrix.facts)}
    )
    table.write_h5ad(path)
    with h5py.File(path, "r+") as store:
        if "X" in store:
            del store["X"]
        data = store.create_dataset("X", matrix.shape, "<f4")
        data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        done = 0
        for _, values in matrix.batches():
            data[done : done + len(values)] = values
            done += len(values)


def _h5ad_bytes(matrix: Matrix) -> int:
    """Estimate space for an AnnData file, on the safe side: values, four texts a row of twice its id, structure."""
    rows, columns = matrix.shape
    return 4 * rows * columns + sum(3 * len(name) + 4 * 48 for name in matrix.ids) + 256 * columns + 2**18


def write_fasta(texts: Texts, file: BinaryIO) -> None:
    """Write a record a sequence, 60 letters a line."""
    for header, text in texts.records:
        file.write(fasta(header, text).encode())


WRITERS: dict[str, Callable[[Any, BinaryIO], None]] = {
    "parquet": write_parquet,
    "safetensors": write_safetensors,
    "tsv": write_tsv,
    "fasta": write_fasta,
}


def export(content: Any, kind: str, target: Path) -> None:
    """Write a file, which appears when it is complete.

    Args:
        content: A `Matrix`, for `fasta` `Texts`.
        kind: A format of `WRITERS`, or `h5ad`.
        target: The file.

    Raises:
        VirnucError: An optional library is missing.
        NoSpaceError, StorageError: The disk refused.
    """
    write = WRITERS.get(kind)
    with temporary_file(target, lambda file: write and write(content, file)) as path:
        if write is None:  # HDF5 wants a name of its own to write to, and does not sync
            with typed_os_errors(target, lambda: _h5ad_bytes(content)), path.open("r+b") as file:
                # HDF5 crashes the process when the disk fills up under it.
                os.posix_fallocate(file.fileno(), 0, _h5ad_bytes(content))
                write_h5ad(content, path)
                os.fsync(file.fileno())
        rename(path, target)


def _optional(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise VirnucError(
            f"this format needs the package {module.split('.')[0]}, which is not installed",
            hint=f"pip install {EXTRAS[extra]} (the extra `{extra}` of virnuc-dagster)",
            package=module,
        ) from error
