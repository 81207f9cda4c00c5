"""One committed state of an index, as searching sees it: mapped segments and which documents live.

Knows numbers of documents, not their ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lateint.index.codecfile import CodecFile
from lateint.index.errors import IndexCorrupt
from lateint.index.kinds import Segment
from lateint.index.manifest import Manifest
from lateint.index.tokens import IntArray


@dataclass(frozen=True)
class Part:
    """Documents of one segment; `positions` (ascending) None: all of it."""

    segment: Segment
    positions: IntArray | None

    def __len__(self) -> int:
        return len(self.segment.documents if self.positions is None else self.positions)

    @property
    def documents(self) -> IntArray:
        numbers = self.segment.documents
        return numbers if self.positions is None else numbers[self.positions]

    @property
    def all_positions(self) -> IntArray:
        return np.arange(len(self)) if self.positions is None else self.positions

    @cached_property
    def tokens(self) -> int:
        offsets = self.segment.offsets
        if self.positions is None:
            return int(offsets[-1])
        return int((offsets[self.positions + 1] - offsets[self.positions]).sum())

    @cached_property
    def mask(self) -> IntArray | None:
        """Whether each document of the segment is one of these, (B,) bool; None: all are."""
        if self.positions is None:
            return None
        mask = np.zeros(len(self.segment.documents), bool)
        mask[self.positions] = True
        return mask


@dataclass(frozen=True)
class Group:
    """The parts of a selection that one codec compressed. A place in the group counts its own
    documents; `firsts` are places in the selection."""

    codec: CodecFile
    parts: list[Part]
    firsts: list[int]

    @cached_property
    def ends(self) -> IntArray:
        """The place in the group after each part's last document, (parts,)."""
        return np.cumsum([len(part) for part in self.parts])

    @property
    def count(self) -> int:
        return int(self.ends[-1])

    @cached_property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)


@dataclass(frozen=True)
class Selection:
    """Documents to search, in the order of their numbers. A place is an index into `numbers`."""

    parts: list[Part]

    @cached_property
    def numbers(self) -> IntArray:
        return np.concatenate([np.zeros(0, np.int64), *(part.documents for part in self.parts)])

    @cached_property
    def firsts(self) -> list[int]:
        """The place of each part's first document."""
        ends = np.cumsum([len(part) for part in self.parts]).tolist()
        return [0, *ends[:-1]] if ends else []

    @cached_property
    def count(self) -> int:
        return sum(len(part) for part in self.parts)

    @cached_property
    def groups(self) -> list[Group]:
        """The compressed parts by their codecs."""
        groups: dict[int, Group] = {}
        for part, first in zip(self.parts, self.firsts, strict=True):
            if codec := part.segment.codec:
                group = groups.setdefault(codec.number, Group(codec, [], []))
                group.parts.append(part)
                group.firsts.append(first)
        return list(groups.values())

    @cached_property
    def rescorable(self) -> bool:
        """Whether any compressed part has its originals."""
        return any(part.segment.exact for group in self.groups for part in group.parts)

    def select(self, documents: IntArray) -> Selection:
        """Those of these numbers (ascending, unique), all of which must be there."""
        parts = []
        for part in self.parts:
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
        if sum(len(part) for part in parts) != len(documents):
            raise IndexCorrupt(f"segments lack some of {len(documents)} documents in the catalog")
        return Selection(parts)


@dataclass(frozen=True)
class Snapshot:
    """Segments in the order of their documents' numbers, which do not overlap."""

    manifest: Manifest
    segments: dict[int, Segment]  # by number
    codecs: dict[int, CodecFile]  # by number
    tombstones: IntArray  # ascending

    @property
    def codec(self) -> CodecFile | None:
        """That of documents to come."""
        return self.codecs.get(self.manifest.codec)

    @cached_property
    def live(self) -> Selection:
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
        return Selection(parts)
