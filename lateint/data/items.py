"""Raw items of other modalities than text as training reads them: what a column holds -> `Item`.

Files and bytes are opened when a batch is made and not before (`lateint.openers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lateint.data.columns import DataError, Item, key_of
from lateint.openers import PAGE_DPI, ItemError, PdfPage, Stored, named


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
    try:
        found = named(value, folder)
    except ItemError as error:
        raise DataError(f"{where}: {error}") from error
    if isinstance(found, PdfPage):
        return page_item(found.path, found.number, modality=modality)
    return file_item(found, modality)


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
