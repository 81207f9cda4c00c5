"""Reading an export (export.py) back into an index.

Strict, as such files come from elsewhere: only the names that an export has, regular files, the sizes
and checksums that export.json lists; nothing is unpacked outside of a new folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from lateint.index.catalog import Document, check_ids, check_text, encode_metadata
from lateint.index.change import Change
from lateint.index.codec import Codec
from lateint.index.codecfile import CodecFile
from lateint.index.errors import IndexCorrupt, IndexExists, IndexTooNew, LateintIndexError
from lateint.index.export_format import (
    CHUNK,
    DOCUMENTS,
    FACTS,
    FORMAT,
    VERSION,
    beside,
    digest,
    facts_digest,
)
from lateint.index.folder import writing
from lateint.index.segments import Arrays, Checksums, SegmentFile, sync_folder
from lateint.index.storage import KINDS

if TYPE_CHECKING:
    from lateint.index.index import Index

FACTS_LIMIT = 64 << 20  # bytes of export.json
LINE_LIMIT = 256 << 20  # bytes of a document's line
_NAME = re.compile(r"documents\.jsonl|tokens-\d{5,9}\.safetensors|codec-\d{1,9}\.safetensors")


def load(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> Index:
    """A new index in the folder `path` out of an export (folder or tar file), open for writing.

    It answers as the exported one did. Raises IndexExists, IndexCorrupt (what is wrong with the
    export, with the file's name), IndexTooNew, IndexWriteFailed; then `path` is not made.
    """
    from lateint.index.index import Index

    source, path = Path(source), Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise IndexExists(f"{path}: exists already; give a new or empty folder")
    making = beside(path)
    try:
        with writing(path), _opened(source, making / "unpacked") as folder:
            facts = _facts(folder)
            _check_files(folder, facts)
            with _foreign(folder / FACTS):
                index = _created(facts, making / "index")
            with index:
                with index._storage.transaction() as change:
                    _Reader(folder, facts, change).read()
                index.refresh()
                index.verify()
            if path.exists():
                path.rmdir()
            (making / "index").rename(path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return Index.open(path, write=True)


@contextmanager
def _opened(source: Path, room: Path) -> Iterator[Path]:
    """The folder of an export; a tar file is unpacked into `room`."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise IndexCorrupt(f"{source}: is neither a folder nor a file; give an export")
    room.mkdir(parents=True)
    try:
        with tarfile.open(source, mode="r:") as archive:  # uncompressed: nothing can swell
            _unpack(source, archive, room)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise IndexCorrupt(
            f"{source}: is no uncompressed tar file, or damaged ({error})"
        ) from error
    yield room


def _unpack(source: Path, archive: tarfile.TarFile, room: Path) -> None:
    listed: dict[str, int] | None = None
    total = source.stat().st_size
    for info in archive:
        name = info.name
        if not info.isreg() or info.issparse() or not (_NAME.fullmatch(name) or name == FACTS):
            raise IndexCorrupt(f"{source}: holds {name!r:.100}, which no export holds; refused")
        if listed is None and name != FACTS:
            raise IndexCorrupt(f"{source}: does not begin with {FACTS}")
        limit = FACTS_LIMIT if listed is None else listed.get(name, -1)
        if info.size > min(limit, total) or (room / name).exists():
            raise IndexCorrupt(
                f"{source}: {name} is too large, not listed, or there twice; refused"
            )
        body = archive.extractfile(info)
        assert body is not None  # it is a regular file
        with body, (room / name).open("xb") as file:
            shutil.copyfileobj(body, file, CHUNK)
        if listed is None:
            listed = {key: value["bytes"] for key, value in _facts(room)["files"].items()}


def _facts(folder: Path) -> dict[str, Any]:
    """export.json, whole and of a version that this package reads."""
    path = folder / FACTS
    if not _regular(path) or path.stat().st_size > FACTS_LIMIT:
        raise IndexCorrupt(f"{path}: is missing, no regular file, or too large")
    with _foreign(path):
        facts: dict[str, Any] = json.loads(path.read_bytes())
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']!r:.50}")
        if facts["version"] > VERSION:
            raise IndexTooNew(
                f"{path}: is of version {facts['version']}, this lateint reads up to {VERSION}; "
                "upgrade lateint"
            )
        if facts["sha256"] != facts_digest(facts):
            raise ValueError("its checksum does not fit")
        for name, file in facts["files"].items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"lists the file {name!r:.100}")
            if not isinstance(file["bytes"], int) or file["bytes"] < 0:
                raise ValueError(f"size of {name}")
        names = [DOCUMENTS, *(part["file"] for part in facts["parts"])]
        names += [f"codec-{int(number)}.safetensors" for number in facts["codecs"]]
        if sorted(names) != sorted(facts["files"]):
            raise ValueError("its lists of files do not fit together")
    return facts


