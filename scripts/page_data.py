"""Training samples for the page reader: crops of public PDF pages with labelled cells.

A sample's labels come from the PDF's own text layer: every character says in which cell of the
reader's lattice its centre lies, what it is, and what stands before and after it in its word.
"""

from __future__ import annotations

import gzip
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scans
from PIL import Image

from modalities import pdf, words
from modalities.reader import CELL

TRAINING = (
    "texlive-publishers-doc", "texlive-pictures-doc", "texlive-latex-recommended-doc",
    "texlive-science-doc", "texlive-humanities-doc", "texlive-lang-english", "r-doc-pdf",
    "erlang-doc", "db5.3-doc", "linuxcnc-doc-en", "pari-doc",
)  # fmt: skip
CYRILLIC = (  # of texlive-lang-cyrillic: those whose text layer says what is printed
    "lshort-bg.pdf", "lshort-ukr.pdf", "mpman-ru.pdf", "texlive-ru.pdf", "texlive-sr.pdf",
    "eskdx.pdf", "ugost2008n.pdf", "ugost2008s.pdf", "gost2008ns.pdf", "rules60.pdf",
    "rules_ph.pdf", "churchslavonic-ru.pdf", "pst-eucl-docBG.pdf", "proba.pdf",
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


def cyrillic(root: Path) -> list[Path]:
    """The PDFs with Cyrillic print below root/pkg; none where the package is not there."""
    return [p for p in pdfs(root, ("texlive-lang-cyrillic",)) if p.name in CYRILLIC]


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


def cut(
    image: Image.Image,
    chars: Characters,
    size: tuple[int, int],
    rng: random.Random,
    hard: float = 0.5,
) -> Crop:
    """A crop of a grey page around a character, scanned somehow (badly for a share of `hard`), with
    the labels inside it: half of them around one of a size that is unusual on its page."""
    width, height = image.size
    rows, columns = size
    unusual = np.flatnonzero(np.abs(np.log(chars.height / np.median(chars.height))) > 0.12)
    if len(unusual) and rng.random() < 0.5:  # headings, small print: rare, and what people ask for
        pick = int(rng.choice(unusual.tolist()))
    else:
        pick = rng.randrange(len(chars.x))
    x, y = chars.x * width, chars.y * height
    left = int(x[pick] - rng.uniform(0.1, 0.9) * columns)
    top = int(y[pick] - rng.uniform(0.1, 0.9) * rows)
    left = max(min(left, width - columns), min(0, width - columns))
    top = max(min(top, height - rows), min(0, height - rows))
    paper = int(np.median(np.asarray(image)[::8, ::8]))
    scan = scans.any_scan(rng, hard)
    if scan.straight:
        crop = Image.new("L", (columns, rows), paper)
        crop.paste(image, (-left, -top))
        x, y = x - left, y - top
    else:
        place = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]], dtype=np.float64)
        homography = place @ scans.matrix(scan, (left + columns / 2, top + rows / 2))
        crop = scans.warp(image, homography, (columns, rows), paper)
        x, y = scans.moved(homography, x, y)
    cells, share, index = _cells(x / CELL[1], y / CELL[0], columns // CELL[1], rows // CELL[0])
    classes = np.stack([chars.here, chars.before, chars.after], axis=1)[index]
    tall = (chars.height[index] * height).astype(np.float32)
    return Crop(scans.soil(crop, scan, rng.getrandbits(32)), cells, share, classes, tall)


def _cells(
    x: np.ndarray, y: np.ndarray, columns: int, rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column (N, 2) of the cells that centres (in cells) fall into, each centre's share,
    and the centre's index; a centre near the edge between two rows belongs to both in part."""
    inside = np.flatnonzero((x >= 0) & (x < columns) & (y >= 0) & (y < rows))
    row, column = np.floor(y[inside]).astype(np.int64), np.floor(x[inside]).astype(np.int64)
    part = y[inside] - row
    cells, share, kept = [np.stack([row, column], 1)], [np.ones(len(row))], [inside]
    for side, near in ((-1, BLUR_ROWS - part), (1, part - (1 - BLUR_ROWS))):
        other = np.flatnonzero((near > 0) & (row + side >= 0) & (row + side < rows))
        lost = near[other] / (2 * BLUR_ROWS)
        share[0][other] -= lost
        cells.append(np.stack([row[other] + side, column[other]], 1))
        share.append(lost)
        kept.append(inside[other])
    together = np.concatenate(share).astype(np.float32)
    return np.concatenate(cells), together, np.concatenate(kept)


CYRILLIC_SHARE = 0.2  # of the public pages, where there are any


@dataclass(frozen=True)
class Shelf:
    """PDFs that can be opened, with how many pages each has; some, and others."""

    pools: tuple[dict[Path, int], dict[Path, int]]

    @classmethod
    def of(cls, paths: list[Path], others: list[Path] | None = None) -> Shelf:
        pools = ({}, {})
        for pool, members in zip(pools, (paths, others or []), strict=True):
            for path in members:
                try:
                    pool[path] = pdf.page_count(path)
                except pdf.PdfError as error:
                    print(f"left out: {error}", file=sys.stderr)
        return cls(pools)


def crops(shelf: Shelf, size: tuple[int, int], seed: int, hard: float = 0.5) -> Iterator[Crop]:
    """Endless crops from random pages: a file by the root of its pages, then six of its pages;
    CYRILLIC_SHARE of them from the others, if there are any. hard: see `cut`."""
    rng = random.Random(seed)
    pools = [[*pool] for pool in shelf.pools]
    weights = [[min(count, 100) ** 0.5 for count in pool.values()] for pool in shelf.pools]
    while True:
        which = int(bool(pools[1]) and rng.random() < CYRILLIC_SHARE)
        path = rng.choices(pools[which], weights[which])[0]
        count = shelf.pools[which][path]
        numbers = sorted(rng.sample(range(1, count + 1), min(6, count)))
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
            for _ in range(3):
                yield cut(page.image, chars, size, rng, hard)
