"""Raw items of other modalities than text, opened when a batch is made and not before.

Files are named in tables relative to the table's folder: "gull.jpg", "report.pdf#page=3",
"gull.wav". What is opened goes through `modalities.media` and `modalities.pdf` and their limits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lateint.data.columns import DataError, Item, key_of

PAGE_DPI = 100.0  # of rendered PDF pages: what a collection does unless told otherwise


@dataclass(frozen=True)
class PdfPage:
    """A page of a PDF, rendered when it is opened. number: from 1."""

    path: Path
    number: int
    dpi: float = PAGE_DPI

    def open(self) -> Any:
        from modalities import pdf

        return next(iter(pdf.pages(self.path, dpi=self.dpi, numbers=[self.number]))).image


@dataclass(frozen=True)
class Stored:
    """A file's bytes out of a table (parquet, `datasets`)."""

    data: bytes
    modality: str

    def open(self) -> Any:
        from modalities.media import open_audio, open_image

        # through a file, so that bytes meet the same door and the same limits as files do
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "item"
            path.write_bytes(self.data)
            return open_audio(path) if self.modality == "audio" else open_image(path)


@dataclass(frozen=True)
class Entry:
    """The item `name` of a mapping that may open files on access (a benchmark's)."""

    items: Mapping[str, Any]
    name: str

    def open(self) -> Any:
        return self.items[self.name]


def page_item(path: Path, number: int, dpi: float = PAGE_DPI, modality: str = "page") -> Item:
    """A page of a PDF as an item."""
    return Item(
        PdfPage(path, number, dpi), modality, key_of(modality, f"{path}#page={number}@{dpi:g}")
    )


def file_item(path: Path, modality: str) -> Item:
    """A file as an item: its encoder opens it."""
    return Item(path, modality, key_of(modality, str(path)))


def media_item(value: Any, modality: str, where: str, folder: Path | None) -> Item:
    """A value of a column of pictures, pages or recordings: a file's name, its bytes, or the thing
    itself. Raises DataError for anything else, for a file that is not there or outside `folder`."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        data = value["bytes"]
        return Item(Stored(data, modality), modality, key_of(modality, data))
    if isinstance(value, Mapping) and "array" in value and "sampling_rate" in value:
        return _recording(value["array"], value["sampling_rate"], modality, where)
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        value = value["path"]
    if isinstance(value, (str, Path)):
        return _file(value, modality, where, folder)
    if modality == "audio":
        from modalities.media import Audio

        if isinstance(value, Audio):
            return Item(value, modality, key_of(modality, value.samples.tobytes()))
    else:
        from PIL.Image import Image

        if isinstance(value, Image):
            return Item(value, modality, key_of(modality, str(value.size), value.tobytes()))
    what = "a recording" if modality == "audio" else "a picture"
    raise DataError(
        f"{where}: wanted {what}, its bytes or a file's name, got {type(value).__name__}"
    )


def _file(value: str | Path, modality: str, where: str, folder: Path | None) -> Item:
    name, _, place = str(value).partition("#page=")
    path = Path(name) if folder is None else folder / name
    if folder is not None and not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{where}: {name!r} lies outside of {folder}")
    if not path.is_file():
        raise DataError(f"{where}: {path}: no such file")
    if path.suffix.lower() == ".pdf":
        if not place.isdecimal() or int(place) < 1:
            raise DataError(f"{where}: {str(value)!r} names no page; wanted {name}#page=3")
        return page_item(path, int(place), modality=modality)
    return file_item(path, modality)


def _recording(array: Any, rate: Any, modality: str, where: str) -> Item:
    import numpy as np

    from modalities.media import Audio

    samples = np.asarray(array, dtype=np.float32)
    if samples.ndim == 2:  # datasets gives channels first
        samples = samples.mean(axis=0)
    if modality != "audio":
        raise DataError(f"{where}: wanted {modality}, got a recording")
    audio = Audio(samples, int(rate))
    return Item(audio, modality, key_of(modality, audio.samples.tobytes()))
