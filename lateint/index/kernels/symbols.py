"""Packed symbols of residuals and what they stand for, in numpy. See PACKING and TRELLIS in
`lateint.index.kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lateint.index.kernels import check

Array = npt.NDArray[Any]

PIECE = 16  # bytes of a token's packed symbols that are one stream of a trellis code


def packed_bytes(dim: int, nbits: int) -> int:
    """Bytes of a token's packed residual."""
    check.bits(nbits)
    return -(-dim * nbits // 8)


def pack(symbols: Array, nbits: int) -> Array:
    """Symbols u8 (N, D) -> u8 (N, packed_bytes). See PACKING."""
    check.bits(nbits)
    check.array("symbols", symbols, np.uint8, None, None)
    count, dim = symbols.shape
    per = 8 // nbits
    nbytes = packed_bytes(dim, nbits)
    if count and dim and int(symbols.max()) >> nbits:
        most = (1 << nbits) - 1
        raise ValueError(f"symbols: holds {int(symbols.max())}; {nbits} bits hold {most}")
    full = np.zeros((count, nbytes * per), np.uint8)
    full[:, :dim] = symbols
    planes = full.reshape(count, nbytes, per)
    packed = np.zeros((count, nbytes), np.uint8)
    for plane in range(per):
        packed |= planes[:, :, plane] << np.uint8(plane * nbits)
    return packed


def unpack(packed: Array, dim: int, nbits: int) -> Array:
    """The inverse of `pack`: u8 (N, dim)."""
    check.array("packed", packed, np.uint8, None, packed_bytes(dim, nbits))
    shifts = np.arange(8 // nbits, dtype=np.uint8) * np.uint8(nbits)
    planes = (packed[:, :, None] >> shifts) & np.uint8((1 << nbits) - 1)
    return np.ascontiguousarray(planes.reshape(len(packed), -1)[:, :dim])


def stream(nbits: int) -> int:
    """Dimensions that are one stream of a trellis code."""
    return PIECE * 8 // nbits


def levels_of(packed: Array, dim: int, levels: Array) -> Array:
    """The levels, (2^nbits,) or (2, 2^nbits), that packed symbols stand for, float32 (N, dim)."""
    nbits = levels.shape[-1].bit_length() - 1
    symbols = unpack(packed, dim, nbits)
    values = levels.astype(np.float32)
    if levels.ndim == 1:
        return np.asarray(values[symbols])
    lowest = symbols & np.uint8(1)
    one, two = np.zeros_like(lowest), np.zeros_like(lowest)  # of the symbols before
    one[:, 1:], two[:, 2:] = lowest[:, :-1], lowest[:, :-2]
    size = stream(nbits)
    one[:, ::size] = two[:, ::size] = two[:, 1::size] = 0
    return np.asarray(values[one, symbols ^ two])
