"""An index folder: what is on the disk, and how it goes from one committed state to the next.

    index.sqlite          manifest, documents, metadata, texts, tombstones (WAL, synchronous=FULL)
    segments/<n>.safetensors   immutable token data, synced before the transaction that names them
    segments/codec-<n>.safetensors   codecs of compressed segments, likewise
    commit                the number of the last acknowledged commit (see witness.py)
    lock                  held by the one writer, with its pid
    quarantine/           what a repair took out (see repair.py)

One commit is one SQLite transaction. A crash at any instant leaves the last committed state, and at
most some segment files that no commit names; the next write removes them. Knows no scores.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lateint.index.catalog import Catalog
from lateint.index.change import Change
from lateint.index.codecfile import CodecFile
from lateint.index.errors import (
    IndexClosed,
    IndexCorrupt,
    IndexExists,
    IndexMissing,
    IndexTooNew,
    IndexTooOld,
)
from lateint.index.filters import Filters
from lateint.index.folder import (
    DATABASE,
    LOCK,
    OURS,
    QUARANTINE,
    SEGMENTS,
    WITNESS,
    connect,
    guard,
    unfinished,
    writing,
)
from lateint.index.kinds import HalfSegment, Segment
from lateint.index.lock import WriterLock
from lateint.index.manifest import (
    SCHEMA,
    Manifest,
    row_checksum,
    segment_rows,
    upgrade,
)
from lateint.index.residual import ResidualSegment
from lateint.index.segments import Checksums, SegmentFile, sync_folder
from lateint.index.snapshot import Snapshot
from lateint.index.witness import Witness

KINDS: dict[str, type[Segment]] = {"fp16": HalfSegment, "residual": ResidualSegment}
TRIES = 5  # snapshots to try while a writer replaces segments under a reader


class Storage:
    """An open index folder. Made by `create` or `open`; with a lock it may write."""

    def __init__(self, path: Path, lock: WriterLock | None) -> None:
        self.path = path
        self.pid = os.getpid()
        self._lock = lock
        self.database = path / DATABASE
        self._witness = Witness(path / WITNESS)
        self._db = connect(self.database, write=lock is not None)
        self.catalog = Catalog(self._db, self.database)
        self.filters = Filters(self._db)

    @classmethod
    def create(cls, path: Path, manifest: Manifest, overwrite: bool) -> Storage:
        """A new, empty index at `path`, held for writing.

        overwrite: an index that is there is emptied in one commit, so that its readers keep their
        snapshot; one that cannot be opened is removed. Other people's files are never touched.
        """
        if path.exists() and not path.is_dir():
            raise IndexExists(f"{path}: is a file; give a folder for the index")
        if path.exists() and (strangers := sorted({entry.name for entry in path.iterdir()} - OURS)):
            raise IndexExists(
                f"{path}: holds other files ({strangers[0]}, ...); give an empty or new folder"
            )
        with writing(path):
            (path / SEGMENTS).mkdir(parents=True, exist_ok=True)
        lock = WriterLock(path / LOCK)
        try:
            if not unfinished(path):
                if not overwrite:
                    raise IndexExists(
                        f"{path}: is an index already; open it, or pass overwrite=True to empty it"
                    )
                if storage := cls._usable(path, lock):
                    with storage.transaction() as change:
                        change.reset(manifest)
                    return storage
            return cls._make(path, manifest, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _usable(cls, path: Path, lock: WriterLock) -> Storage | None:
        """The index at `path` if this version can open it."""
        storage: Storage | None = None
        try:
            storage = cls(path, lock)
            storage.snapshot(None)
        except (IndexCorrupt, IndexTooNew, IndexTooOld):
            if storage:
                storage._db.close()
            return None
        return storage

    @classmethod
    def _make(cls, path: Path, manifest: Manifest, lock: WriterLock) -> Storage:
        with writing(path):
            for name in OURS - {SEGMENTS, LOCK, QUARANTINE}:
                (path / name).unlink(missing_ok=True)
            shutil.rmtree(path / SEGMENTS)
            (path / SEGMENTS).mkdir(exist_ok=True)
            (path / DATABASE).touch()
        Witness(path / WITNESS).write(0)
        storage = cls(path, lock)
        try:
            with guard(storage.database):
                storage._db.execute("PRAGMA journal_mode = WAL")
                storage._db.execute("BEGIN IMMEDIATE")
                for line in SCHEMA:
                    storage._db.execute(line)
                replace(manifest, commit=1).write(storage._db)
                storage._db.execute("COMMIT")
            with writing(path):
                sync_folder(path)
                sync_folder(path.parent)
            storage._witness.write(1)
        except BaseException:
            storage._db.close()
            raise
        return storage

    @classmethod
    def open(cls, path: Path, write: bool) -> Storage:
        """The index at `path`. Raises IndexMissing, IndexLocked; `snapshot` finds the rest."""
        if not path.is_dir():
            raise IndexMissing(f"{path}: there is no index here; create one")
        if unfinished(path):
            raise IndexMissing(
                f"{path}: holds no index, or one whose creation did not finish; create it"
            )
        if not (path / DATABASE).exists():
            raise IndexCorrupt(f"{path / DATABASE}: is missing")
        lock = WriterLock(path / LOCK) if write else None
        try:
            return cls(path, lock)
        except BaseException:
            if lock:
                lock.release()
            raise

    @property
    def writable(self) -> bool:
        return self._lock is not None

    def must_write(self) -> None:
        """Raises IndexClosed unless this process may write."""
        if self._lock is None or not self._lock.held:
            raise IndexClosed(f"{self.path}: is open for reading; open it with write=True")

    def size(self) -> int:
        """Bytes of all files of the index."""
        names = (*(self.path / name for name in OURS), *(self.path / SEGMENTS).glob("*"))
        return sum(path.stat().st_size for path in names if path.is_file())

    def sizes(self, snapshot: Snapshot) -> dict[str, int]:
        """Bytes by what they hold: arrays of segments, codecs, database."""
        found: dict[str, int] = {}
        for segment in snapshot.segments.values():
            for name, size in segment.file.sizes().items():
                found[name] = found.get(name, 0) + size
        found["codecs"] = sum(sum(c.file.sizes().values()) for c in snapshot.codecs.values())
        found["database"] = self.database.stat().st_size
        return found

    def close(self) -> None:
        """In a forked child nothing is closed: the connection and the lock belong to the parent."""
        if os.getpid() == self.pid:
            self._db.close()
            if self._lock:
                self._lock.release()

    def snapshot(self, previous: Snapshot | None) -> Snapshot:
        """The newest committed state; what `previous` has open already is shared.

        A reader stays in the SQLite transaction it begins here, so that rows and segments are of
        one state until the next call. Raises IndexTooNew, IndexTooOld, IndexCorrupt.
        """
        for attempt in range(TRIES):
            try:
                with guard(self.database):
                    return self._snapshot(previous)
            except FileNotFoundError as error:  # a compaction finished between manifest and file
                if self.writable or attempt == TRIES - 1:
                    raise IndexCorrupt(
                        f"{error.filename}: is missing, but the manifest names it"
                    ) from None
        raise AssertionError("unreachable")

    def _snapshot(self, previous: Snapshot | None) -> Snapshot:
        acknowledged = self._witness.read()
        if not self.writable:
            if self._db.in_transaction:
                self._db.execute("COMMIT")
            self._db.execute("BEGIN")
        manifest = Manifest.read(self._db, self.database)
        if acknowledged is None:
            raise IndexCorrupt(f"{self._witness.path}: is missing")
        if manifest.commit < acknowledged:
            raise IndexCorrupt(
                f"{self.database}: is at commit {manifest.commit}, but commit {acknowledged} was "
                f"made; {DATABASE}-wal is damaged or missing"
            )
        if previous and previous.manifest == manifest:
            return previous
        codecs = self._codecs(manifest, previous)
        segments: dict[int, Segment] = {}
        for row in segment_rows(self._db, manifest.format, self.database):
            known = previous.segments.get(row[0]) if previous else None
            segments[row[0]] = known or self.open_segment(manifest.width, codecs, row)
        snapshot = Snapshot(manifest, segments, codecs, self.catalog.tombstones())
        if snapshot.live.count != manifest.documents:
            raise IndexCorrupt(
                f"{self.database}: segments and tombstones do not add up to "
                f"{manifest.documents} documents"
            )
        return snapshot

    def _codecs(self, manifest: Manifest, previous: Snapshot | None) -> dict[int, CodecFile]:
        codecs: dict[int, CodecFile] = {}
        if manifest.format == 1:
            return codecs
        for row in self._db.execute("SELECT * FROM codecs ORDER BY number"):
            known = previous.codecs.get(row[0]) if previous else None
            codecs[row[0]] = known or self.open_codec(row)
        if manifest.codec and manifest.codec not in codecs:
            raise IndexCorrupt(f"{self.database}: has no row for codec {manifest.codec}")
        return codecs

    def open_codec(self, row: tuple[Any, ...]) -> CodecFile:
        """The codec of a row of the table codecs."""
        if row_checksum(*row[:-1]) != row[-1]:
            raise IndexCorrupt(f"{self.database}: row {row[0]} of table codecs is damaged")
        number, nbits, centroids, tokens, energy, *sums = row[:-1]
        file = SegmentFile(self.codec_path(number), Checksums(*sums))
        return CodecFile(number, nbits, centroids, tokens, energy, file)

    def open_segment(
        self, width: int, codecs: dict[int, CodecFile], row: tuple[Any, ...]
    ) -> Segment:
        """The segment of a row that `segment_rows` gave."""
        number, kind, codec, documents, tokens, first, last, *sums = row
        path = self.segment_path(number)
        if kind not in KINDS:
            raise IndexTooNew(
                f"{path}: is of kind {kind!r}, this lateint knows {', '.join(KINDS)}; "
                "upgrade lateint"
            )
        segment = KINDS[kind](SegmentFile(path, Checksums(*sums)), width, codecs.get(codec))
        if (
            len(segment.documents) != documents
            or segment.offsets[-1] != tokens
            or segment.documents[0] != first
            or segment.documents[-1] != last
        ):
            raise IndexCorrupt(f"{path}: does not hold the documents that the manifest says")
        return segment

    def segment_path(self, number: int) -> Path:
        return self.path / SEGMENTS / f"{number}.safetensors"

    def codec_path(self, number: int) -> Path:
        return self.path / SEGMENTS / f"codec-{number}.safetensors"

    @contextmanager
    def reading(self) -> Iterator[Catalog]:
        """The catalog, with SQLite's errors turned into ours."""
        with guard(self.database):
            yield self.catalog

    def integrity(self) -> list[str]:
        """What SQLite's own check finds wrong."""
        with guard(self.database):
            found = [row[0] for row in self._db.execute("PRAGMA integrity_check(20)")]
        return [] if found == ["ok"] else [f"{self.database}: {line}" for line in found]

    @contextmanager
    def transaction(self) -> Iterator[Change]:
        """One commit: wholly there when the block has ended, wholly absent when it raised."""
        self.must_write()
        committing = False
        change: Change | None = None
        try:
            with guard(self.database), writing(self.path):
                self._db.execute("BEGIN IMMEDIATE")
                self._remove_orphans()
                manifest = Manifest.read(self._db, self.database)
                change = Change(self, upgrade(self._db, manifest, self.database))
                yield change
                change.drop_codecs()
                if change.written:
                    sync_folder(self.path / SEGMENTS)
                manifest = replace(change.manifest, commit=change.manifest.commit + 1)
                manifest.write(self._db)
                committing = True
                self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if (
                not committing and change
            ):  # a COMMIT that failed may yet be found in the log: keep its files
                for path in change.written:
                    with suppress(OSError):
                        path.unlink()
            raise
        self._witness.write(manifest.commit)
        with suppress(OSError):  # the commit stands; the next write tries again
            self._remove_orphans()

    def _remove_orphans(self) -> None:
        named = {
            self.segment_path(n).name for (n,) in self._db.execute("SELECT number FROM segments")
        }
        if Manifest.read(self._db, self.database).format > 1:
            rows = self._db.execute("SELECT number FROM codecs")
            named |= {self.codec_path(n).name for (n,) in rows}
        for path in (self.path / SEGMENTS).iterdir():
            if path.name not in named:
                path.unlink()
