"""Training sets: what a trainer draws examples from.

    TableSet     rows of a table: pairs, triples, lists with scores
    IdSet        ids of queries and documents that lie elsewhere: qrels, mined negatives
    ExampleSet   examples that somebody has made (folders of PDFs, of pictures)

`read` makes one of a file or folder. An example is made when it is asked for; its files are opened
later still, when it goes into a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lateint.data.columns import (
    MEDIA,
    Column,
    Columns,
    DataError,
    Example,
    Item,
    by_position,
    key_of,
)
from lateint.data.items import Entry
from lateint.data.rows import JsonLines, Parquet

if TYPE_CHECKING:
    from lateint.evaluation.benchmark import Benchmark

_QRELS = ("queries.jsonl", "qrels", "qrels.parquet")  # one of them: a folder with qrels


class TrainingSet(ABC):
    """Examples by number.

    name, licence, source: what a model card says of it; source: where it came from.
    """

    name: str = ""
    licence: str = ""
    source: str = ""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, i: int) -> Example: ...

    @property
    def scored(self) -> bool:
        """Whether its examples have scores, as far as the first says."""
        return self[0].scores is not None

    @property
    def has_negatives(self) -> bool:
        """Whether its examples have hard negatives, as far as the first ones say."""
        return any(len(self[i].documents) > 1 for i in range(min(len(self), 16)))

    def about(self, name: str = "", licence: str = "", source: str = "") -> TrainingSet:
        """The same set, with what a model card should say of it; "" leaves it as it was."""
        self.name = name or self.name
        self.licence = licence or self.licence
        self.source = source or self.source
        return self


class TableSet(TrainingSet):
    """Rows of a table as examples.

    Args:
        rows: mappings by number: a list, `JsonLines`, `Parquet`, a `datasets.Dataset`.
        columns: `Columns`, or a list of `Column`; None: by position, as sentence-transformers has
            it, all texts.
        folder: names of files in the rows start here and may not leave it; None: anywhere.

    Raises DataError: no row, a column that is not there, or a first row that does not fit.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        columns: Columns | Sequence[Column] | None = None,
        *,
        name: str = "",
        folder: Path | None = None,
    ) -> None:
        self.name = name or Path(getattr(rows, "path", "data")).stem
        if not len(rows):
            raise DataError(f"{self.name}: no rows")
        there = _names(rows)
        if columns is None:
            columns = by_position(there)
        elif not isinstance(columns, Columns):
            columns = Columns(tuple(columns))
        columns.check(there, self.name)
        self.rows = _undecoded(rows, columns)
        self.columns = columns
        self.folder = folder
        self[0]  # a column of another type than was said fails here, not in the first step

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Example:
        where = getattr(self.rows, "where", None)
        place = where(i) if callable(where) else f"{self.name}, row {i + 1}"
        return self.columns.example(self.rows[i], place, self.folder)


class IdSet(TrainingSet):
    """Queries and documents by id.

    Args:
        rows: for each example the query's id, its documents' ids (positive first) and their scores,
            or None.
        queries, documents: id -> raw item; an item of another modality than text may be opened on
            access.
        query, document: how they are read; `Column.name` is not looked at.

    Raises DataError: no row, or an id that is not there.
    """

    def __init__(
        self,
        rows: Sequence[tuple[str, Sequence[str], Sequence[float] | None]],
        queries: Mapping[str, Any],
        documents: Mapping[str, Any],
        query: Column | None = None,
        document: Column | None = None,
        *,
        name: str = "data",
    ) -> None:
        self.name = name
        self.rows = rows
        self.queries, self.documents = queries, documents
        self.query = query or Column("query", "query")
        self.document = document or Column("document", "document")
        if not rows:
            raise DataError(f"{name}: no example")
        for number, (asked, found, scores) in enumerate(rows, start=1):
            if not found or (scores is not None and len(scores) != len(found)):
                given = "none" if scores is None else len(scores)
                raise DataError(f"{name}, row {number}: {len(found)} documents, {given} scores")
            for what, key, side in (
                ("query", asked, queries),
                *(("document", one, documents) for one in found),
            ):
                if key not in side:
                    raise DataError(f"{name}, row {number}: no {what} with id {key!r}")

    @classmethod
    def of(
        cls,
        benchmark: Benchmark,
        *,
        negatives: Mapping[str, Sequence[str]] | None = None,
        number: int | None = None,
        prompts: tuple[str, str] = ("", ""),
    ) -> IdSet:
        """An example for each relevant document of each query of a benchmark's qrels.

        Args:
            benchmark: `lateint.evaluation.read_benchmark`: BEIR's, MTEB's and ViDoRe's folders.
            negatives: query -> documents, hardest first, as a run or mining gives them; relevant
                ones are left out. None: those that the qrels grade 0 or below.
            number: most hard negatives; None: all.
            prompts: before each query and each document, where they are texts.
        """
        rows: list[tuple[str, Sequence[str], None]] = []
        for query, grades in benchmark.qrels.items():
            answers = [key for key, grade in grades.items() if grade > 0]
            answers = [key for key in answers if key in benchmark.documents]
            graded = [key for key, grade in grades.items() if grade <= 0]
            pool = graded if negatives is None else negatives.get(query, ())
            hard = [k for k in pool if k not in answers and k in benchmark.documents][:number]
            rows += [(query, (answer, *hard), None) for answer in answers]
        return cls(
            rows,
            benchmark.queries,
            benchmark.documents,
            Column("query", "query", benchmark.query_modality, prompts[0]),
            Column("document", "document", benchmark.document_modality, prompts[1]),
            name=benchmark.name,
        )

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Mapping[str, Any]],
        queries: Mapping[str, Any],
        documents: Mapping[str, Any],
        query: Column | None = None,
        document: Column | None = None,
        *,
        name: str = "data",
    ) -> IdSet:
        """Rows that name ids: {"query_id", "positive_id", "negative_ids", "scores"} as
        `lateint.mining` writes them, or {"query_id", "document_ids", "scores"} as PyLate's
        distillation sets have them (best document first; where the scores say otherwise, they are
        put in order). Scores may be absent or empty."""
        made: list[tuple[str, Sequence[str], Sequence[float] | None]] = []
        for number, row in enumerate(rows, start=1):
            try:
                if "document_ids" in row:
                    found = [str(key) for key in row["document_ids"]]
                else:
                    found = [str(row["positive_id"]), *map(str, row.get("negative_ids") or ())]
                scores = [float(score) for score in row.get("scores") or ()]
                if scores and "document_ids" in row and len(scores) == len(found):
                    order = sorted(range(len(found)), key=lambda i: -scores[i])
                    found, scores = [found[i] for i in order], [scores[i] for i in order]
                made.append((str(row["query_id"]), found, scores or None))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{name}, row {number}: wanted query_id with document_ids, or with positive_id "
                    f"and negative_ids: {error!r}"
                ) from error
        return cls(made, queries, documents, query, document, name=name)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Example:
        asked, found, scores = self.rows[i]
        documents = tuple(self._item(self.documents, key, self.document) for key in found)
        numbers = None if scores is None else tuple(map(float, scores))
        query = self._item(self.queries, asked, self.query)
        return Example(query, documents, numbers, f"{self.name}, row {i + 1}")

    def _item(self, side: Mapping[str, Any], key: str, column: Column) -> Item:
        if column.modality in MEDIA:
            value: Any = Entry(side, key)
            return Item(value, column.modality, key_of(column.role, self.name, key))
        text = column.prompt + str(side[key])
        return Item(text, column.modality, key_of(column.modality, text))


