"""Training samples for the page reader: crops of public PDF pages with labelled cells.

A sample's labels come from the PDF's own text layer: every character says in which cell of the
reader's lattice its centre lies, what it is, and what stands before and after it in its word.
"""

from __future__ import annotations

import gzip
import io
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from modalities import pdf, words
from modalities.reader import CELL

TRAINING = (
    "texlive-publishers-doc", "texlive-pictures-doc", "texlive-latex-recommended-doc",
    "texlive-science-doc", "texlive-humanities-doc", "texlive-lang-english", "r-doc-pdf",
    "erlang-doc", "db5.3-doc", "linuxcnc-doc-en", "pari-doc",
)  # fmt: skip
CENTRE_RISE = 0.22  # of the line's height: from the baseline up to the middle of small letters


def unpack(folder: Path) -> None:
    """Unzip `*.pdf.gz` beside themselves, as some packages ship them."""
    for packed in sorted(folder.rglob("*.pdf.gz")):
        plain = packed.with_suffix("")
        if not plain.exists():
            with gzip.open(packed) as source, plain.open("wb") as target:
                shutil.copyfileobj(source, target)


def pdfs(root: Path, packages: tuple[str, ...]) -> list[Path]:
    """The PDFs of the named packages below root/pkg, in a fixed order."""
    found: list[Path] = []
    for package in packages:
        unpack(root / "pkg" / package)
        found += sorted(p for p in (root / "pkg" / package).rglob("*.pdf") if p.is_file())
    return found


@dataclass
class Characters:
    """Labels of a page's characters. x, y (centre) and height in fractions of the page's height
    or width as the name says; here, before, after: classes."""

    x: np.ndarray
    y: np.ndarray
    height: np.ndarray
    here: np.ndarray
    before: np.ndarray
    after: np.ndarray


def characters(glyphs: pdf.Glyphs) -> Characters:
    """Letters and digits of a text layer with their neighbours inside the word."""
    rows: list[tuple[float, float, float, int]] = []
    breaks: list[bool] = []  # a word begins at this row
    fresh, last = True, None
    for i, character in enumerate(glyphs.text):
        x0, y0, x1, y1 = glyphs.boxes[i].tolist()
        folded = words.fold(character) if character.isalnum() else ""
        if not folded or x1 <= x0 or y1 <= y0:
            if not folded:
                fresh = True
            continue
        height = y1 - y0
        y = float(glyphs.baseline[i]) - CENTRE_RISE * height
        if last is not None and (abs(y - last[1]) > 0.6 * height or not -1 < x0 - last[0] < 0.08):
            fresh = True
        last = (x1, y)
        for k, letter in enumerate(folded):
            x = x0 + (x1 - x0) * (k + 0.5) / len(folded)
            rows.append((x, y, height, words.codes(letter)[0]))
            breaks.append(fresh)
            fresh = False
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    here = table[:, 3].astype(np.int64)
    first = np.array([*breaks, True], dtype=bool)
    before, after = np.roll(here, 1), np.roll(here, -1)
    before[first[:-1]] = words.BOUNDARY
    after[first[1:]] = words.BOUNDARY
    return Characters(table[:, 0], table[:, 1], table[:, 2], here, before, after)


def soil(image: Image.Image, rng: random.Random) -> np.ndarray:
    """Ink in 0..1 (float32) of a grey crop, made a little worse as the world does."""
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    if rng.random() < 0.1:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=rng.randint(30, 80))
        image = Image.open(packed)
    ink = 1 - np.asarray(image, dtype=np.float32) / 255
    if rng.random() < 0.3:
        ink = ink * rng.uniform(0.4, 1.0) + rng.uniform(0, 0.15)
    if rng.random() < 0.05:
        ink = 1 - ink
    if rng.random() < 0.25:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(
            0, rng.uniform(0.01, 0.1), ink.shape
        )
        ink = ink + noise.astype(np.float32)
    return np.clip(ink, 0, 1)


