"""Segment files: named arrays in the safetensors layout, written once, mapped by readers.

Each block of a file has a checksum, kept in the manifest and compared when the block is first
touched, so damage is an error and never a wrong answer. Knows bytes and arrays, not what they mean.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lateint.index.errors import IndexCorrupt
from lateint.index.tokens import IntArray

# Bytes under one checksum: larger is fewer checksums; smaller is less to read, and to hold in
# memory, before a document's few kilobytes may be used.
BLOCK = 16 * 1024
ALIGN = 64  # of the arrays' bytes in the file: one cache line
HEADER_LIMIT = 1 << 20
DTYPES = {
    "F16": "<f2",
    "F32": "<f4",
    "I64": "<i8",
    "U32": "<u4",
    "I32": "<i4",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
}


Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Checksums:
    """What the manifest keeps about a file's bytes."""

    size: int
    block: int  # bytes under one checksum
    blocks: bytes  # crc32 of each block, little-endian uint32

    @classmethod
    def of(cls, data: bytes) -> Checksums:
        summing = _Summing()
        summing.add(memoryview(data))
        return summing.done()


class _Summing:
    """Checksums of bytes that come in pieces."""

    def __init__(self) -> None:
        self._block, self._size, self._sum = BLOCK, 0, 0
        self._sums: list[int] = []

    def add(self, view: memoryview) -> None:
        while view:
            piece = view[: self._block - self._size % self._block]
            self._sum = zlib.crc32(piece, self._sum)
            self._size += len(piece)
            if self._size % self._block == 0:
                self._sums.append(self._sum)
                self._sum = 0
            view = view[len(piece) :]

    def done(self) -> Checksums:
        sums = self._sums + ([self._sum] if self._size % self._block else [])
        return Checksums(self._size, self._block, np.asarray(sums, "<u4").tobytes())


def write_segment(path: Path, arrays: Arrays) -> Checksums:
    """Writes `arrays` to a new file and waits until its bytes are on the disk.

    The caller syncs the folder (once for many files) before it names the file anywhere. The same
    arrays give the same bytes.
    """
    summing = _Summing()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        for view in _pieces(arrays):
            summing.add(view)
            while view:
                view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)
    return summing.done()


def _pieces(arrays: Arrays) -> Iterator[memoryview]:
    """A safetensors file: length of the header, header, arrays (wide types first: all aligned)."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        array = arrays[name]
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGN)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in order:
        if arrays[name].size:
            yield np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data


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
        self._block = checksums.block
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            blocks = -(-size // self._block) if self._block > 0 else -1
            if size != checksums.size or len(self._sums) != blocks or size < 8:
                raise IndexCorrupt(f"{path}: has {size} bytes, the manifest says {checksums.size}")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._checked = np.zeros(len(self._sums), bool)
        self._whole: set[str] = set()  # arrays of which every block was checked
        self._starts: dict[str, int] = {}
        self._arrays = self._parse()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...]:
        return self._array(name).shape

    def sizes(self) -> dict[str, int]:
        """Bytes of each array."""
        return {name: array.nbytes for name, array in self._arrays.items()}

    def expect(self, name: str, dtype: npt.DTypeLike, *shape: int) -> None:
        """Raises IndexCorrupt unless the array is of this type and shape."""
        array = self._array(name)
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise IndexCorrupt(
                f"{self.path}: {name} is {array.dtype} {array.shape}; "
                f"wanted {np.dtype(dtype)} {shape}"
            )

    def read(self, name: str, first: int = 0, last: int | None = None) -> npt.NDArray[Any]:
        """Rows first to last (exclusive) of an array: a read-only view of the file, checked."""
        array = self._array(name)
        if name in self._whole:
            return array[first:last]
        rows = array[first:last]
        if rows.size:
            start = self._starts[name] + rows.ctypes.data - array.ctypes.data
            self._check(start, start + rows.nbytes)
        if len(rows) == len(array):
            self._whole.add(name)
        return rows

    def touch(self, name: str, firsts: IntArray, lasts: IntArray) -> npt.NDArray[Any]:
        """All of an array, of which only the rows firsts[i] to lasts[i] have been checked.

        For callers that will read these rows and no others. Costs little where they were checked
        before."""
        array = self._array(name)
        if name not in self._whole and len(firsts) and array.size:
            width = array.nbytes // len(array)
            firsts = np.clip(firsts, 0, len(array))
            low = (self._starts[name] + firsts * width) // self._block
            stop = self._starts[name] + np.clip(lasts, firsts, len(array)) * width
            counts = np.maximum(-(-stop // self._block) - low, 0)
            ends = np.cumsum(counts)
            blocks = np.arange(ends[-1]) + np.repeat(low - (ends - counts), counts)
            new = np.unique(blocks[~self._checked[blocks]])
            self._compare(new)
            if not len(new) and self._all_checked(self._starts[name], array.nbytes):
                self._whole.add(name)
        return array

    def check(self) -> None:
        """Compares every block again with its checksum, whatever was checked before."""
        self._checked[:] = False
        self._check(0, len(self._bytes))

    def _array(self, name: str) -> npt.NDArray[Any]:
        if name not in self._arrays:
            raise IndexCorrupt(f"{self.path}: has no array {name!r}")
        return self._arrays[name]

    def _check(self, start: int, stop: int) -> None:
        first, last = start // self._block, -(-stop // self._block)
        self._compare(first + np.flatnonzero(~self._checked[first:last]))

    def _all_checked(self, start: int, size: int) -> bool:
        return bool(self._checked[start // self._block : -(-(start + size) // self._block)].all())

    def _compare(self, blocks: IntArray) -> None:
        size = self._block
        for block in blocks.tolist():
            data = self._bytes[block * size : (block + 1) * size]
            if zlib.crc32(data.data) != self._sums[block]:
                raise IndexCorrupt(
                    f"{self.path}: damaged at bytes {block * size} to {block * size + len(data)}"
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
                self._starts[name] = body + start
                arrays[name] = self._bytes[body + start : body + stop].view(dtype).reshape(shape)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IndexCorrupt(f"{self.path}: its header is not valid ({error!r})") from error
        return arrays
