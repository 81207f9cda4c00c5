"""Merging segments: fewer files, no deleted documents. Readers keep the files they have mapped."""

from __future__ import annotations

from lateint.index.building import SegmentWriter, segment_tokens
from lateint.index.change import Change
from lateint.index.kinds import Segment
from lateint.index.snapshot import Snapshot

MANY = 64  # small segments that `add` lets stand before it merges them


def crowded(snapshot: Snapshot) -> bool:
    """Whether additions have left many small segments."""
    return sum(_small(snapshot, segment) for segment in snapshot.segments.values()) > MANY


def runs(snapshot: Snapshot, purge: bool) -> list[list[int]]:
    """Neighbours of one kind and codec to rewrite together: small ones and, to purge, those with
    deleted documents."""
    whole = {id(part.segment) for part in snapshot.live.parts if part.positions is None}
    found: list[list[int]] = [[]]
    for number, segment in snapshot.segments.items():
        if found[-1] and not _alike(snapshot.segments[found[-1][-1]], segment):
            found.append([])
        if _small(snapshot, segment) or (purge and id(segment) not in whole):
            found[-1].append(number)
        else:
            found.append([])
    return [
        run
        for run in found
        if len(run) > 1 or (purge and run and id(snapshot.segments[run[0]]) not in whole)
    ]


def rewrite(change: Change, snapshot: Snapshot, run: list[int]) -> None:
    """Replaces the segments of `run` by full ones, without deleted documents; decodes nothing."""
    old = [snapshot.segments[number] for number in run]
    chosen = {id(segment) for segment in old}
    for number, segment in zip(run, old, strict=True):
        change.drop_segment(number, int(segment.documents[0]), int(segment.documents[-1]))
    writer = SegmentWriter(change, old[0].codec)
    for part in snapshot.live.parts:
        if id(part.segment) in chosen:
            writer.add_part(part)
    writer.flush()


def _alike(one: Segment, other: Segment) -> bool:
    return (one.kind, one.codec) == (other.kind, other.codec)


def _small(snapshot: Snapshot, segment: Segment) -> bool:
    manifest = snapshot.manifest
    limit = segment_tokens(manifest.options, manifest.width, segment.codec)
    return bool(segment.offsets[-1] < limit // 2)