@dataclass
class Crop:
    """ink (H, W) float32; cells (N, 2) row and column of labelled cells with the share of the
    centre that falls into them (N,); classes (N, 3) here, before, after; height (N,) in pixels."""

    ink: np.ndarray
    cells: np.ndarray
    share: np.ndarray
    classes: np.ndarray
    height: np.ndarray


BLUR_ROWS = 0.15  # a centre this near a cell's edge (in cells) belongs to both rows


def cut(image: Image.Image, chars: Characters, size: tuple[int, int], rng: random.Random) -> Crop:
    """A crop of a grey page around a character, with the labels inside it: half of them around one
    of a size that is unusual on its page, where there is one."""
    width, height = image.size
    rows, columns = size
    unusual = np.flatnonzero(np.abs(np.log(chars.height / np.median(chars.height))) > 0.12)
    if len(unusual) and rng.random() < 0.5:  # headings, small print: rare, and what people ask for
        pick = int(rng.choice(unusual.tolist()))
    else:
        pick = rng.randrange(len(chars.x))
    left = int(chars.x[pick] * width - rng.uniform(0.1, 0.9) * columns)
    top = int(chars.y[pick] * height - rng.uniform(0.1, 0.9) * rows)
    left = max(min(left, width - columns), min(0, width - columns))
    top = max(min(top, height - rows), min(0, height - rows))
    paper = int(np.median(np.asarray(image)[::8, ::8]))
    crop = Image.new("L", (columns, rows), paper)
    crop.paste(image, (-left, -top))
    x, y = (chars.x * width - left) / CELL[1], (chars.y * height - top) / CELL[0]
    inside = (x >= 0) & (x < columns // CELL[1]) & (y >= 0) & (y < rows // CELL[0])
    x, y = x[inside], y[inside]
    classes = np.stack([chars.here, chars.before, chars.after], axis=1)[inside]
    tall = chars.height[inside] * height
    row, column = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    part = y - row
    cells, share, kept = [np.stack([row, column], 1)], [np.ones(len(row))], [np.arange(len(row))]
    for side, near in ((-1, BLUR_ROWS - part), (1, part - (1 - BLUR_ROWS))):
        other = np.flatnonzero((near > 0) & (row + side >= 0) & (row + side < rows // CELL[0]))
        lost = near[other] / (2 * BLUR_ROWS)
        share[0][other] -= lost
        cells.append(np.stack([row[other] + side, column[other]], 1))
        share.append(lost)
        kept.append(other)
    index = np.concatenate(kept)
    return Crop(
        soil(crop, rng), np.concatenate(cells), np.concatenate(share).astype(np.float32),
        classes[index], tall[index].astype(np.float32),
    )  # fmt: skip


def crops(paths: list[Path], size: tuple[int, int], seed: int) -> Iterator[Crop]:
    """Endless crops from random pages: a file by the root of its pages, then six of its pages."""
    rng = random.Random(seed)
    counts: dict[Path, int] = {}
    for path in paths:
        try:
            counts[path] = pdf.page_count(path)
        except pdf.PdfError as error:
            print(f"left out: {error}", file=sys.stderr)
    files = list(counts)
    weights = [min(counts[path], 100) ** 0.5 for path in files]
    while True:
        path = rng.choices(files, weights)[0]
        numbers = sorted(rng.sample(range(1, counts[path] + 1), min(6, counts[path])))
        # the larger ones show print as large as headings and slides have it
        dpi = rng.choice((100, 100, rng.uniform(75, 135), rng.uniform(120, 220)))
        try:
            layers = dict(pdf.glyphs(path, numbers))
            found = list(pdf.pages(path, dpi=dpi, grey=True, numbers=numbers))
        except pdf.PdfError:
            continue
        for page in found:
            chars = characters(layers[page.number])
            if len(chars.x) < 30:
                continue
            for _ in range(2):
                yield cut(page.image, chars, size, rng)
