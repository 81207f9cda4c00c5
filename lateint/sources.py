"""Files on disk -> documents to encode: which files, which documents in each, with which metadata.

A PDF gives one document a page, a picture one, a text file one for each part of some hundred words,
a recording one for each half minute. Documents come one at a time, so that a file of any length
fits into memory. This module knows no encoder, no index and no collection.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from modalities.pdf import Word

Kind = Literal["pdf", "image", "text", "audio"]

SUFFIXES: dict[str, Kind] = {
    ".pdf": "pdf",
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"), "image"),
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst"), "text"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"), "audio"),
}
PICTURES: tuple[Kind, ...] = ("pdf", "image")  # documents that can be shown
METADATA = (
    "path",
    "kind",
    "page",
    "part",
    "title",
    "section",
    "modified",
    "size",
    "width",
    "height",
    "start",
    "end",
    "duration",
    "rate",
)
MAX_TEXT_BYTES = 50_000_000
PART_WORDS = 250  # a part of a text; larger: fewer documents, less exact places
PART_SECONDS = 30.0  # of a recording; larger: fewer documents, less exact places
LEAST_SECONDS = 2.0  # a shorter rest at a recording's end belongs to the part before it
MAX_WORD_CHARACTERS = 200  # in a text; longer runs are data, and are cut

_WORD = re.compile(r"\S+")
_HEADING = re.compile(r"^\s{0,3}#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)


class SourceError(ValueError):
    """A file, or one page of it, cannot be read: `reason` says why and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class SourceDocument:
    """One document before it is encoded.

    suffix: what its id has after the file's name ("", "#page=3", "#part=2"); number: from 1;
    item: what the encoder takes, a PIL image, a str or a media.Audio; text: the text layer or the
    text itself, "" where there is none; words: of the text layer, with boxes; metadata: JSON values.
    """

    suffix: str
    number: int
    kind: Kind
    item: Any
    text: str = ""
    words: tuple[Word, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


Problem = Callable[[str], None]  # told the reason when one page of a file cannot be read


def walk(folder: Path, *, skip: Collection[Path] = ()) -> Iterator[Path | SourceError]:
    """Files of a known kind below `folder`, by name; folders that cannot be listed as SourceError.

    Hidden files and folders (`.git`, `.lateint`) and the folders in `skip` are passed over;
    links to folders are not followed, so a circle of links ends.
    """
    errors: list[OSError] = []
    for top, folders, files in os.walk(folder, onerror=errors.append):
        here = Path(top)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and here / f not in skip)
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield here / name
        while errors:
            error = errors.pop()
            place = Path(error.filename or folder)
            yield SourceError(place, f"the folder cannot be listed ({error.strerror})")


