"""FDE: one vector for a whole token matrix, whose dot products follow MaxSim (MUVERA).

Dhulipala, Hadian, Jayaram, Lee and Mirrokni 2024, "MUVERA: Multi-Vector Retrieval via Fixed
Dimensional Encodings". Space is cut into 2^bits cells by random hyperplanes (SimHash). A query's
block for a cell is the sum of its tokens there, a document's the mean of its tokens there, so that
their dot product says how well the query's tokens meet the document's in the same cell. A cell that
a document has no token in takes the token whose cell differs in the fewest hyperplanes. Each block
is projected to fewer dimensions, and all is repeated with other hyperplanes; the blocks stand end
to end, and may at last be folded (count sketch) into a vector of a given size.

Knows token matrices and vectors, not documents' ids, segments or files. Needs no training: equal
settings give equal vectors, whatever the collection.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lateint.index.search.exact import blocks
from lateint.index.tokens import Tokens

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

MOST_BITS = 10
WIDEST = 1 << 16  # numbers in one vector
ROWS = 1 << 14  # tokens encoded together: bounds the memory of encoding
SCAN_BYTES = 1 << 20  # of vectors widened to float32 at once while scanning: they stay in cache


@dataclass(frozen=True)
class Fde:
    """How token matrices of width `dim` become vectors of `size` numbers.

    repetitions: independent cuts of space; more: dot products closer to MaxSim, longer vectors.
    bits: hyperplanes of a cut, 2^bits cells; more: finer cells (better for long documents), longer
    vectors. projection: dimensions of a cell's block; None keeps `dim`; more: less noise, longer
    vectors. final: numbers of the folded vector; None does not fold. seed: of all that is random.
    Raises ValueError for settings that make no vector.
    """

    dim: int
    repetitions: int = 20
    bits: int = 4
    projection: int | None = 8
    final: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("dim", 1, 4096),
            ("repetitions", 1, 1000),
            ("bits", 0, MOST_BITS),
            ("projection", 1, self.dim),
            ("final", 1, WIDEST),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("projection", "final"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"fde: {name} is {value!r}; wanted {low} to {high}")
        if self.size > WIDEST or self._whole > 8 * WIDEST:
            raise ValueError(
                f"fde: {self._whole} numbers a vector, {self.size} after folding; wanted at most "
                f"{8 * WIDEST} and {WIDEST}: lower repetitions, bits or projection, or fold (final)"
            )

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return self._whole if self.final is None else self.final

    def to_json(self) -> dict[str, Any]:
        """The settings, as keyword arguments."""
        return asdict(self)

    def encode_documents(self, documents: Tokens) -> F32:
        """(documents, size) float32: means of the tokens of each cell, empty cells filled."""
        return self._encode(documents, fill=True)

    def encode_queries(self, queries: Tokens) -> F32:
        """(queries, size) float32: sums of the tokens of each cell. Dot products with documents'
        vectors are on MaxSim's scale (the mean over the repetitions)."""
        return self._encode(queries, fill=False)

    @property
    def _block(self) -> int:
        return self.dim if self.projection is None else self.projection

    @property
    def _whole(self) -> int:
        return self.repetitions * (1 << self.bits) * self._block

    @cached_property
    def _planes(self) -> F32:
        """(dim, repetitions * bits): normals of the hyperplanes."""
        rng = np.random.default_rng([self.seed, 1])
        shape = (self.repetitions, self.bits, self.dim)
        return _matrix(rng.standard_normal(shape, np.float32).reshape(-1, self.dim).T)

    @cached_property
    def _projections(self) -> F32 | None:
        """(dim, repetitions * projection): random signs, scaled so that dot products stay."""
        if self.projection is None:
            return None
        signs = np.random.default_rng([self.seed, 2]).integers(
            0, 2, (self.repetitions * self.projection, self.dim), np.int8
        )
        return _matrix((2 * signs.T - 1) / np.sqrt(self.projection))

    @cached_property
    def _fold(self) -> tuple[npt.NDArray[np.int64], F32, npt.NDArray[np.int64], Any]:
        """Count sketch: columns in order of their place, signs in that order, starts, places."""
        rng = np.random.default_rng([self.seed, 3])
        places = rng.integers(0, self.final or 1, self._whole)
        signs = (2 * rng.integers(0, 2, self._whole, np.int8) - 1).astype(np.float32)
        order = np.argsort(places, kind="stable")
        used, starts = np.unique(places[order], return_index=True)
        return order, signs[order], starts, used

    @cached_property
    def _distances(self) -> npt.NDArray[np.uint8]:
        """(cells, cells): hyperplanes that lie between two cells."""
        cells = np.arange(1 << self.bits)
        between = (cells[:, None] ^ cells)[..., None] >> np.arange(max(self.bits, 1)) & 1
        return between.sum(axis=2).astype(np.uint8)

    def _encode(self, items: Tokens, fill: bool) -> F32:
        if len(items) and items.dim != self.dim:
            raise ValueError(f"fde: tokens are {items.dim} wide, wanted {self.dim}")
        out = np.empty((len(items), self.size), np.float32)
        for first, last in blocks(items.lengths, ROWS):
            whole = self._blocks(items.slice(first, last), fill)
            if self.final is not None:
                order, signs, starts, used = self._fold
                folded = np.add.reduceat(whole[:, order] * signs, starts, axis=1)
                whole = np.zeros((len(folded), self.final), np.float32)
                whole[:, used] = folded
            out[first:last] = whole
        if not fill:
            out /= self.repetitions
        return out

    def _blocks(self, items: Tokens, fill: bool) -> F32:
        """(items, repetitions * cells * block) before folding."""
        values = np.ascontiguousarray(items.values, np.float32)
        owner = np.repeat(np.arange(len(items)), items.lengths)
        above = (values @ self._planes > 0).reshape(len(values), self.repetitions, self.bits)
        cell = above @ (1 << np.arange(self.bits)) if self.bits else np.zeros(above.shape[:2], int)
        projected = values if self._projections is None else values @ self._projections
        cells, width = 1 << self.bits, self._block
        out = np.zeros((len(items), self.repetitions, cells, width), np.float32)
        for r in range(self.repetitions):
            rows = projected if self._projections is None else projected[:, r * width :][:, :width]
            key = owner * cells + cell[:, r]
            order = np.argsort(key, kind="stable")
            used, starts, counts = np.unique(key[order], return_index=True, return_counts=True)
            sums = np.add.reduceat(rows[order], starts, axis=0)
            if fill:
                sums /= counts[:, None]
                nearest = self._nearest(cell[:, r], items)  # (items, cells) rows of tokens
                out[:, r] = rows[nearest]
            out[used // cells, r, used % cells] = sums
        return out.reshape(len(items), -1)

    def _nearest(self, cell: npt.NDArray[np.int64], items: Tokens) -> npt.NDArray[np.int64]:
        """For each item and cell the token whose cell is nearest, the first among equals."""
        far = self._distances[cell].astype(np.int64)  # (N, cells)
        keyed = far * len(cell) + np.arange(len(cell))[:, None]
        return np.minimum.reduceat(keyed, items.offsets[:-1], axis=0) % len(cell)


def to_bytes(vectors: F32) -> tuple[I8, F32]:
    """Vectors (B, size) as int8 and a step each, (B,): vectors ~ int8 * step."""
    largest = np.abs(vectors).max(axis=1, initial=0)
    steps = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(vectors / steps[:, None]).astype(np.int8), steps


def scan(queries: F32, vectors: I8, steps: F32) -> F32:
    """Dot products (Q, B) of queries' vectors (Q, size) with documents' of `to_bytes`."""
    out = np.empty((len(queries), len(vectors)), np.float32)
    step = max(1, SCAN_BYTES // (4 * max(1, queries.shape[1])))
    for low in range(0, len(vectors), step):
        part = vectors[low : low + step]
        out[:, low : low + step] = queries @ part.astype(np.float32).T
    out *= steps
    return out


def _matrix(values: npt.NDArray[Any]) -> F32:
    return np.ascontiguousarray(values, np.float32)
