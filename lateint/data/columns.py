"""What the columns of a table are for, and what a row of it becomes: an `Example`.

    Column("question", "query")                     a query, read by the text encoder
    Column("answer_page", "document", "page")       its positive, read by the page encoder
    Column("hard", "document", "page")              a hard negative, or a list of them

Role and modality are said, never guessed from a name. The first document column holds the positive,
those after it hard negatives; a column whose values are lists gives several. `by_position` is what
sentence-transformers' data sets mean by the order of their columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

Role = Literal["query", "document"]
SCORE_NAMES = ("label", "labels", "score", "scores")
MEDIA = ("page", "image", "audio")
MAX_DOCUMENTS = 1000  # of one example


class DataError(ValueError):
    """Training data cannot be used: which file and line, what is there, what was wanted."""


@runtime_checkable
class Opener(Protocol):
    """A raw item that is not in memory yet (a page of a PDF, a picture's bytes)."""

    def open(self) -> Any:
        """The item as its encoder takes it."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    name: in the table. role: "query" or "document". modality: the encoder that reads it, a key of
    the model's `encoders`. prompt: put before each text of the column; for texts only.
    """

    name: str
    role: Role
    modality: str = "text"
    prompt: str = ""

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise DataError(
                f'column {self.name!r}: role must be "query" or "document", got {self.role!r} '
                "(columns of scores are named in `scores`)"
            )
        if self.prompt and self.modality in MEDIA:
            raise DataError(f"column {self.name!r}: a prompt is for texts, not for {self.modality}")


@dataclass(frozen=True)
class Item:
    """A raw item and the encoder that reads it. key: equal for equal items, 63 bits."""

    value: Any
    modality: str
    key: int

    def opened(self) -> Any:
        """The value as its encoder takes it; opens a file where it must."""
        return self.value.open() if isinstance(self.value, Opener) else self.value


@dataclass(frozen=True)
class Example:
    """A query with its documents: the positive first, then its hard negatives.

    scores: a teacher's (or labels), one for each document; None: there are none. where: what errors
    call the row.
    """

    query: Item
    documents: tuple[Item, ...]
    scores: tuple[float, ...] | None = None
    where: str = ""


@dataclass(frozen=True)
class Columns:
    """The columns of a table that training reads.

    columns: exactly one query, at least one document column. scores: names of columns with scores:
        one that holds a list (a number for each document; or one for each negative, taken as the
        positive's margin over it) or a number (of two documents the margin between them, of one its
        score); or several that hold one number for each document.
    negatives: most hard negatives that are kept, the first ones; None: all. More: a harder task,
        and a step costs as much more.
    best_first: order a row's documents by falling score, so that the best is the positive.
    """

    columns: tuple[Column, ...]
    scores: tuple[str, ...] = ()
    negatives: int | None = None
    best_first: bool = False
    query: Column = field(init=False)
    documents: tuple[Column, ...] = field(init=False)

    def __post_init__(self) -> None:
        queries = [column for column in self.columns if column.role == "query"]
        documents = tuple(column for column in self.columns if column.role == "document")
        if len(queries) != 1 or not documents:
            raise DataError(
                f"wanted one query column and at least one document column, got {len(queries)} "
                f"and {len(documents)}"
            )
        names = [column.name for column in self.columns] + list(self.scores)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"columns named twice: {twice}")
        if self.negatives is not None and self.negatives < 0:
            raise DataError(f"negatives must be at least 0, got {self.negatives}")
        if self.best_first and not self.scores:
            raise DataError("best_first needs a column of scores")
        object.__setattr__(self, "query", queries[0])
        object.__setattr__(self, "documents", documents)

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read."""
        return (*(column.name for column in self.columns), *self.scores)

    def check(self, there: Sequence[str], where: str) -> None:
        """DataError unless a table with the columns `there` has the ones that are read."""
        missing = [name for name in self.names if name not in there]
        if missing:
            raise DataError(f"{where}: no column {missing[0]!r}; its columns are {sorted(there)}")

    def example(self, row: Mapping[str, Any], where: str, folder: Path | None = None) -> Example:
        """A row as an Example. folder: where names of files in the row start; they may not leave
        it (None: anywhere). Raises DataError that begins with `where`."""
        self.check(list(row), where)
        asked = row[self.query.name]
        if asked is None or isinstance(asked, (list, tuple)):
            raise DataError(f"{where}: {self.query.name!r}: wanted one query, got {asked!r:.60}")
        query = make_item(asked, self.query, where, folder)
        documents: list[Item] = []
        for column in self.documents:
            value = row[column.name]
            values = value if isinstance(value, (list, tuple)) else [value]
            items = [make_item(v, column, where, folder) for v in values if v is not None]
            if not documents and (not items or values[0] is None):
                raise DataError(f"{where}: {column.name!r}: the positive is missing")
            documents += items
        if len(documents) > MAX_DOCUMENTS:
            raise DataError(f"{where}: {len(documents)} documents, the limit is {MAX_DOCUMENTS}")
        scores = self._scores(row, len(documents), where)
        if scores is not None and self.best_first:
            given = scores
            order = sorted(range(len(given)), key=lambda i: -given[i])
            documents = [documents[i] for i in order]
            scores = tuple(given[i] for i in order)
        if self.negatives is not None:
            documents = documents[: 1 + self.negatives]
            scores = None if scores is None else scores[: 1 + self.negatives]
        return Example(query, tuple(documents), scores, where)

    def _scores(self, row: Mapping[str, Any], count: int, where: str) -> tuple[float, ...] | None:
        if not self.scores:
            return None
        value = row[self.scores[0]]
        if len(self.scores) > 1:
            numbers = [row[name] for name in self.scores]
        elif isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
            numbers = list(value) if isinstance(value, (list, tuple)) else value.tolist()
            numbers = numbers if isinstance(numbers, list) else [numbers]
        else:
            numbers = [value]
        if not numbers:
            return None
        if not all(isinstance(n, (int, float)) for n in numbers):
            raise DataError(f"{where}: {self.scores[0]!r}: wanted numbers, got {value!r:.60}")
        if len(numbers) == count:
            if count == 1 and numbers[0] <= 0:
                raise DataError(
                    f"{where}: the only document has the label {numbers[0]:g}, so it is no answer; "
                    "leave such rows out, or put a query's documents into one row"
                )
            return tuple(float(n) for n in numbers)
        if len(numbers) == count - 1:  # margins of the positive over each negative
            return (0.0, *(-float(n) for n in numbers))
        raise DataError(
            f"{where}: {len(numbers)} scores for {count} documents; wanted {count}, or the "
            f"{count - 1} margins of the positive over the others"
        )


def by_position(
    names: Sequence[str],
    *,
    modalities: Mapping[str, str] | None = None,
    prompts: Mapping[str, str] | None = None,
    negatives: int | None = None,
) -> Columns:
    """sentence-transformers' convention: the order of the columns says what they are.

    The first column is the query (anchor), the second its positive, those after it hard negatives;
    a column called label, labels, score or scores holds the scores, wherever it stands.

    Args:
        names: of all columns, in order.
        modalities: column -> modality, for those that hold no text.
        prompts: column -> prompt. negatives: as in `Columns`.

    Raises DataError: fewer than two columns besides scores, or a modality or prompt for a column
    that is not there.
    """
    modalities, prompts = modalities or {}, prompts or {}
    items = [name for name in names if name not in SCORE_NAMES]
    for name in (*modalities, *prompts):
        if name not in items:
            raise DataError(f"no column {name!r} to read; the columns are {list(names)}")
    if len(items) < 2:
        raise DataError(f"wanted a query and a positive by position, got columns {list(names)}")
    columns = tuple(
        Column(
            name,
            "query" if place == 0 else "document",
            modalities.get(name, "text"),
            prompts.get(name, ""),
        )
        for place, name in enumerate(items)
    )
    scores = tuple(name for name in names if name in SCORE_NAMES)
    return Columns(columns, scores[:1], negatives)


def make_item(value: Any, column: Column, where: str, folder: Path | None = None) -> Item:
    """A value of a column as an Item; DataError where it is not of the column's modality."""
    if column.modality in MEDIA:
        from lateint.data.items import media_item

        return media_item(value, column.modality, f"{where}: {column.name!r}", folder)
    if not isinstance(value, str):
        raise DataError(
            f"{where}: {column.name!r}: wanted a text, got {type(value).__name__} {value!r:.60} "
            "(other modalities are said: Column(name, role, modality))"
        )
    text = column.prompt + value
    return Item(text, column.modality, key_of(column.modality, text))


def key_of(*parts: str | bytes) -> int:
    """63 bits that are equal for equal parts (and for others only by a rare accident)."""
    state = hashlib.blake2b(digest_size=8)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(raw).to_bytes(8, "little"))
        state.update(raw)
    return int.from_bytes(state.digest(), "little") >> 1
