"""What a segment holds: one class per kind, all behind the same few methods.

A kind packs token matrices into named arrays and scores them again; files, ids and transactions are
someone else's. A new engine is a new row in KINDS.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lateint.index.errors import IndexCorrupt
from lateint.index.search import exact
from lateint.index.search.exact import Scores
from lateint.index.segments import SegmentFile
from lateint.index.tokens import IntArray, Tokens, to_half

Arrays = dict[str, npt.NDArray[Any]]


class Segment(Protocol):
    """A run of documents in one file. `documents` are their numbers (B,), ascending.

    A position is an index into `documents`; `positions` are ascending where they are many.
    """

    file: SegmentFile
    documents: IntArray
    offsets: IntArray  # (B + 1,) tokens

    def __init__(self, file: SegmentFile, dim: int) -> None: ...

    @staticmethod
    def pack(documents: IntArray, tokens: Tokens) -> Arrays:
        """The arrays of a new segment."""
        ...

    @staticmethod
    def bytes_per_token(dim: int) -> int:
        """What a token of this width takes in the file."""
        ...

    def scores(self, queries: Tokens, positions: IntArray | None) -> Scores:
        """MaxSim of the queries with the documents at `positions` (None: all), (Bq, positions)."""
        ...

    def tokens(self, positions: IntArray) -> Tokens:
        """The token matrices at `positions`, as well as the segment keeps them."""
        ...


class HalfSegment:
    """Kind "fp16": the tokens as float16, scored exactly."""

    def __init__(self, file: SegmentFile, dim: int) -> None:
        self.file = file
        self.documents: IntArray = file.read("documents")
        self.offsets: IntArray = file.read("offsets")
        shape = file.shape("values")
        if (
            self.documents.ndim != 1
            or self.offsets.shape != (len(self.documents) + 1,)
            or self.offsets[0] != 0
            or (np.diff(self.offsets) < 1).any()
            or (np.diff(self.documents) < 1).any()
            or shape != (self.offsets[-1], dim)
        ):
            raise IndexCorrupt(
                f"{file.path}: its documents, offsets and values do not fit together"
            )

    @staticmethod
    def pack(documents: IntArray, tokens: Tokens) -> Arrays:
        half = to_half(tokens, "document")
        return {"documents": documents, "offsets": half.offsets, "values": half.values}

    @staticmethod
    def bytes_per_token(dim: int) -> int:
        return 2 * dim

    def scores(self, queries: Tokens, positions: IntArray | None) -> Scores:
        chosen = np.arange(len(self.documents)) if positions is None else positions
        out = np.empty((len(queries), len(chosen)), np.float32)
        lengths = self.offsets[chosen + 1] - self.offsets[chosen]
        for first, last in exact.blocks(lengths, exact.rows(queries)):
            out[:, first:last] = exact.maxsim(queries, self._gather(chosen[first:last]))
        return out

    def tokens(self, positions: IntArray) -> Tokens:
        found = self._gather(positions)
        return Tokens(found.values.astype(np.float32), found.offsets)

    def _gather(self, positions: IntArray) -> Tokens:
        """float16 tokens at `positions`: a view where they follow each other, else a copy."""
        starts, stops = self.offsets[positions], self.offsets[positions + 1]
        offsets = np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int64)
        if (starts[1:] == stops[:-1]).all():
            values = (
                self.file.read("values", int(starts[0]), int(stops[-1])) if len(starts) else None
            )
            values = (
                np.zeros((0, self.file.shape("values")[1]), np.float16)
                if values is None
                else values
            )
        else:
            runs = [
                self.file.read("values", a, b)
                for a, b in zip(starts.tolist(), stops.tolist(), strict=True)
            ]
            values = np.concatenate(runs)
        return Tokens(values, offsets)


KINDS: dict[str, type[Segment]] = {"fp16": HalfSegment}
