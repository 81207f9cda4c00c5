"""`Benchmark`: documents, queries and qrels, of any modalities, and the folders that hold them.

A folder has BEIR's layout, which MTEB and ViDoRe share:

    corpus.jsonl             {"_id": ..., "title": ..., "text": ...}
    queries.jsonl            {"_id": ..., "text": ...}
    qrels/test.tsv           query-id <tab> corpus-id <tab> score     (or a TREC file)

Items that are no text name a file of the folder under their modality: {"_id": ..., "page":
"report.pdf#page=3"}, {"page": "scan.png"}, {"image": "gull.jpg"}, {"audio": "gull.wav"}; a "text"
beside it is what they say, for BM25. Parquet files with the columns of the datasets on the hub
("corpus-id", "text" | "image"; "query-id", "query" | "text") are read as well: corpus/*.parquet,
queries/*.parquet, qrels/*.parquet, or corpus.parquet and so on.

Files are opened when an item is asked for, one at a time. Knows no model and no metric.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lateint.evaluation.metrics import judged
from lateint.evaluation.qrels_run import BenchmarkError, Qrels, read_qrels
from lateint.openers import PAGE_DPI, ItemError, PdfPage, Stored, named

MEDIA = ("page", "image", "audio")  # fields that name a file, and its modality
MAX_RECORD = 16 << 20  # bytes of a line of corpus.jsonl
MAX_RECORDS = 50_000_000
_IDS = {"corpus": ("_id", "corpus-id", "id"), "queries": ("_id", "query-id", "id")}


@dataclass(frozen=True)
class Benchmark:
    """What a system is tested on.

    documents, queries: id -> raw item, as the modality's encoder takes it; in the order of the
        file; may open files on access. qrels: grades by query and document; every query in it is
        in `queries`, and documents that `documents` lacks can never be found.
    document_modality, query_modality: keys of a model's `encoders`.
    document_texts, query_texts: id -> words, for BM25; None: the items themselves are texts, or
        there are no words.
    """

    name: str
    documents: Mapping[str, Any]
    queries: Mapping[str, Any]
    qrels: Qrels
    document_modality: str = "text"
    query_modality: str = "text"
    document_texts: Mapping[str, str] | None = None
    query_texts: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        unknown = [query for query in self.qrels if query not in self.queries]
        if unknown:
            raise BenchmarkError(
                f"{self.name}: qrels of {len(unknown)} queries that are not there, as "
                f"{', '.join(map(repr, unknown[:3]))}"
            )

    def words(self, role: str) -> Mapping[str, str] | None:
        """The words of the documents (role "document") or queries ("query"); None: it has none."""
        texts = self.document_texts if role == "document" else self.query_texts
        modality = self.document_modality if role == "document" else self.query_modality
        if texts is None and modality == "text":
            return self.documents if role == "document" else self.queries
        return texts

    def asked(self) -> dict[str, Any]:
        """The queries that have a relevant document, in order: the ones that count."""
        wanted = judged(self.qrels)
        return {query: self.queries[query] for query in self.queries if query in wanted}

    def subset(
        self, queries: int | None = None, documents: int | None = None, seed: int = 0
    ) -> Benchmark:
        """Fewer queries, and their graded documents with as many others as there is room for, so
        that a run takes less time (and is easier: a smaller haystack). Drawn by `seed`."""
        generator = random.Random(seed)
        asked = list(self.asked())
        if queries is not None and queries < len(asked):
            chosen = {*generator.sample(asked, queries)}
            asked = [query for query in asked if query in chosen]
        qrels = {query: self.qrels[query] for query in asked}
        kept: Mapping[str, Any] = self.documents
        if documents is not None and documents < len(self.documents):
            graded = {document for grades in qrels.values() for document in grades}
            others = [document for document in self.documents if document not in graded]
            room = max(0, documents - len(graded))
            names = graded | {*generator.sample(others, min(room, len(others)))}
            kept = _Part(self.documents, [name for name in self.documents if name in names])
        return replace(self, documents=kept, queries=_Part(self.queries, asked), qrels=qrels)


def read_benchmark(
    folder: Path | str,
    split: str = "test",
    *,
    document_modality: str | None = None,
    query_modality: str | None = None,
    dpi: float = PAGE_DPI,
) -> Benchmark:
    """A benchmark from a folder (see the top of this file).

    Args:
        folder: its name becomes the benchmark's.
        split: which qrels: qrels/<split>.tsv (or .txt, .qrels, .trec, .parquet).
        document_modality, query_modality: which field of a record is the item, and so which
            encoder reads it; None: the media field that the first record has, else its text.
            Where the field has another name ("image" in a set of pages), the first media field is
            taken and goes to this encoder.
        dpi: of PDF pages.

    Raises:
        BenchmarkError: a file is missing, broken, beyond the limits or outside the folder; an id
            is absent or comes twice; qrels of queries that are not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BenchmarkError(f"{folder}: no such folder")
    documents = _read_side(folder, "corpus", document_modality, dpi)
    queries = _read_side(folder, "queries", query_modality, dpi)
    qrels = _read_qrels(folder, split)
    return Benchmark(
        folder.resolve().name,
        documents.items,
        queries.items,
        qrels,
        documents.modality,
        queries.modality,
        documents.texts,
        queries.texts,
    )


@dataclass(frozen=True)
class _Side:
    items: Mapping[str, Any]
    modality: str
    texts: Mapping[str, str] | None