def _check_files(folder: Path, facts: dict[str, Any]) -> None:
    """Every listed file as listed; no other is looked at."""
    for name, file in facts["files"].items():
        path = folder / name
        if not _regular(path):
            raise IndexCorrupt(f"{path}: is missing, or no regular file")
        if path.stat().st_size != file["bytes"] or digest(path) != file["sha256"]:
            raise IndexCorrupt(f"{path}: is not the file that {FACTS} lists (size or SHA-256)")


def _created(facts: dict[str, Any], path: Path) -> Index:
    from lateint.index.index import Index

    options = dict(facts["options"])
    if isinstance(fde := options.get("fde"), dict):
        options["fde"] = {name: value for name, value in fde.items() if name != "dim"}
    return Index.create(path, facts["dim"], model=facts["model"], **options)


@dataclass
class _Reader:
    """Puts what an export holds into a change."""

    folder: Path
    facts: dict[str, Any]
    change: Change

    def read(self) -> None:
        codecs: dict[int, CodecFile] = {}
        for key, said in self.facts["codecs"].items():
            path = self.folder / f"codec-{int(key)}.safetensors"
            with _foreign(path):
                codec = Codec.from_arrays(_arrays(path))
                number = int(key)
                codecs[number] = self.change.add_codec(
                    codec, int(said["tokens"]), float(said["energy"])
                )
        with (self.folder / DOCUMENTS).open("rb") as lines:
            for part in self.facts["parts"]:
                self._read_part(part, codecs, lines)
            if lines.read(1):
                raise IndexCorrupt(f"{self.folder / DOCUMENTS}: has more lines than documents")
        with _foreign(self.folder / FACTS):
            manifest, present = self.change.manifest, self.facts["codec"]
            tokens, energy = self.facts["fresh"]
            self.change.manifest = replace(
                manifest,
                codec=codecs[present].number if present else 0,
                fresh_tokens=int(tokens),
                fresh_energy=float(energy),
            )
            if (manifest.documents, manifest.tokens) != (
                self.facts["documents"],
                self.facts["tokens"],
            ):
                raise ValueError("its counts are not those of the documents")

    def _read_part(
        self, part: dict[str, Any], codecs: dict[int, CodecFile], lines: IO[bytes]
    ) -> None:
        path = self.folder / part["file"]
        with _foreign(path):
            arrays = _arrays(path)
            lengths = arrays.pop("lengths")
            if lengths.dtype != np.int64 or lengths.ndim != 1 or (lengths < 1).any():
                raise ValueError("lengths")
            if not len(lengths) or len(lengths) != part["documents"]:
                raise ValueError("number of documents")
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            numbers = self.change.new_numbers(len(lengths))
            kind = KINDS[part["kind"]]
            codec = None if part["codec"] is None else codecs[part["codec"]]
            whole = {"documents": numbers, "offsets": offsets, **arrays}
            self.change.add_segment(part["kind"], kind.joined([whole], codec), codec)
        self._read_documents(numbers.tolist(), lengths.tolist(), lines)

    def _read_documents(self, numbers: list[int], lengths: list[int], lines: IO[bytes]) -> None:
        path = self.folder / DOCUMENTS
        rows, texts = [], []
        with _foreign(path):
            for number, length, line in zip(
                numbers, lengths, islice(_lines(lines), len(numbers)), strict=True
            ):
                said = json.loads(line)
                (name,) = check_ids([said["id"]])
                if said["tokens"] != length:
                    raise ValueError(f"tokens of {name!r:.100}")
                rows.append(Document(number, name, length, encode_metadata(said["metadata"], name)))
                texts.append(check_text(said["text"], name))
            if len({row.id for row in rows}) < len(rows) or self.change.catalog.numbers(
                [row.id for row in rows]
            ):
                raise ValueError("has an id twice")
        self.change.catalog.insert(rows, texts)
        self.change.count(len(rows), sum(lengths))


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    while line := file.readline(LINE_LIMIT):
        yield line


def _arrays(path: Path) -> Arrays:
    """All arrays of a safetensors file; extents are checked by SegmentFile."""
    file = SegmentFile(path, Checksums.of(path.read_bytes()))
    return {name: file.read(name) for name in file.sizes()}


@contextmanager
def _foreign(path: Path) -> Iterator[None]:
    """What other people's data break as IndexCorrupt, with the file's name."""
    try:
        yield
    except (IndexCorrupt, IndexTooNew, OSError):
        raise
    except (
        LateintIndexError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise IndexCorrupt(
            f"{path}: does not hold what an export holds ({error!r:.300})"
        ) from error


def _regular(path: Path) -> bool:
    """Whether it is a file of its own: no link, folder, pipe or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
