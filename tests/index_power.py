"""Power loss, replayed: what a disk may hold at any moment of a writer's life.

A writer runs under strace, which records what it asks of the disk: bytes, lengths, names, syncs.
From that, the folder can be built as it may be after a power cut at any point. What was synced is
there. What was not may be there, or not, or in part: a file's bytes until the file is synced, a
name until its folder is synced. Memory-mapped writes are not recorded; SQLite makes them only to
`-shm`, which it builds again after a crash.
"""

from __future__ import annotations

import ast
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from index_helpers import ROOT

SECTOR = 512  # written whole or not at all
CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,unlink,unlinkat,rename,close,mkdir"
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")
_STRING = r'"((?:\\x[0-9a-f]{2})*)"'


@dataclass(frozen=True)
class Event:
    """One thing asked of the disk; `path` is relative to the folder, "" the folder itself."""

    kind: str  # create, write, truncate, sync, unlink, said
    path: str
    at: int = 0
    data: bytes = b""


def usable() -> str | None:
    """Why writers cannot be recorded here; None: they can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"strace may not trace here ({tried.stderr[:100]})"


def record(code: str, folder: Path, *args: str) -> list[Event]:
    """Runs `code` with `folder` as its first argument; what it writes to stdout are `said` events."""
    log = folder.with_name("strace")
    command = ["strace", "-o", str(log), "-xx", "-s", "100000000", "-e", f"trace={CALLS}"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    subprocess.run(
        [*command, sys.executable, "-c", code, str(folder), *args],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    with log.open(encoding="ascii") as lines:
        return list(_events(lines, str(folder)))


def _events(lines: Iterator[str], folder: str) -> Iterator[Event]:
    files: dict[int, list[object]] = {}  # open file -> [path, position]
    for line in lines:
        match = _LINE.match(line)
        if not match or int(match[3]) < 0:
            continue
        call, given, result = match[1], match[2], int(match[3])
        texts = [_text(text) for text in re.findall(_STRING, given)]
        paths = [
            path[len(folder) :].strip("/")
            for path in (os.fsdecode(text) for text in texts)
            if path == folder or path.startswith(folder + "/")
        ]
        number = given.split(",")[0]
        file = files.get(int(number)) if number.isdigit() else None
        if call == "openat":
            files.pop(result, None)
            if paths:
                files[result] = [paths[0], 0]
                if "O_CREAT" in given:
                    yield Event("create", paths[0])
                if "O_TRUNC" in given:
                    yield Event("truncate", paths[0], 0)
        elif call == "close":
            files.pop(int(number), None)
        elif call == "write" and number == "1":
            yield Event("said", "", data=texts[0])
        elif call in ("unlink", "unlinkat") and paths:
            yield Event("unlink", paths[0])
        elif call == "rename" and paths:
            raise AssertionError(f"renames are not modelled: {line[:200]}")
        elif file is not None:
            path = str(file[0])
            if call == "pwrite64":
                yield Event("write", path, int(given.rsplit(",", 1)[1]), texts[0][:result])
            elif call == "write":
                yield Event("write", path, int(str(file[1])), texts[0][:result])
                file[1] = int(str(file[1])) + result
            elif call == "ftruncate":
                yield Event("truncate", path, int(given.rsplit(",", 1)[1]))
            elif call in ("fsync", "fdatasync"):
                yield Event("sync", path)


def _text(escaped: str) -> bytes:
    found: bytes = ast.literal_eval(f'b"{escaped}"')
    return found


@dataclass
class _File:
    """A file's content; `pending` are changes since its last sync."""

    synced: bytes = b""
    pending: list[Event] = field(default_factory=list)


class Disk:
    """What a disk holds for sure, and what is under way."""

    def __init__(self) -> None:
        self.names: dict[str, _File] = {}  # as the running system sees them
        self.synced: dict[str, _File] = {}  # as they are on the disk

    def apply(self, event: Event) -> None:
        name = event.path
        if event.kind == "create":
            self.names.setdefault(name, _File())
        elif event.kind in ("write", "truncate"):
            self.names[name].pending.append(event)
        elif event.kind == "unlink":
            self.names.pop(name, None)
        elif event.kind == "sync":
            if name in self.names:
                file = self.names[name]
                file.synced = _changed(file.synced, file.pending, lambda event: event.data)
                file.pending = []
            else:  # a folder: the names in it
                inside = [n for n in {*self.names, *self.synced} if os.path.dirname(n) == name]  # noqa: PTH120
                for entry in inside:
                    self.synced.pop(entry, None)
                    if entry in self.names:
                        self.synced[entry] = self.names[entry]

    def images(self, chance: random.Random) -> Iterator[dict[str, bytes]]:
        """What may be left by a power cut now: name -> content."""

        def torn(event: Event) -> bytes | None:
            return event.data[: SECTOR * chance.randint(0, len(event.data) // SECTOR)]

        def some(event: Event) -> bytes | None:
            return event.data if chance.random() < 0.5 else None

        lost = {name: file.synced for name, file in self.synced.items()}
        yield lost
        for change in (
            lambda event: event.data,  # all is there
            lambda event: bytes(len(event.data)),  # lengths are, bytes are not
            torn,
            some,
        ):
            yield {n: _changed(f.synced, f.pending, change) for n, f in self.names.items()}
        # Contents reached the disk, names did not; and the other way round.
        yield {n: _changed(f.synced, f.pending, lambda e: e.data) for n, f in self.synced.items()}
        yield {name: file.synced for name, file in self.names.items()}
        either = {**self.names, **self.synced}
        yield {
            n: _changed(f.synced, f.pending, some)
            for n, f in either.items()
            if chance.random() < 0.7 or self.names.get(n) is self.synced.get(n)
        }


def _changed(content: bytes, events: list[Event], change: Callable[[Event], bytes | None]) -> bytes:
    """`content` after the writes and truncations of `events`; None leaves a write out."""
    data = bytearray(content)
    for event in events:
        if event.kind == "truncate":
            data = data[: event.at].ljust(event.at, b"\0")
            continue
        written = change(event)
        if written is not None:
            data = data.ljust(event.at, b"\0")
            data[event.at : event.at + len(written)] = written
    return bytes(data)


def build(image: dict[str, bytes], folder: Path) -> None:
    """Writes an image to a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "segments").mkdir(parents=True)
    for name, content in image.items():
        if not name.endswith("-shm"):
            (folder / name).write_bytes(content)
