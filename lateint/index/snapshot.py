"""One committed state of an index, as searching sees it: mapped segments and which documents live.

Knows numbers of documents, not their ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lateint.index.errors import IndexCorrupt
from lateint.index.kinds import Segment
from lateint.index.manifest import Manifest
from lateint.index.search.exact import Scores
from lateint.index.tokens import IntArray, Tokens


@dataclass(frozen=True)
class Part:
    """Documents of one segment; `positions` None: all of it."""

    segment: Segment
    positions: IntArray | None

    @property
    def documents(self) -> IntArray:
        numbers = self.segment.documents
        return numbers if self.positions is None else numbers[self.positions]


@dataclass(frozen=True)
class Snapshot:
    """Segments in the order of their documents' numbers, which do not overlap."""

    manifest: Manifest
    segments: dict[int, Segment]  # by number
    tombstones: IntArray  # ascending

    @cached_property
    def live(self) -> list[Part]:
        """What is not deleted; segments of deleted documents only are left out."""
        parts = []
        for segment in self.segments.values():
            low, high = np.searchsorted(self.tombstones, segment.documents[[0, -1]] + [0, 1])
            if low == high:
                parts.append(Part(segment, None))
                continue
            alive = ~np.isin(segment.documents, self.tombstones[low:high], assume_unique=True)
            if alive.any():
                parts.append(Part(segment, np.flatnonzero(alive)))
        return parts

    def select(self, documents: IntArray) -> list[Part]:
        """The parts that hold the live documents of these numbers (ascending, unique)."""
        parts = []
        for part in self.live:
            numbers = part.segment.documents
            low, high = np.searchsorted(documents, numbers[[0, -1]] + [0, 1])
            wanted = documents[low:high]
            if not len(wanted):
                continue
            positions = np.searchsorted(numbers, wanted)
            if (numbers[positions] != wanted).any():
                raise IndexCorrupt(
                    f"{part.segment.file.path}: lacks a document that the catalog lists"
                )
            parts.append(Part(part.segment, positions))
        if sum(len(part.documents) for part in parts) != len(documents):
            raise IndexCorrupt(f"segments lack some of {len(documents)} documents in the catalog")
        return parts

    def tokens(self, documents: IntArray) -> Iterator[tuple[int, Tokens]]:
        """(number, tokens of one document) for these numbers (ascending, unique)."""
        for part in self.select(documents):
            for position in part.positions if part.positions is not None else ():
                yield (
                    int(part.segment.documents[position]),
                    part.segment.tokens(np.asarray([position])),
                )


def score_parts(parts: list[Part], queries: Tokens) -> Scores:
    """MaxSim of the queries with the documents of all parts, in their order: (Bq, documents)."""
    counts = [len(part.documents) for part in parts]
    scores = np.empty((len(queries), sum(counts)), np.float32)
    first = 0
    for part, count in zip(parts, counts, strict=True):
        scores[:, first : first + count] = part.segment.scores(queries, part.positions)
        first += count
    return scores
