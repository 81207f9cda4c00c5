"""`Collection`: files on disk -> documents -> index -> hits that say why they matched.

The meeting point of models, files, index and ledger; each of them knows nothing of the others.
`collection_files` says what lies where.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lateint import sources
from lateint.collection_files import (
    CACHE,
    DPI,
    INDEX,
    LEDGER,
    AnyPath,
    CollectionInfo,
    ModelMismatch,
    canonical,
    check_place,
    make,
)
from lateint.explain import Hit, Match, matches
from lateint.index import Hit as IndexHit
from lateint.index import Index
from lateint.ingest import AddReport, Ingest, Metadata, Problem, check_metadata, find_files
from lateint.ledger import CollectionError, FileRecord, Ledger, file_name
from lateint.pagecache import PageCache
from lateint.progress import Watcher, watching
from lateint.sources import SourceError

if TYPE_CHECKING:
    from PIL.Image import Image

    from lateint.encoding import CollectionModel
    from lateint.model import LateInteractionModel
    from modalities.media import Audio


class Collection:
    """Files that can be searched. Make one with `create` or `open`; it is a context manager.

    Any number of processes may search; one at a time may add or remove (IndexLocked says who). One
    object serves one call at a time, from whichever thread.
    """

    def __init__(self, path: Path, model: LateInteractionModel | AnyPath | None) -> None:
        """Use `create` or `open`."""
        self.path = path
        self._ledger = Ledger(path / LEDGER)
        try:
            self._facts = self._ledger.facts
            self._index = Index.open(path / INDEX, model=self._facts["fingerprint"])
        except BaseException:
            self._ledger.close()
            raise
        self._cache = PageCache(path / CACHE / "pages")
        self._given = model
        self._model: CollectionModel | None = None

    @classmethod
    def create(
        cls,
        path: AnyPath,
        model: LateInteractionModel | AnyPath | None = None,
        *,
        dpi: float = DPI,
        cache_pages: bool = True,
        overwrite: bool = False,
    ) -> Collection:
        """A new, empty collection in the folder `path`.

        model: what encodes it, an object or the folder of a saved one; None is the model that
        ships. dpi: at which PDF pages are rendered; higher shows smaller print and costs its square
        in time. cache_pages: keep a picture of each page (about 100 kB) for `page_image`; without
        it pages are rendered again when they are asked for. overwrite: replace the collection that
        is there. Raises CollectionError where there is something else already.
        """
        from lateint.encoding import CollectionModel

        path = Path(path).expanduser().resolve()
        check_place(path, dpi, overwrite)
        encoder = CollectionModel.of(model)
        make(path, encoder, dpi=dpi, cache_pages=cache_pages)
        collection = cls(path, model)
        collection._model = encoder
        return collection

    @classmethod
    def open(cls, path: AnyPath, model: LateInteractionModel | AnyPath | None = None) -> Collection:
        """The collection in the folder `path`.

        model: needed only where it was created with a model object that has no folder. The model is
        loaded, and compared with the one that built the collection, when it is first used. Raises
        CollectionError where there is none, ModelMismatch at the first use of another model.
        """
        return cls(Path(path).expanduser().resolve(), model)

    def close(self) -> None:
        """Lets the files go; may be called twice."""
        self._index.close()
        self._ledger.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Collection({str(self.path)!r}, {len(self)} documents)"

    def __len__(self) -> int:
        """Documents that can be found."""
        return len(self._index)

    def __contains__(self, document: object) -> bool:
        return document in self._index

    def ids(self) -> list[str]:
        """The ids of all documents, in the order in which they were added."""
        return self._index.ids()

    def texts(self, ids: Sequence[str]) -> list[str | None]:
        """The texts that documents carry: a page's text layer, a part of a text; None for scans and
        pictures. Raises UnknownId."""
        return self._index.texts(ids)

    @property
    def model(self) -> CollectionModel:
        """What encodes this collection; loaded at the first use."""
        from lateint.encoding import CollectionModel

        if self._model is None:
            given = self._given if self._given is not None else self._facts["model"]
            if given == "":
                raise CollectionError(
                    f"{self.path}: was created with a model object that was not loaded from a folder; "
                    "pass it: Collection.open(path, model)"
                )
            model = CollectionModel.of(given)
            if model.fingerprint != self._facts["fingerprint"]:
                raise ModelMismatch(
                    f"{self.path}: was built with model {self._facts['fingerprint']} "
                    f"({self._facts['model'] or 'shipped with lateint'}), this is {model.fingerprint} "
                    f"({model.origin or 'shipped with lateint'}): use that model, or index the files again"
                )
            self._model = model
        return self._model

    # Writing.

    def add(
        self,
        *paths: AnyPath,
        metadata: Metadata = None,
        prune: bool = False,
        progress: bool | Watcher = False,
    ) -> AddReport:
        """Index files, and folders with all that is in them: what is new or has changed.

        PDFs give a document a page (`report.pdf#page=3`), pictures one each, texts one for each part
        of some 250 words, recordings one for each 30 seconds (`talk.wav#part=2`). Ids are paths below
        the first folder that was added (of further folders: with the folder's name in front), and
        stay. Files that are as they were (size and time, else content) are passed over. A file that
        cannot be read, or whose kind the model does not read, is in the report's `problems`, and what
        the collection holds of it stays.

        metadata: kept with every document of these files, for `where` and in hits: a dictionary, or
        a function of the path. None keeps what a file had. prune: also remove what came from files
        below `paths` that are gone. progress: a bar on stderr, or a function called with file, its
        number, number of files, documents so far. Raises CollectionError for a path that does not
        exist, IndexLocked where another process is writing.
        """
        wanted = [canonical(path) for path in paths]
        if metadata is not None and not callable(metadata):
            check_metadata(metadata)
        model = self.model
        with self._writing() as index:
            files, unlisted = find_files(self._ledger, wanted, skip=[self.path])
            cache = self._cache if self._facts["cache_pages"] else None
            with watching(progress, [path for _, path in files]) as told:
                ingest = Ingest(
                    index,
                    self._ledger,
                    model.encode_documents,
                    cache=cache,
                    dpi=self._facts["dpi"],
                    metadata=metadata,
                    progress=told,
                    refuses=model.refuses,
                )
                for error in unlisted:
                    ingest.problem(error.path, error.reason)
                report = ingest.run(files)
            vanished = [] if unlisted else self._ledger.vanished(wanted)
            if prune:
                for record in vanished:
                    self._drop_file(index, record)
                report.files_removed = len(vanished)
            else:
                report.files_missing = len(vanished)
        return report

    def remove(self, *names: str) -> int:
        """Remove documents by id, or all that came from a file by the name their ids begin with
        (`report.pdf`) or by its path. Returns how many documents went. A file that is removed
        comes back with the next `add` of its folder; a single page only when its file changes.
        Raises CollectionError for a name that is neither; then nothing is removed.
        """
        files: dict[int, FileRecord] = {}
        single: list[str] = []
        for name in names:
            if record := self._ledger.file(name) or self._file_at(name):
                files[record.file] = record
            elif self._ledger.file_of(name) is not None:
                single.append(name)
            else:
                raise CollectionError(f"{name}: neither a document nor a file of this collection")
        with self._writing() as index:
            gone = sum(self._drop_file(index, record) for record in files.values())
            left = [name for name in single if self._ledger.file_of(name) is not None]
            gone += index.delete(left)
            with self._ledger.transaction():
                self._ledger.drop_documents(left)
            self._cache.drop(left)
        return gone

    def _file_at(self, path: str) -> FileRecord | None:
        """The file at a path on the disk, whether it still exists or not."""
        place = Path(path).expanduser()
        place = place.parent.resolve() / place.name
        root = self._ledger.root_of(place.parent)
        return None if root is None else self._ledger.file(file_name(root, place)[1])

    def _drop_file(self, index: Index, record: FileRecord) -> int:
        rows = self._ledger.documents(record.file)
        gone = index.delete([document for document, *_ in rows])
        with self._ledger.transaction():
            self._ledger.set_problems(self._ledger.path_of(record), [])
            self._ledger.drop_file(record.file)
        self._cache.drop(document for document, *_ in rows)
        return gone

    @contextmanager
    def _writing(self) -> Iterator[Index]:
        """The index as its one writer; afterwards searches see what was written."""
        try:
            with Index.open(self.path / INDEX, write=True) as index:
                yield index
        finally:
            self._index.refresh()

    # Reading.

    def search(
        self,
        query: str | None = None,
        k: int = 10,
        *,
        image: AnyPath | Image | None = None,
        audio: AnyPath | Audio | None = None,
        where: str | None = None,
        params: Sequence[Any] = (),
        group_by: str | None = None,
        words: bool = True,
        hybrid: bool = False,
    ) -> list[Hit]:
        """The k best documents for a text, a picture or a recording (of up to a minute), best first.

        A text of which the model reads no word (only punctuation, a script it does not know) has no
        hits.

        where, params: only documents whose metadata fulfil this SQL expression:
        `where="path like ? and page < 10", params=["reports/%"]`. group_by: a metadata key; only the
        best document for each of its values is a hit ("path": the best page of each file). words:
        say which words matched, and where; costs some milliseconds a hit. hybrid: fuse (by ranks) what
        the model finds with BM25 over the text that documents carry (text layers, texts); the score
        is then of the fusion, and a text of which the model reads nothing is found by its words.
        """
        if sum(given is not None for given in (query, image, audio)) != 1:
            raise CollectionError("search: wanted one of a query text, image= and audio=")
        chosen: dict[str, Any] = {"where": where, "params": params, "group_by": group_by}
        if query is not None:
            return self.search_many([query], k, words=words, hybrid=hybrid, **chosen)[0]
        if hybrid:
            raise CollectionError("search: hybrid goes with a query text, the others have no words")
        if image is not None:
            asked = self.model.encode_picture(image)
        else:
            asked = self.model.encode_recording(audio)
        return [self._hit(hit) for hit in self._index.search(asked, k, **chosen)[0]]

    def search_many(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        where: str | None = None,
        params: Sequence[Any] = (),
        group_by: str | None = None,
        words: bool = False,
        hybrid: bool = False,
    ) -> list[list[Hit]]:
        """Like `search` for many texts at once, which is faster than one by one."""
        for place, query in enumerate(queries):
            if not isinstance(query, str) or not query.strip():
                raise CollectionError(f"query {place}: got {query!r:.100}; wanted some words")
        if not queries:
            return []
        asked = self.model.encode_queries(queries)
        chosen: dict[str, Any] = {"where": where, "params": params, "group_by": group_by}
        found: list[Sequence[IndexHit]]
        if hybrid:
            found = [*self._index.search_hybrid(asked, queries, k, **chosen)]
        else:
            found = [*self._index.search(asked, k, **chosen)]
        hits = [
            [self._hit(hit) for hit in row] if hybrid or self.model.reads(query) else []
            for query, row in zip(queries, found, strict=True)
        ]
        if not words:
            return hits
        return [
            [replace(hit, words=self._words(query, asked[i], hit)) for hit in row]
            for i, (query, row) in enumerate(zip(queries, hits, strict=True))
        ]

    def _words(self, query: str, tokens: Any, hit: Hit) -> tuple[Match, ...]:
        scores = self._index.token_scores([tokens], hit.id)
        traces = self._ledger.traces(hit.id, str(hit.metadata.get("version")))
        return matches(scores, self.model.query_labels(query), traces)

    def _hit(self, hit: IndexHit) -> Hit:
        page = hit.metadata.get("page")
        return Hit(
            hit.id, hit.score, hit.metadata, self._source(str(hit.metadata.get("path"))), page
        )

    def _source(self, name: str) -> Path:
        record = self._ledger.file(name)
        return Path(name) if record is None else self._ledger.path_of(record)

    def page_image(self, document: str) -> Image:
        """The picture of a page, from the cache, else rendered again. Raises CollectionError where
        it has none, or where its file is gone or has changed since it was indexed."""
        record = self._ledger.file_of(document)
        if record is None or document not in self._index:
            raise CollectionError(f"{document}: the collection has no such document")
        version = str(self._index.metadata([document])[0]["version"])
        if (kept := self._cache.get(document, version)) is not None:
            return kept
        path = self._ledger.path_of(record)
        numbers = {name: number for name, number, *_ in self._ledger.documents(record.file)}
        try:
            stat = path.stat()
            if (stat.st_size, stat.st_mtime_ns) != (record.size, record.mtime):
                raise CollectionError(f"{path}: has changed since it was indexed: add it again")
            wanted = numbers[document]
            page = next(sources.read(path, dpi=self._facts["dpi"], wanted=lambda n: n == wanted))
        except (OSError, SourceError) as error:
            raise CollectionError(f"{document}: cannot be shown ({error})") from error
        if page.kind not in sources.PICTURES:
            raise CollectionError(f"{document}: is of kind {page.kind!r} and has no picture")
        if self._facts["cache_pages"]:
            self._cache.put(document, version, page.item)
        image: Image = page.item
        return image

    def refresh(self) -> None:
        """Let searches see what other processes have committed since this object was opened."""
        self._index.refresh()

    def info(self) -> CollectionInfo:
        """Counts, sizes, model and the problems of the last runs. Loads no model."""
        index = self._index.info()
        files, _, blank = self._ledger.counts()
        return CollectionInfo(
            path=str(self.path),
            files=files,
            documents=index.documents,
            blank=blank,
            tokens=index.tokens,
            index_bytes=index.bytes,
            cache_bytes=self._cache.size(),
            model=self._facts["model"] or "shipped",
            fingerprint=self._facts["fingerprint"],
            dpi=self._facts["dpi"],
            folders=tuple(str(root.folder) for root in self._ledger.roots()),
            metadata_keys=index.keys,
            problems=tuple(Problem(path, reason) for path, reason in self._ledger.problems()),
        )
