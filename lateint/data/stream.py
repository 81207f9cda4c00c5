"""Streams: training data too large to be counted, read as it is needed.

A stream has no end (it starts again), so a run over one says how many steps it makes (max_steps).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from lateint.data.columns import Column, Columns, DataError, Example, by_position
from lateint.data.rows import stream_json_lines, stream_parquet

Rows = Iterator[tuple[str, Mapping[str, Any]]]


class Stream(IterableDataset):
    """Examples out of files or any iterable of rows, in an order that depends on `seed` alone.

    Args:
        source: .jsonl and .parquet files; or an iterable of mappings that can be gone through again
            (a `datasets.IterableDataset`, a list).
        columns: as of `TableSet`.
        buffer: examples that are mixed: each is drawn from so many. Larger: better shuffled, more
            memory. 1: in the order of the files.
        folder: names of files in the rows start here and may not leave it; None: each file's own
            folder, anywhere for an iterable.

    Over several processes and workers each takes every n-th row. Raises DataError: no row at all, or
    as of `TableSet` when a row comes that does not fit.
    """

    def __init__(
        self,
        source: Sequence[Path | str] | Iterable[Mapping[str, Any]] | Path | str,
        columns: Columns | Sequence[Column] | None = None,
        *,
        buffer: int = 10_000,
        seed: int = 0,
        folder: Path | None = None,
        name: str = "stream",
    ) -> None:
        if buffer < 1:
            raise ValueError(f"buffer is a number of examples, at least 1, got {buffer}")
        if isinstance(source, (str, Path)):
            source = [source]
        self.source: Any = source
        self.columns = columns if columns is None or isinstance(columns, Columns) else None
        if columns is not None and self.columns is None:
            self.columns = Columns(tuple(columns))  # type: ignore[arg-type]
        self.buffer = buffer
        self.seed = seed
        self.folder = folder
        self.name, self.licence, self.source_name = name, "", ""
        self.processes, self.rank = 1, 0

    def share(self, processes: int, rank: int) -> None:
        """This process's part of it: rows rank, rank + processes, ..."""
        self.processes, self.rank = processes, rank

    def __iter__(self) -> Iterator[Example]:
        worker = get_worker_info()
        workers, own = (1, 0) if worker is None else (worker.num_workers, worker.id)
        parts, part = self.processes * workers, self.rank * workers + own
        draw = random.Random(f"{self.seed} {part}")
        held: list[Example] = []
        while True:
            rows = 0
            for rows, (where, row) in enumerate(self._rows(), start=1):
                if (rows - 1) % parts != part:
                    continue
                example = self._example(where, row)
                if len(held) < self.buffer:
                    held.append(example)
                    continue
                place = draw.randrange(self.buffer)
                yield held[place]
                held[place] = example
            if rows < parts:
                raise DataError(f"{self.name}: {rows} rows for {parts} processes and workers")
            if len(held) < self.buffer or self.buffer == 1:
                # all of it is in memory: a pass is a shuffle; and the buffer starts anew
                draw.shuffle(held)
                yield from held
                held = []

    def known_columns(self) -> Columns:
        """As given, or by the positions in the first row. DataError: there is no row."""
        if self.columns is None:
            first = next(self._rows(), None)
            if first is None:
                raise DataError(f"{self.name}: no rows")
            self.columns = by_position(list(first[1]))
        return self.columns

    def _example(self, where: str, row: Mapping[str, Any]) -> Example:
        if self.columns is None:
            self.columns = by_position(list(row))
        folder = self.folder
        if folder is None and ", " in where and isinstance(self.source, list):
            folder = Path(where.rsplit(", ", 1)[0]).parent
        return self.columns.example(row, where, folder)

    def _rows(self) -> Rows:
        readers: dict[str, Callable[[Path], Rows]] = {
            ".jsonl": stream_json_lines,
            ".ndjson": stream_json_lines,
            ".parquet": stream_parquet,
        }
        for number, part in enumerate(self.source, start=1):
            if isinstance(part, Mapping):
                yield f"{self.name}, row {number}", part
                continue
            path = Path(part)
            if path.suffix not in readers:
                raise DataError(f"{path}: a stream reads {', '.join(readers)}")
            yield from readers[path.suffix](path)
