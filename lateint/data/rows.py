"""Tables in files, a row at a time: JSON lines and parquet.

A table is a sequence of mappings from column to value; `where(i)` says which file and line row i
is. JSON lines stay on the disk: of each line only its place is in memory. This module knows no role
and no modality.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from lateint.data.columns import DataError

MAX_LINE = 16 << 20  # bytes of a line: longer is no record of texts and names
MAX_ROWS = 200_000_000


class JsonLines(Sequence[Mapping[str, Any]]):
    """A file of JSON objects, one a line; empty lines are passed over.

    All lines are read once at the start, so that a broken one is an error now and not in the night.
    Raises DataError with file and line: not JSON, no object, too long, other keys than the first.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        places: list[int] = []
        lines: list[int] = []
        self.columns: tuple[str, ...] = ()
        place = 0
        for number, raw in _lines(self.path):
            if raw.strip():
                row = parse_line(raw, f"{self.path}, line {number}", first=number == 1)
                if not self.columns:
                    self.columns = tuple(row)
                elif missing := [name for name in self.columns if name not in row]:
                    raise DataError(
                        f"{self.path}, line {number}: no {missing[0]!r}, which the first line has; "
                        f"its keys are {sorted(row)}"
                    )
                places.append(place)
                lines.append(number)
            place += len(raw)
        if not places:
            raise DataError(f"{self.path}: the file is empty; wanted one JSON object a line")
        self._places = np.array(places, dtype=np.int64)
        self._lines = np.array(lines, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, i: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        # opened anew each time: a handle shared by worker processes would share its position
        with self.path.open("rb") as file:
            file.seek(int(self._places[i]))
            raw = file.readline(MAX_LINE)
        return parse_line(raw, self.where(i), first=int(self._lines[i]) == 1)

    def where(self, i: int) -> str:
        """The file and line of row i."""
        return f"{self.path}, line {int(self._lines[i])}"


class Parquet(Sequence[Mapping[str, Any]]):
    """A parquet file, or all of a folder (in the order of their names), mapped into memory.

    Needs pyarrow. Raises DataError: no such file, not parquet, damaged, no row.
    """

    def __init__(self, path: Path | str) -> None:
        pyarrow, parquet = _pyarrow(path)
        self.path = Path(path)
        files = sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]
        if not files or not files[0].is_file():
            raise DataError(f"{self.path}: no such file, or no *.parquet in it")
        try:
            tables = [parquet.read_table(file, memory_map=True) for file in files]
            self._table = pyarrow.concat_tables(tables, promote_options="default")
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: not parquet, or damaged: {error}") from error
        if not 0 < len(self._table) <= MAX_ROWS:
            raise DataError(f"{self.path}: {len(self._table)} rows; wanted 1 to {MAX_ROWS}")
        self.columns = tuple(self._table.column_names)

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, i: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Mapping[str, Any]]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        return self._table.slice(i, 1).to_pylist()[0]

    def where(self, i: int) -> str:
        """The file and row (from 1) of row i."""
        return f"{self.path}, row {i + 1}"


def stream_json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, row) of each line, without keeping anything. Errors as of `JsonLines`."""
    for number, raw in _lines(path):
        if raw.strip():
            where = f"{path}, line {number}"
            yield where, parse_line(raw, where, first=number == 1)


def stream_parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, row) of each row, some at a time. Errors as of `Parquet`."""
    pyarrow, parquet = _pyarrow(path)
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not parquet, or damaged: {error}") from error


def parse_line(raw: bytes, where: str, *, first: bool = False) -> Mapping[str, Any]:
    """One line as an object; DataError that begins with `where`."""
    try:
        row = json.loads(raw.decode("utf-8-sig" if first else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: wanted an object, got {type(row).__name__}")
    return row


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number in range(1, MAX_ROWS + 2):
                raw = file.readline(MAX_LINE + 1)
                if not raw:
                    return
                if len(raw) > MAX_LINE or number > MAX_ROWS:
                    raise DataError(
                        f"{path}, line {number}: beyond {MAX_LINE} bytes a line or {MAX_ROWS} lines"
                    )
                yield number, raw
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _pyarrow(path: Path | str) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(f"{path} needs pyarrow: pip install 'lateint[train]'") from error
    return pyarrow, parquet
