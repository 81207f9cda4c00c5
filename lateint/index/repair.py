"""Makes a damaged index usable again without what is damaged, and says what that was.

What `verify` finds is taken out of the index in one commit; nothing is deleted. The files go to
`quarantine/<commit>/` in the index's folder, beside `lost.jsonl`, which has a line for each document
that is no longer found: {"id", "metadata", "text", "tokens", "reason"}, as far as they can be read.
Add these documents again. Where the database itself is broken nothing can be told apart, and
IndexCorrupt says so: then only a copy helps, or building again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lateint.index.catalog import Document
from lateint.index.change import Change
from lateint.index.errors import IndexCorrupt
from lateint.index.folder import QUARANTINE, guard, writing
from lateint.index.manifest import Manifest, row_checksum, segment_row
from lateint.index.segments import sync_folder
from lateint.index.storage import Storage
from lateint.index.tokens import IntArray
from lateint.index.verify import verify


@dataclass(frozen=True)
class Repaired:
    """What `repair` found and did. quarantine: None where nothing was wrong."""

    problems: tuple[str, ...] = ()  # each names its file
    lost: tuple[str, ...] = ()  # ids of documents that the index no longer holds
    files: tuple[str, ...] = ()  # names of the files that were moved
    quarantine: Path | None = None


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)  # segments
    bad_codecs: list[int] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)  # document in a good segment -> tokens
    rows: dict[int, Document] = field(default_factory=dict)  # sound ones
    broken: dict[int, Document] = field(default_factory=dict)  # as far as they can be read
    texts: dict[int, str] = field(default_factory=dict)
    broken_texts: list[int] = field(default_factory=list)


def repair(path: str | os.PathLike[str]) -> Repaired:
    """Repairs the index in the folder `path`, as its one writer. Raises IndexMissing, IndexLocked,
    IndexTooNew, IndexWriteFailed, and IndexCorrupt where the database is beyond it (untouched)."""
    storage = Storage.open(Path(path), write=True)
    try:
        with guard(storage.database):
            if beyond := storage.integrity():
                raise IndexCorrupt(*beyond)
            manifest = Manifest.read(storage._db, storage.database)
            found = _look(storage, manifest)
        acknowledged: int | None = None
        try:
            acknowledged = storage._witness.read()
        except IndexCorrupt as error:
            found.problems += error.problems
        if acknowledged is None:
            found.problems.append(
                f"{storage._witness.path}: does not say which commit was the last"
            )
        elif acknowledged > manifest.commit:
            found.problems.append(
                f"{storage.database}: commits {manifest.commit + 1} to {acknowledged} are lost"
            )
        if not found.problems and _sound(storage, found):
            return Repaired()
        return _mend(storage, found, max(manifest.commit, acknowledged or 0))
    finally:
        storage.close()


def _sound(storage: Storage, found: _Findings) -> bool:
    """Whether `verify` finds nothing either: counts, words of texts, documents without segments."""
    try:
        verify(storage, storage.snapshot(None))
    except IndexCorrupt as error:
        found.problems += error.problems
        return False
    return True


def _look(storage: Storage, manifest: Manifest) -> _Findings:
    """What is sound and what is not, of everything that the database names."""
    found, db = _Findings(), storage._db
    codecs = {}
    for entry in db.execute("SELECT * FROM codecs").fetchall() if manifest.format > 1 else ():
        try:
            codec = storage.open_codec(entry)
            codec.file.check()
            _ = codec.codec
            codecs[codec.number] = codec
        except (IndexCorrupt, FileNotFoundError) as error:
            found.bad_codecs.append(entry[0])
            found.problems += _said(error)
    dead = set(storage.catalog.tombstones().tolist())
    for entry in db.execute("SELECT * FROM segments ORDER BY first").fetchall():
        try:
            row = segment_row(entry, manifest.format, storage.database)
            segment = storage.open_segment(manifest.width, codecs, row)
            segment.file.check()
            if wrong := list(segment.check()):
                raise IndexCorrupt(*wrong)
        except (IndexCorrupt, FileNotFoundError) as error:
            found.bad.append(entry[0])
            found.problems += _said(error)
            continue
        lengths = np.diff(segment.offsets).tolist()
        for number, tokens in zip(segment.documents.tolist(), lengths, strict=True):
            if number not in dead:
                found.held[number] = tokens
    for number, id, tokens, metadata, crc in db.execute("SELECT * FROM documents ORDER BY doc"):
        document = Document(number, id, tokens, metadata)
        if row_checksum(number, id, tokens, metadata) != crc:
            found.problems.append(f"{storage.database}: row {number} of table documents is damaged")
            found.broken[number] = document
        else:
            found.rows[number] = document
    for number, text, crc in db.execute("SELECT * FROM texts"):
        if row_checksum(number, text) != crc:
            found.problems.append(f"{storage.database}: row {number} of table texts is damaged")
            found.broken_texts.append(number)
        else:
            found.texts[number] = text
    return found


def _mend(storage: Storage, found: _Findings, commit: int) -> Repaired:
    """Takes out what is not sound, in one commit."""
    place = storage.path / QUARANTINE / str(commit + 1)
    live = {n: row for n, row in found.rows.items() if found.held.get(n) == row.tokens}
    gone = {n: row for n, row in {**found.rows, **found.broken}.items() if n not in live}
    nameless = sorted(found.held.keys() - live.keys())
    with writing(storage.path):
        place.mkdir(parents=True)
        files = list(_aside(storage, found, place))
        with (place / "lost.jsonl").open("xb") as lines:
            for number, row in sorted(gone.items()):
                lines.write(
                    json.dumps(_lost(number, row, found), ensure_ascii=True).encode() + b"\n"
                )
            lines.flush()
            os.fsync(lines.fileno())
        for folder in (place, place.parent, storage.path):
            sync_folder(folder)
    with storage.transaction() as change:
        change.manifest = replace(change.manifest, commit=commit)
        db = storage._db
        db.executemany("DELETE FROM segments WHERE number = ?", [(n,) for n in found.bad])
        db.executemany("DELETE FROM documents WHERE doc = ?", [(n,) for n in gone])
        # A text that is damaged goes, its document stays.
        stray = [n for n in (*found.texts, *found.broken_texts) if n not in live]
        db.executemany(
            "DELETE FROM texts WHERE doc = ?", [(n,) for n in (*stray, *found.broken_texts)]
        )
        _tombstones(storage, change, nameless)
        keys = {key for row in live.values() for key in row.fields()}
        db.executemany("INSERT OR IGNORE INTO keys VALUES (?)", [(key,) for key in sorted(keys)])
        storage.catalog.lexical.rebuild(storage.catalog.all_texts())
        codec = change.manifest.codec
        change.manifest = replace(
            change.manifest,
            documents=len(live),
            tokens=sum(row.tokens for row in live.values()),
            codec=0 if codec in found.bad_codecs else codec,
            next_document=max([change.manifest.next_document, *(n + 1 for n in found.held)]),
        )
        db.executemany("DELETE FROM codecs WHERE number = ?", [(n,) for n in found.bad_codecs])
    verify(storage, storage.snapshot(None))
    lost = tuple(str(row.id) for _, row in sorted(gone.items()))
    return Repaired(tuple(dict.fromkeys(found.problems)), lost, tuple(files), place)


def _aside(storage: Storage, found: _Findings, place: Path) -> Iterator[str]:
    """Gives the bad files a second name in quarantine; the first goes with the commit."""
    paths = [storage.segment_path(number) for number in found.bad]
    for path in [*paths, *(storage.codec_path(number) for number in found.bad_codecs)]:
        with suppress(FileNotFoundError):  # it is what is wrong
            os.link(path, place / path.name)
            yield path.name


def _lost(number: int, row: Document, found: _Findings) -> dict[str, Any]:
    metadata: Any = row.metadata
    with suppress(ValueError, TypeError):
        metadata = json.loads(row.metadata)
    reason = "its tokens are damaged" if number in found.rows else "its row is damaged"
    text = found.texts.get(number)
    return {
        "id": _plain(row.id),
        "metadata": metadata if isinstance(metadata, dict) else _plain(metadata),
        "text": text,
        "tokens": _plain(row.tokens),
        "reason": reason,
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, type(None))) else repr(value)


def _tombstones(storage: Storage, change: Change, nameless: list[int]) -> None:
    """For documents that are in segments and have no sound row; none where no segment holds one."""
    db = storage._db
    spans = [(int(a), int(b)) for a, b in db.execute("SELECT first, last FROM segments")]
    dead: IntArray = storage.catalog.tombstones()
    outside = [n for n in dead.tolist() if not any(a <= n <= b for a, b in spans)]
    db.executemany("DELETE FROM tombstones WHERE doc = ?", [(n,) for n in outside])
    db.executemany("INSERT OR IGNORE INTO tombstones VALUES (?)", [(n,) for n in nameless])


def _said(error: IndexCorrupt | FileNotFoundError) -> list[str]:
    if isinstance(error, IndexCorrupt):
        return list(error.problems)
    return [f"{error.filename}: is missing, but the manifest names it"]
