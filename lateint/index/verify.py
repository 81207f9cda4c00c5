"""Is everything that a commit promised still there, byte for byte? Reads all, repairs nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lateint.index.errors import IndexCorrupt
from lateint.index.snapshot import Snapshot
from lateint.index.storage import Storage
from lateint.index.tokens import IntArray


def verify(storage: Storage, snapshot: Snapshot) -> None:
    """Raises IndexCorrupt with every problem found; each names its file.

    Checks SQLite's structure, the checksum of every row and of every block of every segment, that
    tokens are finite, and that catalog, tombstones, segments and counts agree.
    """
    problems: list[str] = []
    for check in (_database(storage, snapshot), _segments(snapshot), _agreement(storage, snapshot)):
        try:
            problems += check
        except IndexCorrupt as error:
            problems += error.problems
    if problems:
        raise IndexCorrupt(*dict.fromkeys(problems))


def _database(storage: Storage, snapshot: Snapshot) -> Iterator[str]:
    yield from storage.integrity()
    with storage.reading() as catalog:
        keys = set(catalog.keys())
        documents = set()
        for row in catalog:
            documents.add(row.number)
            if lost := row.fields().keys() - keys:
                yield f"{storage.database}: table keys lacks {sorted(lost)}"
        if strays := {number for number, _ in catalog.all_texts()} - documents:
            yield f"{storage.database}: table texts has {len(strays)} texts of no document"
        yield from catalog.lexical.check(catalog.all_texts())


def _segments(snapshot: Snapshot) -> Iterator[str]:
    for codec in snapshot.codecs.values():
        try:
            codec.file.check()
            _ = codec.codec
        except IndexCorrupt as error:
            yield from error.problems
    last = 0
    for segment in snapshot.segments.values():
        try:
            segment.file.check()
        except IndexCorrupt as error:
            yield from error.problems
            continue
        if segment.documents[0] <= last:
            yield f"{segment.file.path}: its documents overlap those of another segment"
        last = int(segment.documents[-1])
        yield from segment.check()


def _agreement(storage: Storage, snapshot: Snapshot) -> Iterator[str]:
    with storage.reading() as catalog:
        rows = [(row.number, row.tokens) for row in catalog]
    listed = np.asarray(rows, np.int64).reshape(-1, 2)
    held = _lengths(snapshot)
    if not np.array_equal(listed, held):
        yield f"{storage.database}: its documents are not those that the segments hold"
    if not np.isin(snapshot.tombstones, _numbers(snapshot)).all():
        yield f"{storage.database}: has tombstones of documents that no segment holds"
    found = (len(listed), int(listed[:, 1].sum()))
    manifest = snapshot.manifest
    if found != (manifest.documents, manifest.tokens):
        said = (manifest.documents, manifest.tokens)
        yield f"{storage.database}: has {found} documents and tokens, its manifest says {said}"
    if len(listed) and listed[-1, 0] >= manifest.next_document:
        yield f"{storage.database}: its manifest would give document numbers a second time"


def _lengths(snapshot: Snapshot) -> IntArray:
    """(number, tokens) of the live documents in segments, (B, 2)."""
    found = [np.zeros((0, 2), np.int64)]
    for part in snapshot.live.parts:
        lengths = np.diff(part.segment.offsets)
        found.append(
            np.stack(
                [part.documents, lengths if part.positions is None else lengths[part.positions]],
                axis=1,
            )
        )
    return np.concatenate(found)


def _numbers(snapshot: Snapshot) -> IntArray:
    return np.concatenate(
        [np.zeros(0, np.int64), *(s.documents for s in snapshot.segments.values())]
    )