class _Part(Mapping[str, Any]):
    """Some of the items of a mapping, opened only when asked for."""

    def __init__(self, items: Mapping[str, Any], names: list[str]) -> None:
        self._items, self._names = items, dict.fromkeys(names)

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Opened(Mapping[str, Any]):
    """Items behind functions that open them: a corpus of pages never is in memory as a whole."""

    def __init__(self, openers: dict[str, Callable[[], Any]]) -> None:
        self._openers = openers

    def __getitem__(self, name: str) -> Any:
        return self._openers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._openers  # without opening it

    def __iter__(self) -> Iterator[str]:
        return iter(self._openers)

    def __len__(self) -> int:
        return len(self._openers)


def _read_side(folder: Path, side: str, modality: str | None, dpi: float) -> _Side:
    """Documents or queries; `side` is "corpus" or "queries"."""
    openers: dict[str, Callable[[], Any]] = {}
    texts: dict[str, str] = {}
    field: str | None = None
    for where, record in _records(folder, side):
        name = _id(record, side, where)
        if name in openers:
            raise BenchmarkError(f"{where}: id {name!r} comes twice")
        if field is None:
            media = [key for key in MEDIA if record.get(key) is not None]
            wanted = modality if modality in media or modality == "text" else None
            field = wanted or (media[0] if media else "text")
        text = _text(record, where)
        if text is not None:
            texts[name] = text
        if field == "text":
            if text is None:
                raise BenchmarkError(f"{where}: has no text; its keys are {sorted(record)[:8]}")
            openers[name] = lambda text=text: text  # type: ignore[misc]
        else:
            openers[name] = _opener(folder, field, record.get(field), dpi, where)
    if field is None:
        raise BenchmarkError(f"{folder}: {side} has no record")
    if field == "text":
        return _Side(texts, modality or "text", None)
    return _Side(_Opened(openers), modality or field, texts or None)


def _opener(folder: Path, field: str, value: Any, dpi: float, where: str) -> Callable[[], Any]:
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return Stored(value["bytes"], field).open
    if isinstance(value, dict):
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise BenchmarkError(
            f"{where}: wanted the name of a file under {field!r}, got {value!r:.80}"
        )
    try:
        found = named(value, folder.resolve(), dpi)
    except ItemError as error:
        raise BenchmarkError(f"{where}: {error}") from error
    if isinstance(found, PdfPage):
        return found.open
    return lambda: found


def _id(record: dict[str, Any], side: str, where: str) -> str:
    for key in _IDS[side]:
        value = record.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value):
            return str(value)
    raise BenchmarkError(
        f"{where}: wanted an id under {_IDS[side][0]!r}, got keys {sorted(record)[:8]}"
    )


def _text(record: dict[str, Any], where: str) -> str | None:
    """Title and text, as BEIR joins them; None where there is neither."""
    parts = [record.get("title"), record.get("text", record.get("query"))]
    for part in parts:
        if part is not None and not isinstance(part, str):
            raise BenchmarkError(f"{where}: wanted a string as text, got {type(part).__name__}")
    found = " ".join(part for part in parts if part).strip()
    return found or (None if parts[1] is None else "")


def _records(folder: Path, side: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, record), from the jsonl file or the parquet files of one side."""
    path = folder / f"{side}.jsonl"
    if path.is_file():
        yield from _json_records(path)
        return
    files = _parquet_files(folder, side)
    if not files:
        raise BenchmarkError(f"{path}: no such file (nor {side}.parquet, {side}/*.parquet)")
    for file in files:
        yield from _parquet_records(file)


def _json_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        for number in range(1, MAX_RECORDS + 2):
            line = file.readline(MAX_RECORD + 1)
            where = f"{path}, line {number}"
            if not line:
                return
            if len(line) > MAX_RECORD or number > MAX_RECORDS:
                raise BenchmarkError(
                    f"{where}: beyond {MAX_RECORD} bytes a line, {MAX_RECORDS} lines"
                )
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise BenchmarkError(f"{where}: not JSON: {error}") from error
            if not isinstance(record, dict):
                raise BenchmarkError(f"{where}: wanted an object, got {type(record).__name__}")
            yield where, record


def _parquet_files(folder: Path, side: str) -> list[Path]:
    single = folder / f"{side}.parquet"
    return [single] if single.is_file() else sorted((folder / side).glob("*.parquet"))


def _parquet_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(f"{path} needs pyarrow: pip install 'lateint[eval]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            row = 0
            for batch in file.iter_batches(batch_size=64):
                for record in batch.to_pylist():
                    row += 1
                    yield f"{path}, row {row}", record
    except pyarrow.ArrowException as error:
        raise BenchmarkError(f"{path}: not a parquet file, or damaged: {error}") from error


def _read_qrels(folder: Path, split: str) -> Qrels:
    if not split or not all(c.isalnum() or c in "-_." for c in split) or split.startswith("."):
        raise BenchmarkError(f"split: got {split!r}; wanted a name as test, dev or train")
    for suffix in (".tsv", ".txt", ".qrels", ".trec"):
        path = folder / "qrels" / f"{split}{suffix}"
        if path.is_file():
            return read_qrels(path)
    files = [
        path
        for path in _parquet_files(folder, "qrels")
        if path.stem == split or path.stem.startswith(f"{split}-") or path.parent == folder
    ]
    if not files:
        there = sorted(path.stem for path in (folder / "qrels").glob("*"))
        raise BenchmarkError(
            f"{folder / 'qrels' / split}.tsv: no such file; splits there: {', '.join(there) or 'none'}"
        )
    qrels: Qrels = {}
    for file in files:
        for where, record in _parquet_records(file):
            try:
                query, document = str(record["query-id"]), str(record["corpus-id"])
                qrels.setdefault(query, {})[document] = int(record.get("score", 1))
            except (KeyError, TypeError, ValueError) as error:
                raise BenchmarkError(
                    f"{where}: wanted query-id, corpus-id and score, got {record!r:.80}"
                ) from error
    return qrels