def kind_of(path: Path) -> Kind:
    """What kind of file this is, by its suffix. Raises SourceError for a suffix not known."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(sorted(SUFFIXES))
        raise SourceError(path, f"not a kind of file that can be indexed (known: {known})")
    return kind


def regular(path: Path) -> os.stat_result:
    """Size and time of a file. Raises SourceError for what is no plain file (opening a pipe would
    wait for ever), OSError where it is not there."""
    facts = path.stat()
    if not S_ISREG(facts.st_mode):
        raise SourceError(path, "not a regular file")
    return facts


def digest(path: Path) -> str:
    """SHA-256 of the content, as hexadecimal digits."""
    state = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def read(
    path: Path,
    *,
    dpi: float = 100,
    wanted: Callable[[int], bool] = lambda number: True,
    on_problem: Problem | None = None,
) -> Iterator[SourceDocument]:
    """The documents of one file, lazily, in order.

    dpi: of rendered pages. wanted: asked with each document's number before it is rendered.
    on_problem: told about a page that cannot be read, and the next page follows; without it such a
    page raises. Raises SourceError for a file that cannot be read at all.
    """
    kind = kind_of(path)
    try:
        stat = regular(path)
        common = {
            "kind": kind,
            "title": path.stem,
            "modified": datetime.fromtimestamp(stat.st_mtime, timezone.utc).isoformat(
                timespec="seconds"
            ),
            "size": stat.st_size,
        }
        if kind == "pdf":
            yield from _pages(path, common, dpi, wanted, on_problem)
        elif kind == "image":
            if wanted(1):
                yield _picture(path, common)
        elif kind == "audio":
            yield from _stretches(path, common, wanted, on_problem)
        else:
            yield from _parts(path, common, wanted)
    except OSError as error:
        raise SourceError(path, error.strerror or str(error)) from error


def _pages(
    path: Path,
    common: dict[str, Any],
    dpi: float,
    wanted: Callable[[int], bool],
    on_problem: Problem | None,
) -> Iterator[SourceDocument]:
    from modalities import pdf

    try:
        numbers = [n for n in range(1, pdf.page_count(path) + 1) if wanted(n)]
        sections = [(entry.page, _valid(entry.title)) for entry in pdf.outline(path)]
        report = None if on_problem is None else lambda error: on_problem(_page_reason(error))
        for page in pdf.pages(path, dpi=dpi, numbers=numbers, on_error=report):
            width, height = page.size
            metadata = {**common, "page": page.number, "width": width, "height": height}
            if before := [title for at, title in sections if at <= page.number]:
                metadata["section"] = before[-1]
            suffix = f"#page={page.number}"
            yield SourceDocument(
                suffix, page.number, "pdf", page.image, page.text, page.words, metadata
            )
    except pdf.PdfError as error:
        raise SourceError(path, _page_reason(error)) from error


def _valid(text: str) -> str:
    """Without the lone surrogates that damaged files have."""
    return text.encode("utf-8", "replace").decode()


def _page_reason(error: Any) -> str:
    return error.reason if error.page is None else f"page {error.page}: {error.reason}"


def _picture(path: Path, common: dict[str, Any]) -> SourceDocument:
    from modalities import media

    try:
        image = media.open_image(path)
    except media.MediaError as error:
        raise SourceError(path, str(error).removeprefix(f"{path}: ")) from error
    metadata = {**common, "width": image.width, "height": image.height}
    return SourceDocument("", 1, "image", image, metadata=metadata)


def _stretches(
    path: Path,
    common: dict[str, Any],
    wanted: Callable[[int], bool],
    on_problem: Problem | None,
) -> Iterator[SourceDocument]:
    """A recording in parts. One that ends before its header says is read up to there."""
    from modalities import media

    try:
        facts = media.audio_facts(path)
        about = {**common, "duration": round(facts.seconds, 3), "rate": facts.rate}
        for number, (start, end) in enumerate(cut_recording(facts.seconds), start=1):
            if not wanted(number):
                continue
            try:
                sound = media.open_audio(path, start=start, seconds=end - start)
            except media.MediaError as error:
                if number == 1 or on_problem is None:
                    raise
                on_problem(f"part {number}: {error.reason}")
                return
            metadata = {**about, "part": number, "start": start, "end": round(end, 3)}
            suffix = "" if number == 1 else f"#part={number}"
            yield SourceDocument(suffix, number, "audio", sound, metadata=metadata)
    except media.MediaError as error:
        raise SourceError(path, error.reason) from error


def cut_recording(seconds: float) -> list[tuple[float, float]]:
    """Where the parts of a recording begin and end, in seconds. Part n begins at (n - 1) times
    PART_SECONDS, however long the recording is, so that its id means the same for ever."""
    count = max(1, math.ceil((seconds - LEAST_SECONDS) / PART_SECONDS))
    starts = [number * PART_SECONDS for number in range(count)]
    return list(zip(starts, [*starts[1:], seconds], strict=True))


def _parts(
    path: Path, common: dict[str, Any], wanted: Callable[[int], bool]
) -> Iterator[SourceDocument]:
    text = read_text(path)
    title = _title(text, path)
    parts = split_text(text)
    for number, part in enumerate(parts, start=1):
        if wanted(number):
            metadata = {**common, "title": title, "part": number}
            suffix = "" if number == 1 else f"#part={number}"
            yield SourceDocument(suffix, number, "text", part, part, metadata=metadata)


def read_text(path: Path) -> str:
    """The whole text of a file: UTF-8, else UTF-16 with its mark, else Windows-1252.

    Raises SourceError for a file that is empty, too large or no text.
    """
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise SourceError(path, f"{size} bytes, the limit for texts is {MAX_TEXT_BYTES}: split it")
    raw = path.read_bytes()
    try:
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
            text = raw.decode("utf-16")
        else:
            text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    if "\0" in text:
        raise SourceError(path, "not a text (it has zero bytes)")
    if not text.strip():
        raise SourceError(path, "the file is empty")
    return text


def split_text(text: str, words: int = PART_WORDS) -> list[str]:
    """Cut a text into parts of at most `words` words: between paragraphs where it can, else lines,
    sentences or words. Every word is in exactly one part; the first part's id never depends on
    how many follow."""
    pieces: list[tuple[str, int]] = []  # (piece, words), the smallest cuts that are needed
    for paragraph in re.split(r"\n\s*\n", text):
        pieces.extend(_fit(paragraph.strip("\n"), words))
    parts: list[str] = []
    held: list[str] = []
    count = 0
    for piece, size in pieces:
        if held and count + size > words:
            parts.append("\n\n".join(held))
            held, count = [], 0
        held.append(piece)
        count += size
    return [*parts, "\n\n".join(held)] if held else parts


def _fit(piece: str, limit: int) -> list[tuple[str, int]]:
    """`piece` whole if it has at most `limit` words, else cut at lines, sentences or words."""
    found = _WORD.findall(piece)
    if not found:
        return []
    longest = max(len(word) for word in found)
    if len(found) <= limit and longest <= MAX_WORD_CHARACTERS:
        return [(piece, len(found))]
    for boundary in (r"\n", r"(?<=[.!?…])\s+"):
        smaller = [part for part in re.split(boundary, piece) if part.strip()]
        if len(smaller) > 1:
            return [fitted for part in smaller for fitted in _fit(part, limit)]
    step = MAX_WORD_CHARACTERS
    cut = [word[i : i + step] for word in found for i in range(0, len(word), step)]
    runs = [cut[i : i + limit] for i in range(0, len(cut), limit)]
    return [(" ".join(run), len(run)) for run in runs]


def _title(text: str, path: Path) -> str:
    """The first Markdown heading, else the first line if it is short, else the file's name."""
    if path.suffix.lower() in (".md", ".markdown") and (heading := _HEADING.search(text)):
        return heading.group(1)[:200]
    first = text.strip().split("\n", 1)[0].strip()
    return first if len(first) <= 80 else path.stem
