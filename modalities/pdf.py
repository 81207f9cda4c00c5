"""PDF files to page images with their text layer and outline, through pypdfium2.

The only module that knows PDF. It renders, and it reads the words that a file carries with
their boxes; what a page means, and retrieval, are for others. Everything is lazy: one page is in
memory at a time. pdfium is not thread safe: use one process, not one thread, per parallel reader.

Coordinates leave this module as fractions of the page's width and height with the origin at the
top left, after the page's own rotation and crop box: they fit the rendered image at any size.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_FILE_BYTES = 2_000_000_000
MAX_PAGES = 20_000
MAX_PIXELS = 40_000_000  # a page: A0 at 120 dpi has 22 million
MAX_CHARACTERS = 200_000  # a page: the densest of 50,000 real pages has 24,000


class PdfError(ValueError):
    """A PDF, or one of its pages, cannot be read. Says which file, which page and why."""

    def __init__(self, path: Path | str, reason: str, page: int | None = None) -> None:
        self.path, self.reason, self.page = Path(path), reason, page
        where = f"{path}" if page is None else f"{path}, page {page}"
        super().__init__(f"{where}: {reason}")


@dataclass(frozen=True)
class Word:
    """A word of the text layer; `box` is x0, y0, x1, y1 in fractions of the page."""

    text: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Glyphs:
    """The characters of a text layer, in reading order, white space included.

    text: N characters; boxes: (N, 4) float32 x0, y0, x1, y1, the advance box of each (full line
    height); baseline: (N,) float32; both as fractions of the page, origin top left. Characters
    that stand for nothing on the page (generated spaces and line ends) have an empty box.
    """

    text: str
    boxes: np.ndarray
    baseline: np.ndarray

    def _leaves_line(self, i: int) -> bool:
        """Whether character i stands on another line than the one before it. Print that runs up
        or down the page is a line too: its characters stand right above one another."""
        height = self.boxes[i, 3] - self.boxes[i, 1]
        if height <= 0 or abs(self.baseline[i] - self.baseline[i - 1]) <= 0.6 * height:
            return False
        (x0, y0, x1, y1), (u0, v0, u1, v1) = self.boxes[i].tolist(), self.boxes[i - 1].tolist()
        beside = min(x1, u1) - max(x0, u0) > 0.8 * min(x1 - x0, u1 - u0)
        apart = max(y0, v0) - min(y1, v1)
        return not (beside and apart < 0.5 * float(height))

    def words(self) -> tuple[Word, ...]:
        """Runs of characters on one line without white space, with the union of their boxes."""
        found: list[Word] = []
        start = 0
        for end in range(len(self.text) + 1):
            blank = end == len(self.text) or self.text[end].isspace()
            if blank or (end > start and self._leaves_line(end)):
                box = self.boxes[start:end]
                box = box[(box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])]
                if len(box):
                    x0, y0 = box[:, :2].min(axis=0).tolist()
                    x1, y1 = box[:, 2:].max(axis=0).tolist()
                    found.append(Word(self.text[start:end], (x0, y0, x1, y1)))
                start = end + 1 if blank else end
        return tuple(found)


@dataclass(frozen=True)
class Page:
    """One page: its image, where it comes from, and the words of its text layer.

    image: PIL image, grey or RGB; number: counted from 1; size: width and height in points (1/72
    inch) as shown, after rotation; words: empty where the page has no text layer.
    """

    image: Image
    source: Path
    number: int
    size: tuple[float, float]
    words: tuple[Word, ...] = ()

    @property
    def text(self) -> str:
        """The text layer as one string, words separated by blanks."""
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True)
class OutlineEntry:
    """A bookmark: its title, the page it points to (counted from 1) and its depth from 0."""

    title: str
    page: int
    level: int


@contextmanager
def _document(path: Path | str, *, max_pages: int = MAX_PAGES) -> Iterator[Any]:
    """An open pdfium document, or PdfError with the reason in words."""
    import pypdfium2 as pdfium
    import pypdfium2.raw as raw

    path = Path(path)
    try:
        facts = path.stat()
    except OSError as error:
        raise PdfError(path, f"cannot be opened ({error.strerror})") from error
    if not S_ISREG(facts.st_mode):  # opening a pipe would wait for ever
        raise PdfError(path, "not a regular file")
    size = facts.st_size
    if size == 0:
        raise PdfError(path, "the file is empty (0 bytes)")
    if size > MAX_FILE_BYTES:
        raise PdfError(path, f"{size} bytes, the limit is {MAX_FILE_BYTES}: split the file")
    try:
        with path.open("rb"):  # pdfium would not say why it cannot
            pass
        raw.FPDF_LoadDocument(b"", None)  # pdfium keeps its last error: this makes it "no file"
        document = pdfium.PdfDocument(path)
    except OSError as error:
        raise PdfError(path, f"cannot be opened ({error.strerror})") from error
    except pdfium.PdfiumError as error:
        code = getattr(error, "err_code", None)
        if code == raw.FPDF_ERR_PASSWORD:
            reason = "encrypted: save a copy without a password"
        elif code == raw.FPDF_ERR_FILE:  # no error of its own: a sound file, with nothing in it
            reason = "it has no pages"
        else:
            reason = "not a PDF, or too damaged to open: repair it (for example print it anew)"
        raise PdfError(path, reason) from error
    try:
        count = len(document)
        if count == 0:
            raise PdfError(path, "it has no pages")
        if count > max_pages:
            raise PdfError(path, f"{count} pages, the limit is {max_pages}: split the file")
        yield document
    finally:
        document.close()


def page_count(path: Path | str) -> int:
    """Number of pages. Raises PdfError for a file that cannot be read."""
    with _document(path) as document:
        return len(document)


def pages(
    path: Path | str,
    *,
    dpi: float = 100,
    grey: bool = False,
    numbers: range | list[int] | None = None,
    on_error: Callable[[PdfError], None] | None = None,
) -> Iterator[Page]:
    """Render a PDF page by page.

    dpi: pixels per inch of the page; higher shows smaller print and costs its square in time.
    grey: 8-bit grey images instead of RGB. numbers: which pages (from 1), default all.
    on_error: called for a page that cannot be read, and the next page follows; without it the
    PdfError is raised. A file that cannot be opened always raises, before the first page.
    """
    path = Path(path)
    with _document(path) as document:
        for number in numbers if numbers is not None else range(1, len(document) + 1):
            try:
                yield _page(document, path, number, dpi, grey)
            except PdfError as error:
                if on_error is None:
                    raise
                on_error(error)


def _page(document: Any, path: Path, number: int, dpi: float, grey: bool) -> Page:
    import pypdfium2 as pdfium

    page = _open_page(document, path, number)
    try:
        width, height = page.get_size()
        pixels = (width * dpi / 72) * (height * dpi / 72)
        if not 0 < pixels <= MAX_PIXELS or min(width, height) * dpi / 72 < 1:
            raise PdfError(
                path,
                f"{width:.0f} x {height:.0f} points is {pixels / 1e6:.1f} megapixels at {dpi:g} "
                f"dpi, the limit is {MAX_PIXELS / 1e6:.0f}: render it at a lower dpi",
                number,
            )
        image = page.render(scale=dpi / 72, grayscale=grey).to_pil()
        words = _glyphs(page, path, number).words()
        return Page(image if grey else image.convert("RGB"), path, number, (width, height), words)
    except pdfium.PdfiumError as error:
        raise PdfError(path, f"damaged page ({error})", number) from error
    finally:
        page.close()


def _open_page(document: Any, path: Path, number: int) -> Any:
    import pypdfium2 as pdfium

    if not 1 <= number <= len(document):
        raise PdfError(path, f"no such page: the file has {len(document)}", number)
    try:
        return document[number - 1]
    except pdfium.PdfiumError as error:
        raise PdfError(path, "damaged page", number) from error


def glyphs(
    path: Path | str, numbers: range | list[int] | None = None
) -> Iterator[tuple[int, Glyphs]]:
    """The text layer of each page (number from 1, Glyphs), without rendering anything. Raises
    PdfError for a file or a page that cannot be read."""
    import pypdfium2 as pdfium

    path = Path(path)
    with _document(path) as document:
        for number in numbers if numbers is not None else range(1, len(document) + 1):
            page = _open_page(document, path, number)
            try:
                yield number, _glyphs(page, path, number)
            except pdfium.PdfiumError as error:
                raise PdfError(path, f"damaged page ({error})", number) from error
            finally:
                page.close()


def _glyphs(page: Any, path: Path, number: int) -> Glyphs:
    import pypdfium2.raw as raw

    textpage = page.get_textpage()
    try:
        count = textpage.count_chars()
        if count > MAX_CHARACTERS:
            raise PdfError(path, f"{count} characters, the limit is {MAX_CHARACTERS}", number)
        text: list[str] = []
        # left, right, bottom, top of the advance box, and the baseline's origin, in page units
        table = np.zeros((count, 6), dtype=np.float64)
        rect, x, y = raw.FS_RECTF(), ctypes.c_double(), ctypes.c_double()
        unicode_of, box_of = raw.FPDFText_GetUnicode, raw.FPDFText_GetLooseCharBox
        origin_of, generated = raw.FPDFText_GetCharOrigin, raw.FPDFText_IsGenerated
        for i in range(count):
            code = unicode_of(textpage, i)
            text.append(chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else " ")
            if generated(textpage, i) == 1 or not box_of(textpage, i, rect):
                continue
            origin_of(textpage, i, x, y)
            table[i] = rect.left, rect.top, rect.right, rect.bottom, x.value, y.value
        start, axes = _to_fractions(page, raw)
        first = start + table[:, 0:2] @ axes
        second = start + table[:, 2:4] @ axes
        origin = start + table[:, 4:6] @ axes
        boxes = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)
        boxes[~table.any(axis=1)] = 0
        return Glyphs("".join(text), boxes.astype(np.float32), origin[:, 1].astype(np.float32))
    finally:
        textpage.close()


def _to_fractions(page: Any, raw: Any) -> tuple[np.ndarray, np.ndarray]:
    """The affine map (start, axes) from page units to fractions of the page as shown.

    pdfium knows crop box and rotation; three of its points determine the map.
    """
    span, reach = 1_000_000, 10_000.0
    corners = []
    for px, py in ((0.0, 0.0), (reach, 0.0), (0.0, reach)):
        x, y = ctypes.c_int(), ctypes.c_int()
        raw.FPDF_PageToDevice(page, 0, 0, span, span, 0, px, py, x, y)
        corners.append((x.value / span, y.value / span))
    start = np.array(corners[0])
    axes = (np.array(corners[1:]) - start) / reach
    return start, axes


def outline(path: Path | str, *, max_entries: int = 20_000) -> list[OutlineEntry]:
    """The file's bookmarks in order. Entries without a title or a page are left out."""
    import pypdfium2 as pdfium

    entries: list[OutlineEntry] = []
    with _document(path) as document:
        try:
            for bookmark in document.get_toc(max_depth=8):
                title = " ".join((bookmark.get_title() or "").split())
                target = bookmark.get_dest()
                index = target.get_index() if target is not None else None
                if title and index is not None and 0 <= index < len(document):
                    entries.append(OutlineEntry(title, index + 1, bookmark.level))
                if len(entries) >= max_entries:
                    break
        except (pdfium.PdfiumError, UnicodeError):
            return entries
    return entries
