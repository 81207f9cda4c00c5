"""The last acknowledged commit, written down outside the database.

SQLite drops the tail of a damaged write-ahead log without a word, and so would show an older state
as if it were the newest. This file of two slots says how many commits were acknowledged: a database
that has fewer is damaged. Slots alternate, so a torn write spoils at most the slot being written,
and they are overwritten in place, so a full disk cannot stop them.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from lateint.index.errors import IndexCorrupt, IndexWriteFailed

SLOT = 512  # bytes: one sector, which disks write whole or not at all


class Witness:
    """The file `path` with the number of the last acknowledged commit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> int | None:
        """The number of the last acknowledged commit; None where there is no such file."""
        try:
            with self.path.open("rb") as file:
                data = file.read(2 * SLOT + 1)
        except FileNotFoundError:
            return None
        commits = [_parse(data[:SLOT]), _parse(data[SLOT:])]
        known = [commit for commit in commits if commit is not None]
        if not known or len(data) != 2 * SLOT:
            raise IndexCorrupt(f"{self.path}: damaged, holds no readable commit number")
        return max(known)

    def write(self, commit: int) -> None:
        """Records `commit` and waits until it is on the disk."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if os.fstat(file).st_size != 2 * SLOT:
                    os.ftruncate(file, 0)
                    os.pwrite(file, _slot(commit) * 2, 0)
                else:
                    os.pwrite(file, _slot(commit), SLOT * (commit % 2))
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise IndexWriteFailed(f"{self.path}: cannot be written ({error.strerror})") from error


def _slot(commit: int) -> bytes:
    text = f"lateint commit {commit:020d}"
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode().ljust(SLOT, b" ")


def _parse(slot: bytes) -> int | None:
    words = slot.split()
    if len(words) != 4 or not words[2].isdigit():
        return None
    commit = int(words[2])
    return commit if slot == _slot(commit) else None
