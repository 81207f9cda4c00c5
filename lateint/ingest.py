"""Adding files to a collection: what changed, read page by page, encoded in windows, committed.

However large the folder, what is in memory is one window of pages and the tokens since the last
commit. A run that is killed loses what it did after that commit and, started again, goes on from
there. A file that cannot be read is a problem in the report, never the end of the run. This module
knows no queries.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lateint import sources
from lateint.explain import Traces
from lateint.ledger import DocumentRecord, FileRecord, Ledger, Root, file_name, shown
from lateint.pagecache import PageCache
from lateint.sources import Kind, SourceDocument, SourceError

if TYPE_CHECKING:
    from lateint.index import Index

WINDOW_DOCUMENTS = 16  # encoded together; larger: a little faster, more memory
WINDOW_PIXELS = 50_000_000  # of the pictures in a window
# Kinds of documents that one encoder reads.
TOGETHER: tuple[tuple[Kind, ...], ...] = (sources.PICTURES, ("text",), ("audio",))
COMMIT_DOCUMENTS = 256  # larger: fewer, larger commits, and more to do again after a kill
COMMIT_SECONDS = 20.0

Metadata = dict[str, Any] | Callable[[Path], dict[str, Any]] | None
# The model's part: documents of one kind in, for each its unit tokens (T, D) and their traces out.
Encode = Callable[[Sequence[SourceDocument]], list[tuple[npt.NDArray[np.float32], Traces]]]


@dataclass(frozen=True)
class Problem:
    """A file, or a page of it, that could not be indexed, and why."""

    path: str
    reason: str


@dataclass
class AddReport:
    """What an `add` did. files_*: files new, changed, as before; removed because they are gone;
    missing: gone, but still in the collection. documents: pages, pictures and parts that were
    encoded; blank: those of them with nothing to find on."""

    files_added: int = 0
    files_updated: int = 0
    files_unchanged: int = 0
    files_removed: int = 0
    files_missing: int = 0
    documents: int = 0
    blank: int = 0
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that `json.dumps` takes."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


@dataclass
class _Job:
    """A file on its way into the collection."""

    path: Path
    record: FileRecord
    known: bool
    reasons: list[str] = field(default_factory=list)


@dataclass
class _Pending:
    """An encoded document that waits for the next commit."""

    job: _Job
    document: SourceDocument
    tokens: npt.NDArray[np.float32]
    traces: Traces

    @property
    def id(self) -> str:
        return self.job.record.name + self.document.suffix

    def record(self, file: int) -> DocumentRecord:
        number, version = self.document.number, self.job.record.version
        return DocumentRecord(self.id, file, number, version, len(self.tokens), self.traces)


class Ingest:
    """One run of adding files; holds the writer's side of index and ledger, closes neither.

    progress: called with the file at hand and the documents encoded so far. refuses: why the model
    cannot read a kind of file, None where it can; such files are problems, and are not opened.
    """

    def __init__(
        self,
        index: Index,
        ledger: Ledger,
        encode: Encode,
        *,
        cache: PageCache | None,
        dpi: float,
        metadata: Metadata = None,
        progress: Callable[[Path, int], None] = lambda path, documents: None,
        refuses: Callable[[Kind], str | None] = lambda kind: None,
    ) -> None:
        self._index, self._ledger, self._encode = index, ledger, encode
        self._cache, self._dpi, self._metadata = cache, dpi, metadata
        self._progress, self._refuses = progress, refuses
        self.report = AddReport()
        self._window: list[tuple[_Job, SourceDocument]] = []
        self._pixels = 0
        self._pending: list[_Pending] = []
        self._finished: list[_Job] = []
        self._committed = time.monotonic()

    def run(self, files: Iterable[tuple[Root, Path]]) -> AddReport:
        """Add what is new or changed among `files`, and commit. Roots are in the ledger already."""
        start = time.monotonic()
        for root, path in files:
            self._progress(path, self.report.documents)
            try:
                job = self._job(root, path)
                if job is None:
                    self.report.files_unchanged += 1
                else:
                    self._read(job)
            except SourceError as error:
                self.problem(path, error.reason)
                with self._ledger.transaction():
                    self._ledger.set_problems(path, [error.reason])
        self._encode_window()
        self._commit()
        self.report.seconds = time.monotonic() - start
        return self.report

    def problem(self, path: Path, reason: str) -> None:
        self.report.problems.append(Problem(shown(path), reason))

    def _job(self, root: Root, path: Path) -> _Job | None:
        """What is to be done about a file; None where nothing changed."""
        if reason := self._refuses(sources.kind_of(path)):
            raise SourceError(path, reason)
        below, name = file_name(root, path)
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise SourceError(path, "the file's name is not valid Unicode: rename it") from None
        try:
            stat = sources.regular(path)
            known = self._ledger.file(name)
            if known is not None and (known.root, known.path) != (root.root, below):
                raise SourceError(path, f"another file is already known as {name}: rename one")
            extra = known.metadata if known is not None else {}
            if self._metadata is not None:
                given = self._metadata(path) if callable(self._metadata) else self._metadata
                extra = check_metadata(given)
            when = (stat.st_size, stat.st_mtime_ns)
            same = known is not None and known.done and known.metadata == extra
            if same and known is not None and (known.size, known.mtime) == when:
                return None
            content = sources.digest(path)
        except OSError as error:
            raise SourceError(path, error.strerror or str(error)) from error
        version = _version(content, extra)
        record = FileRecord(root.root, below, name, *when, content, version, extra)
        if known is not None and known.done and known.version == version:
            with self._ledger.transaction():  # touched, not changed
                self._ledger.put_file(replace(record, done=True))
            return None
        return _Job(path, record, known is not None)

    def _read(self, job: _Job) -> None:
        """Every document of a file that the collection does not hold yet goes into the window."""
        known = self._ledger.file(job.record.name)
        held = (
            {}
            if known is None
            else {
                number: tokens == 0 or id in self._index
                for id, number, version, tokens in self._ledger.documents(known.file)
                if version == job.record.version
            }
        )
        documents = sources.read(
            job.path,
            dpi=self._dpi,
            wanted=lambda number: not held.get(number, False),
            on_problem=job.reasons.append,
        )
        for document in documents:
            self._window.append((job, document))
            if document.kind in sources.PICTURES:
                self._pixels += document.item.width * document.item.height
            if len(self._window) >= WINDOW_DOCUMENTS or self._pixels >= WINDOW_PIXELS:
                self._encode_window()
                self._progress(job.path, self.report.documents)
            if self._due():
                self._commit()
        self._finished.append(job)
        if self._due():
            self._encode_window()
            self._commit()

    def _due(self) -> bool:
        late = time.monotonic() - self._committed >= COMMIT_SECONDS
        return len(self._pending) >= COMMIT_DOCUMENTS or (late and bool(self._pending))

    def _encode_window(self) -> None:
        window, self._window, self._pixels = self._window, [], 0
        for kinds in TOGETHER:
            part = [(job, doc) for job, doc in window if doc.kind in kinds]
            if part:
                self._encode_part(part)

    def _encode_part(self, part: list[tuple[_Job, SourceDocument]]) -> None:
        """Encode together; where that fails for what one document is, one by one."""
        try:
            encoded = self._encode([document for _, document in part])
        except (ValueError, OSError) as error:
            if len(part) == 1:
                job, document = part[0]
                job.reasons.append(f"{_place(document)}the model cannot read it ({error})")
                return
            for one in part:
                self._encode_part([one])
            return
        for (job, document), (tokens, traces) in zip(part, encoded, strict=True):
            if not np.isfinite(tokens).all():
                job.reasons.append(f"{_place(document)}the model gave tokens that are not finite")
                continue
            pending = _Pending(job, document, tokens, traces)
            self._pending.append(pending)
            self.report.documents += 1
            self.report.blank += not len(tokens)
            if self._cache is not None and document.kind in sources.PICTURES:
                self._cache.put(pending.id, job.record.version, document.item)

    def _commit(self) -> None:
        """Index first, ledger second: what the ledger calls done is always to be found.

        A file is done when all its documents are; those of its former versions go with that.
        """
        pending, self._pending = self._pending, []
        waiting = {id(job) for job, _ in self._window}
        finished = [job for job in self._finished if id(job) not in waiting]
        self._finished = [job for job in self._finished if id(job) in waiting]
        found = [p for p in pending if len(p.tokens)]
        if found:
            self._index.upsert(
                [p.id for p in found],
                [p.tokens for p in found],
                metadata=[_metadata(p) for p in found],
                texts=[p.document.text for p in found],
            )
        blank = [p.id for p in pending if not len(p.tokens)]
        fresh = {p.id for p in pending}
        stale = [document for job in finished for document in self._stale(job, fresh)]
        if blank or stale:
            self._index.delete([*blank, *stale])
        with self._ledger.transaction():
            numbers: dict[int, int] = {}
            for job in [*(p.job for p in pending), *finished]:
                if id(job) not in numbers:
                    numbers[id(job)] = self._ledger.put_file(job.record).file
            self._ledger.put_documents(p.record(numbers[id(p.job)]) for p in pending)
            self._ledger.drop_documents(stale)
            for job in finished:
                self._ledger.put_file(replace(job.record, done=True))
                self._ledger.set_problems(job.path, job.reasons)
        if self._cache is not None:
            self._cache.drop(stale)
        for job in finished:
            self.report.files_updated += job.known
            self.report.files_added += not job.known
            for reason in job.reasons:
                self.problem(job.path, reason)
        self._committed = time.monotonic()

    def _stale(self, job: _Job, fresh: set[str]) -> list[str]:
        """Documents that an earlier version of a file had and this one has not."""
        known = self._ledger.file(job.record.name)
        rows = [] if known is None else self._ledger.documents(known.file)
        return [
            document
            for document, _, version, _ in rows
            if version != job.record.version and document not in fresh
        ]


def find_files(
    ledger: Ledger, wanted: Sequence[Path], *, skip: Sequence[Path]
) -> tuple[list[tuple[Root, Path]], list[SourceError]]:
    """Each file of `wanted`, or below it, once, with its root; and folders that cannot be listed."""
    files: dict[Path, Root] = {}
    unlisted: list[SourceError] = []
    for path in wanted:
        folder = path.is_dir()
        with ledger.transaction():
            root = ledger.root_for(path if folder else path.parent)
        for file in sources.walk(path, skip=skip) if folder else [path]:
            if isinstance(file, SourceError):
                unlisted.append(file)
            elif file not in files:
                files[file] = ledger.root_of(file.parent) or root
    return [(root, file) for file, root in files.items()], unlisted


def check_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """`metadata` as JSON gives it back. Raises ValueError for what cannot be kept beside the
    metadata of the file itself."""
    if not isinstance(metadata, dict) or not all(isinstance(key, str) for key in metadata):
        raise ValueError(f"metadata: got {metadata!r:.100}; wanted a dictionary with names as keys")
    if clash := sorted({*sources.METADATA, "version"} & metadata.keys()):
        raise ValueError(f"metadata: {clash} are set from the file itself; choose other names")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(metadata, allow_nan=False))
        return plain
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata: wanted JSON values ({error})") from None


def _version(content: str, metadata: dict[str, Any]) -> str:
    """Of a file's content and the caller's metadata: equal where nothing has to be done again."""
    extra = json.dumps(metadata, sort_keys=True) if metadata else ""
    return hashlib.sha256(f"{content}{extra}".encode()).hexdigest()[:16]


def _metadata(pending: _Pending) -> dict[str, Any]:
    record = pending.job.record
    own = {"path": record.name, "version": record.version, **pending.document.metadata}
    return {**record.metadata, **own}


def _place(document: SourceDocument) -> str:
    part = document.suffix.lstrip("#").replace("=", " ")
    return f"{part}: " if part else ""
