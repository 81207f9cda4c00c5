"""A progress bar for long runs, on stderr, and only where somebody is watching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Told the file at hand, its number (from 1), how many files there are, and the documents so far.
Watcher = Callable[[Path, int, int, int], None]


@contextmanager
def watching(
    wanted: bool | Watcher, files: Sequence[Path]
) -> Iterator[Callable[[Path, int], None]]:
    """A function to call with the file at hand and the number of documents so far.

    wanted: False for nothing, True for a bar (nothing either where stderr is no terminal), or a
    function to be told. `files` are all that will come, in order.
    """
    if callable(wanted):
        tell, numbers = wanted, {path: number for number, path in enumerate(files, start=1)}
        yield lambda path, documents: tell(path, numbers[path], len(files), documents)
        return
    if not wanted or not sys.stderr.isatty():
        yield lambda path, documents: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("files, {task.fields[documents]} documents"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(files), documents=0)
        places = {path: place for place, path in enumerate(files)}

        def show(path: Path, documents: int) -> None:
            name = path.name.replace("[", r"\[")  # rich reads brackets as style
            bar.update(task, completed=places[path], description=name, documents=documents)

        yield show


@contextmanager
def counting(label: str, total: int | None, show: bool) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many items were done."""
    if not show:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
