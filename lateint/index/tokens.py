"""Anything that holds token matrices -> `Tokens`: values (N, D) and offsets (B+1).

Knows shapes and numbers, not ids, files or models. Tensors of any framework are taken through their
own `numpy()`, so nothing is imported for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lateint.index.errors import BadTokens, IndexMismatch

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """The token matrices of B items end to end; item i is `values[offsets[i]:offsets[i+1]]`."""

    values: FloatArray  # (N, D) any float type
    offsets: IntArray  # (B + 1,) from 0 to N, never falling

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, item: int) -> FloatArray:
        """The matrix of one item, (n, D): a view."""
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} of {len(self)}")
        item %= len(self)
        return self.values[self.offsets[item] : self.offsets[item + 1]]

    def __iter__(self) -> Iterator[FloatArray]:
        return (self[item] for item in range(len(self)))

    @property
    def dim(self) -> int:
        return int(self.values.shape[1])

    @property
    def lengths(self) -> IntArray:
        """Tokens per item, (B,)."""
        return np.diff(self.offsets)

    def slice(self, first: int, last: int) -> Tokens:
        """Items first to last (exclusive), sharing the values."""
        offsets = self.offsets[first : last + 1]
        return Tokens(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def as_tokens(source: Any, dim: int, what: str) -> Tokens:
    """`source` as checked `Tokens` of width `dim`, float16 or float32.

    what: the name of an item in errors ("document").
    source: something with `.values` (N, D) and `.offsets` (B+1) (a `Ragged`), a sequence of 2-D
    arrays (n_i, D), also (1, n_i, D), or one 3-D array (B, T, D): numpy's, torch's of any device and
    dtype, or whatever has `__array__`. So what sentence-transformers' `encode_document`, PyLate's
    `encode` and colpali-engine's models return goes in as it is (see `without_padding`).
    Raises BadTokens (shape, type, NaN or infinite values, an item without tokens) or IndexMismatch
    (another width than the index has).
    """
    if not callable(getattr(source, "values", None)) and hasattr(source, "offsets"):
        values, offsets = _array(source.values, what), _offsets(source.offsets, what)
        if values.ndim != 2 or offsets[-1] != len(values):
            raise BadTokens(
                f"{what}s: values {values.shape} do not fit offsets that end at {offsets[-1]}; "
                "wanted values (N, D) and offsets from 0 to N"
            )
    elif hasattr(source, "ndim") and str(getattr(source, "dtype", "")) != "object":
        values, offsets = _dense(_array(source, what), what)
    elif isinstance(source, (Sequence, np.ndarray)) and not isinstance(source, (str, bytes)):
        values, offsets = _join(
            [_array(item, f"{what} {i}") for i, item in enumerate(source)], dim, what
        )
    else:
        raise BadTokens(
            f"{what}s: got {type(source).__name__}; wanted a Ragged, a list of 2-D arrays (tokens, "
            f"{dim}), or one 3-D array ({what}s, tokens, {dim})"
        )
    if values.shape[1] != dim and len(values):
        raise IndexMismatch(
            f"{what}s have tokens of width {values.shape[1]}, the index holds width {dim}; "
            "encode them with the model that the index was built with"
        )
    if values.dtype not in (np.float16, np.float32):
        with np.errstate(
            over="ignore"
        ):  # what leaves float32's range becomes infinite, and is refused
            values = values.astype(np.float32)
    tokens = Tokens(values, offsets)
    check_filled(tokens, what)
    _check_finite(tokens, what)
    return tokens


def without_padding(source: Any, tokens: Tokens) -> Tokens:
    """`tokens` without the rows of zeros at either end of each item, where they are padding.

    colpali-engine's models return (B, T, D) with zeros where an item has no token, at the left or at
    the right, and its users cut that into 2-D tensors: as tokens of a document such rows would lift
    every maximum to at least 0. A unit row is never zero. Where `source` has offsets (a `Ragged`), they
    say which rows are real, and all stay. Rows of zeros in a query add nothing to any score.
    """
    if hasattr(source, "offsets"):
        return tokens
    real: np.ndarray[Any, np.dtype[np.bool_]] = np.any(tokens.values, axis=1)
    if real.all():
        return tokens
    rows, lengths = [], []
    for first, last in zip(tokens.offsets[:-1].tolist(), tokens.offsets[1:].tolist(), strict=True):
        places = np.flatnonzero(real[first:last])
        start, end = (first + places[0], first + places[-1] + 1) if len(places) else (first, first)
        rows.append(np.arange(start, end))
        lengths.append(end - start)
    return Tokens(tokens.values[np.concatenate(rows)], np.cumsum([0, *lengths], dtype=np.int64))


def shortened(tokens: Tokens, width: int) -> Tokens:
    """The first `width` dimensions of tokens, each at the length that the whole token had: so unit
    rows stay unit rows, and query tokens keep their weight."""
    if tokens.dim == width:
        return tokens
    values = tokens.values.astype(np.float32, copy=False)
    kept = values[:, :width]
    whole, part = (np.linalg.norm(each, axis=1, keepdims=True) for each in (values, kept))
    return Tokens(kept * (whole / np.maximum(part, np.finfo(np.float32).tiny)), tokens.offsets)


def to_half(tokens: Tokens, what: str) -> Tokens:
    """The same tokens as float16; raises BadTokens where a value leaves its range (65,504)."""
    if tokens.values.dtype == np.float16:
        return tokens
    with np.errstate(over="ignore"):
        half = tokens.values.astype(np.float16)
    lost = ~np.isfinite(half).all(axis=1)
    if lost.any():
        item = int(np.searchsorted(tokens.offsets, int(lost.argmax()), side="right")) - 1
        raise BadTokens(
            f"{what} {item} has values beyond float16 (65,504); tokens are kept as unit rows: "
            "normalise them first"
        )
    return Tokens(half, tokens.offsets)


def _array(source: Any, what: str) -> FloatArray:
    if hasattr(source, "detach"):  # a torch tensor: on any device, with gradient, also bfloat16
        source = source.detach().cpu()
        if str(source.dtype) == "torch.bfloat16":  # numpy has no such type
            source = source.float()
        source = source.numpy()
    try:
        array = np.asarray(source)
    except ValueError as error:
        raise BadTokens(f"{what}: not a rectangular array of numbers ({error})") from None
    if array.dtype.kind in "iu":
        array = array.astype(np.float32)
    if array.dtype.kind != "f":
        raise BadTokens(f"{what}: got values of type {array.dtype}; wanted floating-point numbers")
    return array


def _offsets(source: Any, what: str) -> IntArray:
    source = source.detach().cpu().numpy() if hasattr(source, "detach") else source
    offsets = np.asarray(source)
    if offsets.ndim != 1 or not len(offsets) or offsets.dtype.kind not in "iu":
        raise BadTokens(
            f"{what}s: offsets are {offsets.dtype} {offsets.shape}; wanted integers (B + 1,)"
        )
    offsets = offsets.astype(np.int64)
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise BadTokens(f"{what}s: offsets must start at 0 and never fall")
    return offsets


def _dense(values: FloatArray, what: str) -> tuple[FloatArray, IntArray]:
    if values.ndim != 3:
        raise BadTokens(
            f"{what}s: got one array {values.shape}; wanted a list of 2-D arrays (tokens, width) "
            f"or one 3-D array; a single {what} goes in a list"
        )
    items, length, dim = values.shape
    return values.reshape(-1, dim), np.arange(items + 1, dtype=np.int64) * length


def _join(arrays: list[FloatArray], dim: int, what: str) -> tuple[FloatArray, IntArray]:
    # PyLate's encode(padding=True) returns (1, tokens, width) for each text
    arrays = [array[0] if array.ndim == 3 and len(array) == 1 else array for array in arrays]
    for i, array in enumerate(arrays):
        if array.ndim != 2:
            raise BadTokens(f"{what} {i}: got an array {array.shape}; wanted 2-D (tokens, {dim})")
        if array.shape[1] != dim:
            raise IndexMismatch(
                f"{what} {i} has tokens of width {array.shape[1]}, the index holds width {dim}; "
                "encode it with the model that the index was built with"
            )
    offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
    return (np.concatenate(arrays) if arrays else np.zeros((0, dim), np.float32)), offsets


def check_filled(tokens: Tokens, what: str) -> None:
    """Raises BadTokens where an item has no tokens."""
    empty = np.flatnonzero(tokens.lengths == 0)
    if len(empty):
        raise BadTokens(f"{what} {empty[0]} has no tokens ({len(empty)} such); leave it out")


def _check_finite(tokens: Tokens, what: str) -> None:
    finite = np.isfinite(tokens.values).all(axis=1)
    if not finite.all():
        item = int(np.searchsorted(tokens.offsets, int((~finite).argmax()), side="right")) - 1
        raise BadTokens(
            f"{what} {item} has NaN or infinite values; encode it again, or leave it out"
        )
