"""One writer at a time: an advisory lock on a file that names its holder.

The kernel drops the lock when its process dies, so there is no stale lock to clear. Knows nothing
of what is being written.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from lateint.index.errors import IndexLocked, IndexWriteFailed


class WriterLock:
    """Holds `path` exclusively from construction to `release()`.

    Raises IndexLocked at once, with the holder's pid, where another writer has it. A forked child
    shares the open file, so it must neither write nor release: `release()` in a child only closes
    its own copy and leaves the parent's lock as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pid = os.getpid()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise IndexWriteFailed(
                f"{path}: cannot be opened for writing ({error.strerror})"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(self._file)
            os.close(self._file)
            if isinstance(error, BlockingIOError):
                raise IndexLocked(path, holder) from None
            raise IndexWriteFailed(f"{path}: cannot be locked ({error.strerror})") from error
        with suppress(OSError):  # a full disk: the lock holds, without a name on it
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{self.pid}\n".encode(), 0)

    @property
    def held(self) -> bool:
        """Whether this very process (not a forked child of it) holds the lock."""
        return self._file >= 0 and os.getpid() == self.pid

    def release(self) -> None:
        """Gives the lock back; may be called twice."""
        if self._file < 0:
            return
        if self.held:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)
        self._file = -1


def _holder(file: int) -> int | None:
    """The pid in a lock file; a holder writes it just after it has locked, so look a few times."""
    for _ in range(10):
        text = os.pread(file, 32, 0).strip()
        if text.isdigit():
            return int(text)
        time.sleep(0.005)
    return None
