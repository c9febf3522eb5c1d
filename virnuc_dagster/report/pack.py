"""Columns of numbers and text as one block inside an HTML page: a header in JSON, then typed arrays, zlib, base64.

The block's alphabet is that of base64, so nothing in it, however hostile the ids, can be taken for markup.
`static/data.js` reads it.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 8


def pack(facts: Mapping[str, Any], columns: Mapping[str, npt.NDArray[Any]]) -> str:
    """Pack into one block of base64 text; equal contents give equal text.

    Args:
        facts: Anything JSON can hold.
        columns: Name -> array of one dimension.
    """
    arrays, table, offset = [], {}, 0
    for name, column in columns.items():
        data = np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes()
        table[name] = {"dtype": column.dtype.name, "offset": offset, "length": len(column)}
        arrays.append(data + bytes(-len(data) % _ALIGNMENT))
        offset += len(arrays[-1])
    # ASCII, so that half a surrogate pair in a header is carried as it is.
    header = json.dumps({"facts": facts, "columns": table}, separators=(",", ":")).encode("ascii")
    header += b" " * (-(len(header) + 4) % _ALIGNMENT)
    whole = len(header).to_bytes(4, "little") + header + b"".join(arrays)
    return base64.b64encode(zlib.compress(whole, 6)).decode("ascii")
