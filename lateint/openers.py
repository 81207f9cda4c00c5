"""What tables of training data and benchmarks hold in place of a picture, a page or a recording: a
file's name, a page's name or bytes, opened when the item is asked for and not before.

Names are relative to the table's folder and may not leave it: "gull.jpg", "report.pdf#page=3",
"gull.wav". What is opened goes through `modalities.media` and `modalities.pdf` and their limits.
Knows no table.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE_DPI = 100.0  # of rendered PDF pages: what a collection does unless told otherwise


class ItemError(ValueError):
    """A name that leads to no item; the message says what was wanted, the caller where it stands."""


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


def named(name: str | Path, folder: Path | None, dpi: float = PAGE_DPI) -> Path | PdfPage:
    """The file or page that a table names. folder: where names start and what they may not leave;
    None: anywhere. Raises ItemError: no such file, outside of the folder, a PDF without a page."""
    file, _, place = str(name).partition("#page=")
    path = Path(file) if folder is None else folder / file
    if folder is not None and not path.resolve().is_relative_to(folder.resolve()):
        raise ItemError(f"{str(name)!r} lies outside of {folder}")
    if not path.is_file():
        raise ItemError(f"{path}: no such file")
    if path.suffix.lower() != ".pdf":
        return path
    if not place.isdecimal() or int(place) < 1:
        raise ItemError(f"{str(name)!r} names no page; wanted {file}#page=3")
    return PdfPage(path, int(place), dpi)
