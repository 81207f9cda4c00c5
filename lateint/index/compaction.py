"""Merging segments: fewer files, no deleted documents. Readers keep the files they have mapped."""

from __future__ import annotations

import numpy as np

from lateint.index.kinds import KINDS, Segment
from lateint.index.search.exact import blocks
from lateint.index.snapshot import Part, Snapshot
from lateint.index.storage import Change
from lateint.index.tokens import IntArray, Tokens

SEGMENT_BYTES = (
    64 << 20
)  # of tokens per segment: larger is fewer files, and more memory to write one
MANY = 64  # small segments that `add` lets stand before it merges them


def segment_tokens(kind: str, dim: int) -> int:
    """Most tokens in a segment of more than one document."""
    return max(1, SEGMENT_BYTES // KINDS[kind].bytes_per_token(dim))


def crowded(snapshot: Snapshot, limit: int) -> bool:
    """Whether additions have left many small segments."""
    return sum(_small(segment, limit) for segment in snapshot.segments.values()) > MANY


def runs(snapshot: Snapshot, limit: int, purge: bool) -> list[list[int]]:
    """Neighbours to rewrite together: small ones and, to purge, those with deleted documents."""
    whole = {id(part.segment) for part in snapshot.live if part.positions is None}
    found: list[list[int]] = [[]]
    for number, segment in snapshot.segments.items():
        if _small(segment, limit) or (purge and id(segment) not in whole):
            found[-1].append(number)
        else:
            found.append([])
    return [
        run
        for run in found
        if len(run) > 1 or (purge and run and id(snapshot.segments[run[0]]) not in whole)
    ]


def rewrite(change: Change, snapshot: Snapshot, run: list[int], kind: str, limit: int) -> None:
    """Replaces the segments of `run` by full ones of `limit` tokens, without deleted documents."""
    old = [snapshot.segments[number] for number in run]
    chosen = {id(segment) for segment in old}
    numbers: list[IntArray] = []
    held: list[Tokens] = []
    size = 0

    def flush() -> None:
        nonlocal size
        if held:
            change.add_segment(kind, np.concatenate(numbers), _concat(held))
        numbers.clear()
        held.clear()
        size = 0

    for number, segment in zip(run, old, strict=True):
        change.drop_segment(number, int(segment.documents[0]), int(segment.documents[-1]))
    for part in snapshot.live:
        if id(part.segment) not in chosen:
            continue
        positions = _positions(part)
        lengths = np.diff(part.segment.offsets)[positions]
        for first, last in blocks(lengths, max(1, limit // 8)):
            tokens = part.segment.tokens(positions[first:last])
            if size + len(tokens.values) > limit:
                flush()
            numbers.append(part.segment.documents[positions[first:last]])
            held.append(tokens)
            size += len(tokens.values)
    flush()


def _small(segment: Segment, limit: int) -> bool:
    return bool(segment.offsets[-1] < limit // 2)


def _positions(part: Part) -> IntArray:
    return np.arange(len(part.segment.documents)) if part.positions is None else part.positions


def _concat(parts: list[Tokens]) -> Tokens:
    lengths = np.concatenate([part.lengths for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Tokens(np.concatenate([part.values for part in parts]), offsets)
