"""What the kernels accept: type, shape and bounds of every array, before a kernel touches it.

The arrays come out of files, so nothing is taken on trust. What can only be seen by reading all of
an array (codes, offsets) is checked by the kernels for the documents that they visit.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

NBITS = (1, 2, 4)
LEVEL_SPAN = 127  # largest level - smallest level: pairs of products then fit 16 bits everywhere
QUERY_SPAN = 127  # largest |q8|
MAX_DIM = 1024  # sums of D products stay exact in float32, which the reference multiplies in
MAX_TOKENS = 4096  # of one query

Array = npt.NDArray[Any]


def array(name: str, value: Any, dtype: Any, *shape: int | None) -> None:
    """`value` is a C-contiguous array of `dtype` and `shape` (None: any length), or ValueError."""
    want = np.dtype(dtype)
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name}: got {type(value).__name__}; wanted a numpy array of {want}")
    if value.dtype != want:
        raise ValueError(f"{name}: got {value.dtype}; wanted {want}")
    fits = value.ndim == len(shape) and all(
        wanted is None or wanted == got for wanted, got in zip(shape, value.shape, strict=True)
    )
    if not fits:
        text = ", ".join("any" if wanted is None else str(wanted) for wanted in shape)
        raise ValueError(f"{name}: got shape {value.shape}; wanted ({text})")
    if not value.flags.c_contiguous or not value.flags.aligned:
        raise ValueError(f"{name}: not contiguous in memory; pass numpy.ascontiguousarray of it")


def bits(nbits: int) -> None:
    if nbits not in NBITS:
        raise ValueError(f"nbits: got {nbits}; wanted 1, 2 or 4")


def width(dim: int) -> None:
    if not 1 <= dim <= MAX_DIM:
        raise ValueError(f"tokens are {dim} wide; wanted 1 to {MAX_DIM}")


def levels(value: Any) -> int:
    """Bits of a symbol: `value` is int8 (2^nbits,), or (2, 2^nbits) for a trellis code."""
    row = value.shape[-1] if isinstance(value, np.ndarray) and value.ndim else 0
    nbits = {2: 1, 4: 2, 16: 4}.get(row, 0)
    if not nbits:
        raise ValueError(f"levels: got {row} in a row; wanted an int8 array of 2, 4 or 16")
    array("levels", value, np.int8, *((2, row) if value.ndim == 2 else (row,)))
    low, high = int(value.min()), int(value.max())
    if high - low > LEVEL_SPAN:
        raise ValueError(f"levels: from {low} to {high}; wanted a span of at most {LEVEL_SPAN}")
    return nbits


def boundaries(value: Any, nbits: int) -> None:
    array("boundaries", value, np.float32, (1 << nbits) - 1)
    if not (np.diff(value) >= 0).all():
        raise ValueError("boundaries: must rise")


def selection(offsets: Any, positions: Any) -> None:
    """offsets i64 [B + 1] and positions i64 [n] or None; their values are the kernels' to check."""
    array("offsets", offsets, np.int64, None)
    if not len(offsets):
        raise ValueError("offsets: empty; wanted B + 1 numbers from 0 to the number of tokens")
    if positions is not None:
        array("positions", positions, np.int64, None)


def factor(value: Any, tokens: int) -> None:
    if value is not None:
        array("factor", value, np.float32, tokens)


def threads(count: int) -> int:
    """0 -> the cores this process may use."""
    if count < 0:
        raise ValueError(f"threads: got {count}; wanted 0 (all cores) or more")
    if count:
        return min(int(count), 256)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def points(points: Array, centroids: Array, half: Array) -> None:
    array("points", points, np.float32, None, None)
    width(points.shape[1])
    array("centroids", centroids, np.float32, None, points.shape[1])
    array("half", half, np.float32, len(centroids))
    if not len(centroids):
        raise ValueError("centroids: none; wanted at least one")


def scale(scale: Array, dim: int) -> None:
    array("scale", scale, np.float32, dim)
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError("scale: must be finite and above 0")


def table(table: Array) -> None:
    array("table", table, np.uint8, None, None)
    if table.shape[1] != 16 and (table.shape[1] % 32 or not table.shape[1]):
        raise ValueError(
            f"table: rows of {table.shape[1]} bytes; wanted 16 or a multiple of 32 (see `table`)"
        )
