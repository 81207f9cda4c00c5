"""Segment files: named arrays in the safetensors layout, written once, mapped by readers.

Each block of a file has a checksum, kept in the manifest and compared when the block is first
touched, so damage is an error and never a wrong answer. Knows bytes and arrays, not what they mean.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from lateint.index.errors import IndexCorrupt

BLOCK = 256 * 1024  # bytes under one checksum: larger is fewer checksums, smaller is less to read
HEADER_LIMIT = 1 << 20
DTYPES = {
    "F16": "<f2",
    "F32": "<f4",
    "I64": "<i8",
    "I32": "<i4",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
}


@dataclass(frozen=True)
class Checksums:
    """What the manifest keeps about a file's bytes."""

    size: int
    blocks: bytes  # crc32 of each block, little-endian uint32

    @classmethod
    def of(cls, data: bytes) -> Checksums:
        view = memoryview(data)
        sums = [zlib.crc32(view[start : start + BLOCK]) for start in range(0, len(data), BLOCK)]
        return cls(len(data), np.asarray(sums, "<u4").tobytes())


def write_segment(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> Checksums:
    """Writes `arrays` to a new file and waits until its bytes are on the disk.

    The caller syncs the folder (once for many files) before it names the file anywhere.
    """
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)
    return Checksums.of(data)


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


class SegmentFile:
    """A mapped segment. Opening checks size and header; arrays are checked where they are read.

    Raises FileNotFoundError (the caller knows whether that is damage) and IndexCorrupt.
    """

    def __init__(self, path: Path, checksums: Checksums) -> None:
        self.path = path
        self._sums = np.frombuffer(checksums.blocks, "<u4")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != checksums.size or len(self._sums) != -(-size // BLOCK) or size < 8:
                raise IndexCorrupt(f"{path}: has {size} bytes, the manifest says {checksums.size}")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._checked = np.zeros(len(self._sums), bool)
        self._arrays = self._parse()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...]:
        return self._array(name).shape

    def read(self, name: str, first: int = 0, last: int | None = None) -> npt.NDArray[Any]:
        """Rows first to last (exclusive) of an array: a read-only view of the file, checked."""
        array = self._array(name)
        rows = array[first:last]
        if rows.size:
            start = rows.__array_interface__["data"][0] - self._bytes.__array_interface__["data"][0]
            self._check(start, start + rows.nbytes)
        return rows

    def check(self) -> None:
        """Compares every block again with its checksum, whatever was checked before."""
        self._checked[:] = False
        self._check(0, len(self._bytes))

    def _array(self, name: str) -> npt.NDArray[Any]:
        if name not in self._arrays:
            raise IndexCorrupt(f"{self.path}: has no array {name!r}")
        return self._arrays[name]

    def _check(self, start: int, stop: int) -> None:
        first, last = start // BLOCK, -(-stop // BLOCK)
        for block in first + np.flatnonzero(~self._checked[first:last]):
            data = self._bytes[block * BLOCK : (block + 1) * BLOCK]
            if zlib.crc32(data.data) != self._sums[block]:
                raise IndexCorrupt(
                    f"{self.path}: damaged at bytes {block * BLOCK} to {block * BLOCK + len(data)}"
                )
            self._checked[block] = True

    def _parse(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays as views; extents are checked in Python's integers, which do not overflow."""
        size = len(self._bytes)
        self._check(0, 8)
        body = 8 + int.from_bytes(self._map[:8], "little")
        if not 8 < body <= min(size, HEADER_LIMIT):
            raise IndexCorrupt(f"{self.path}: its header is {body - 8} bytes long")
        self._check(0, body)
        try:
            header: dict[str, Any] = json.loads(self._map[8:body])
            arrays = {}
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                dtype, shape = np.dtype(DTYPES[entry["dtype"]]), [int(n) for n in entry["shape"]]
                start, stop = (int(n) for n in entry["data_offsets"])
                count = 1
                for n in shape:
                    count *= n
                if (
                    min([start, *shape]) < 0
                    or stop > size - body
                    or stop - start != count * dtype.itemsize
                ):
                    raise ValueError(f"{name!r} does not fit the file")
                arrays[name] = self._bytes[body + start : body + stop].view(dtype).reshape(shape)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IndexCorrupt(f"{self.path}: its header is not valid ({error!r})") from error
        return arrays