class ExampleSet(TrainingSet):
    """Examples that are there already."""

    def __init__(self, examples: Sequence[Example], name: str = "data") -> None:
        if not examples:
            raise DataError(f"{name}: no example")
        self.examples = examples
        self.name = name

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> Example:
        return self.examples[i]


def read(
    path: Path | str,
    columns: Columns | Sequence[Column] | None = None,
    *,
    name: str = "",
    split: str = "train",
) -> TrainingSet:
    """A training set from a file or a folder.

    .jsonl (and .ndjson): a JSON object a line. .parquet, or a folder of them. A folder that
    `datasets` saved. A folder with queries, corpus and qrels as BEIR, MTEB and ViDoRe have it.
    Files that rows name lie beside the table.

    Args:
        columns: what the columns are for; None: by position, as sentence-transformers has it, all
            texts. Not for folders with qrels.
        name: for the model card; "": the file's.
        split: which qrels of a folder with qrels.

    Raises DataError (or BenchmarkError): says the file, the line and what was wanted.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir() and any((path / n).exists() for n in _QRELS):
        from lateint.evaluation.benchmark import read_benchmark

        if columns is not None:
            raise DataError(f"{path}: a folder with qrels has no columns to choose")
        return IdSet.of(read_benchmark(path, split)).about(name)
    rows: Sequence[Mapping[str, Any]]
    if path.is_dir() and (path / "state.json").is_file():
        rows = _saved(path)
    elif path.is_dir() or path.suffix == ".parquet":
        rows = Parquet(path)
    elif path.suffix in (".jsonl", ".ndjson"):
        rows = JsonLines(path)
    else:
        raise DataError(f"{path}: wanted .jsonl, .parquet, a folder of `datasets` or of qrels")
    folder = path if path.is_dir() else path.parent
    return TableSet(rows, columns, name=name or path.stem, folder=folder)


def as_training_set(data: Any, name: str = "") -> TrainingSet:
    """A TrainingSet as it is; a `datasets.Dataset` or a list of dicts by position."""
    if isinstance(data, TrainingSet):
        return data
    if hasattr(data, "column_names") or (
        isinstance(data, Sequence) and data and isinstance(data[0], Mapping)
    ):
        return TableSet(data, name=name)
    raise TypeError(
        f"training data must be a TrainingSet (lateint.data.read), a datasets.Dataset or a list of "
        f"dicts, got {type(data).__name__}"
    )


def _names(rows: Any) -> list[str]:
    for attribute in ("column_names", "columns"):
        names = getattr(rows, attribute, None)
        if names is not None:
            return list(names)
    return list(rows[0])


def _undecoded(rows: Any, columns: Columns) -> Any:
    """A `datasets.Dataset` whose pictures and recordings stay bytes until a batch needs them."""
    features = getattr(rows, "features", None)
    if features is None or not hasattr(rows, "cast_column"):
        return rows
    for column in columns.columns:
        feature = features.get(column.name)
        if type(feature).__name__ in ("Image", "Audio") and hasattr(feature, "decode"):
            rows = rows.cast_column(column.name, type(feature)(decode=False))
    return rows


def _saved(path: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{path} needs datasets: pip install 'lateint[train]'") from error
    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a folder that datasets saved: {error}") from error
