"""What can go wrong with an index: one class for each thing a caller would do differently.

Every message says what was found, what was wanted and what to do, and names the file. This module
knows no storage and no numbers.
"""

from __future__ import annotations

from os import PathLike


class LateintIndexError(Exception):
    """Base of every error that `lateint.index` raises on purpose."""


class IndexMissing(LateintIndexError, FileNotFoundError):
    """There is no index in this folder (or its creation never finished)."""


class IndexExists(LateintIndexError, FileExistsError):
    """`create` found an index, or a folder with other people's files, where it was to make one."""


class IndexLocked(LateintIndexError):
    """Another writer holds the index; `pid` is its process, None where it could not be read."""

    def __init__(self, path: str | PathLike[str], pid: int | None, why: str = "") -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"{path}: {why or f'{holder} is writing to this index'}; one writer at a time: wait "
            "until it has closed the index, or open it for reading (write=False)"
        )
        self.path = path
        self.pid = pid


class IndexTooNew(LateintIndexError):
    """Written by a later version of lateint: upgrade the package, the data are fine."""


class IndexTooOld(LateintIndexError):
    """In a format that this version no longer reads: open it with an older lateint, or rebuild."""


class IndexCorrupt(LateintIndexError):
    """Damaged data. `problems` lists each finding; every finding names its file."""

    def __init__(self, *problems: str) -> None:
        advice = "restore the index folder from a copy, or build it again from the documents"
        super().__init__("; ".join(problems) + f" ({advice})")
        self.problems = problems


class IndexMismatch(LateintIndexError, ValueError):
    """Sound data, made for something else: another width, another model."""


class IndexWriteFailed(LateintIndexError, OSError):
    """The disk refused (full, read-only, broken). Nothing of the failed write was kept."""


class IndexClosed(LateintIndexError):
    """Used after `close()`, in a forked child, or for writing while opened for reading."""


class DuplicateId(LateintIndexError, ValueError):
    """An id given twice, or added while the index already holds it."""


class UnknownId(LateintIndexError, KeyError):
    """An id that the index does not hold."""

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return str(self.args[0]) if self.args else ""


class BadTokens(LateintIndexError, ValueError):
    """Token matrices that cannot be indexed or searched: NaN, empty, wrong shape or type."""


class BadDocument(LateintIndexError, ValueError):
    """An id, metadata or text that cannot be kept."""


class NoTextSearch(LateintIndexError):
    """Search by words is not to be had: no FTS5 in this Python, or texts not indexed by word."""


class BadFilter(LateintIndexError, ValueError):
    """A `where` expression that is wrong, not allowed or too expensive."""
