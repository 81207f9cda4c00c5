"""What a segment holds: one class per kind, all behind the same few methods.

A kind packs token matrices into named arrays and scores them again; files, ids and transactions are
someone else's. A new engine is a new row in KINDS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from lateint.index import kernels
from lateint.index.codecfile import CodecFile
from lateint.index.errors import IndexCorrupt
from lateint.index.search import exact
from lateint.index.search.exact import Scores
from lateint.index.segments import Arrays, SegmentFile
from lateint.index.tokens import FloatArray, IntArray, Tokens, to_half

ROWS = 1 << 14  # tokens looked at together while verifying


class Segment(Protocol):
    """A run of documents in one file. `documents` are their numbers (B,), ascending.

    A position is an index into `documents`; `positions` are ascending where they are many.
    """

    kind: str
    file: SegmentFile
    documents: IntArray
    offsets: IntArray  # (B + 1,) tokens

    def __init__(self, file: SegmentFile, width: int, codec: CodecFile | None) -> None: ...

    @property
    def codec(self) -> CodecFile | None:
        """What compressed it."""
        ...

    @property
    def exact(self) -> bool:
        """Whether it holds the tokens as they came, in float16."""
        ...

    def half(self, queries: Tokens, positions: IntArray | None, threads: int) -> Scores:
        """Exact MaxSim of the queries with the documents at `positions` (None: all), (Bq, n), where
        it is `exact`."""
        ...

    def rows(self, rows: IntArray) -> FloatArray:
        """Tokens (n, width), as well as the segment keeps them; `rows` ascend."""
        ...

    def taken(self, positions: IntArray) -> Arrays:
        """The arrays of the documents at `positions` alone, for `joined`; nothing is decoded."""
        ...

    @staticmethod
    def joined(parts: Sequence[Arrays], codec: CodecFile | None) -> Arrays:
        """The arrays of a new segment from those that `taken` gave, in order."""
        ...

    def check(self) -> Iterator[str]:
        """What is wrong inside, its bytes being as they were written."""
        ...


class HalfSegment:
    """Kind "fp16": the tokens as float16, scored exactly."""

    kind = "fp16"
    exact = True

    def __init__(self, file: SegmentFile, width: int, codec: CodecFile | None) -> None:
        self.file = file
        self.codec = None
        self.documents, self.offsets = frame(file)
        file.expect("values", np.float16, int(self.offsets[-1]), width)

    @staticmethod
    def pack(documents: IntArray, tokens: Tokens) -> Arrays:
        """The arrays of a new segment."""
        half = to_half(tokens, "document")
        return {"documents": documents, "offsets": half.offsets, "values": half.values}

    @staticmethod
    def bytes_per_token(width: int) -> int:
        return 2 * width

    def half(self, queries: Tokens, positions: IntArray | None, threads: int) -> Scores:
        return half_scores(self, "values", queries, positions, threads)

    def rows(self, rows: IntArray) -> FloatArray:
        values: FloatArray = self.file.touch("values", rows, rows + 1)[rows]
        return values

    def taken(self, positions: IntArray) -> Arrays:
        rows, offsets = token_rows(self, positions)
        return {
            "documents": self.documents[positions],
            "offsets": offsets,
            "values": self.rows(rows),
        }

    @staticmethod
    def joined(parts: Sequence[Arrays], codec: CodecFile | None) -> Arrays:
        return join(parts)

    def check(self) -> Iterator[str]:
        yield from not_finite(self.file, "values")


def frame(file: SegmentFile) -> tuple[IntArray, IntArray]:
    """The documents and offsets of a segment. Raises IndexCorrupt unless they fit together."""
    documents: IntArray = file.read("documents")
    offsets: IntArray = file.read("offsets")
    if (
        documents.dtype != np.int64
        or offsets.dtype != np.int64
        or documents.ndim != 1
        or not len(documents)
        or offsets.shape != (len(documents) + 1,)
        or offsets[0] != 0
        or (offsets[1:] <= offsets[:-1]).any()
        or (documents[1:] <= documents[:-1]).any()
    ):
        raise IndexCorrupt(f"{file.path}: its documents and offsets do not fit together")
    return documents, offsets


def half_scores(
    segment: Segment, name: str, queries: Tokens, positions: IntArray | None, threads: int
) -> Scores:
    """Exact MaxSim of queries with the float16 tokens in the array `name`, (Bq, n)."""
    offsets = segment.offsets
    if positions is None:
        values = segment.file.read(name)
    else:
        values = segment.file.touch(name, offsets[positions], offsets[positions + 1])
    count = len(segment.documents) if positions is None else len(positions)
    out = np.empty((len(queries), count), np.float32)
    if values.shape[1] > kernels.check.MAX_DIM:  # wider than the kernels: in numpy
        chosen = np.arange(count) if positions is None else positions
        for first, last in exact.blocks(np.diff(offsets)[chosen], exact.rows(queries)):
            rows, ends = token_rows(segment, chosen[first:last])
            out[:, first:last] = exact.maxsim(queries, Tokens(values[rows], ends))
        return out
    with sound(segment.file):
        for row, query in zip(out, queries, strict=True):
            asked = np.ascontiguousarray(query, np.float32)
            row[:] = kernels.half(asked, values, offsets, positions, threads=threads)
    return out


def token_rows(segment: Segment, positions: IntArray) -> tuple[IntArray, IntArray]:
    """(rows, offsets): the tokens of the documents at `positions`, and where each document's begin
    and end among them."""
    starts = segment.offsets[positions]
    lengths = segment.offsets[positions + 1] - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1]), offsets


def tokens_at(segment: Segment, positions: IntArray) -> Tokens:
    """The token matrices at `positions`, as well as the segment keeps them, float32."""
    rows, offsets = token_rows(segment, positions)
    return Tokens(segment.rows(rows).astype(np.float32, copy=False), offsets)


def join(parts: Sequence[Arrays]) -> Arrays:
    """Arrays of several runs of documents end to end."""
    joined = {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0]
        if name != "offsets"
    }
    lengths = np.concatenate([np.diff(part["offsets"]) for part in parts])
    joined["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return joined


def not_finite(file: SegmentFile, name: str) -> Iterator[str]:
    """Whether an array has what a token never has."""
    array = file.read(name)
    for first in range(0, len(array), ROWS):
        if not np.isfinite(array[first : first + ROWS]).all():
            yield f"{file.path}: {name} has NaN or infinite numbers"
            return


@contextmanager
def sound(file: SegmentFile) -> Iterator[None]:
    """The kernels' complaints about arrays of this file as IndexCorrupt."""
    try:
        yield
    except ValueError as error:
        raise IndexCorrupt(f"{file.path}: {error}") from error
