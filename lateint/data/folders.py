"""Training sets out of folders that nobody labelled: PDFs with outlines, pictures with captions.

A document says by itself what many of its pages are about: its outline names pages, and a sentence
of a page is a question that the page answers. Knows files; no encoder.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lateint.data.columns import Column, DataError, Example, Item, make_item
from lateint.data.items import file_item, page_item
from lateint.data.rows import stream_json_lines
from lateint.data.sets import ExampleSet
from lateint.openers import PAGE_DPI

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
RECORDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff")
CAPTIONS = ("captions.jsonl", "metadata.jsonl")
MAX_CAPTION_BYTES = 100_000
SENTENCE_WORDS = (5, 40)  # shorter ones are headings and numbers, longer ones tables

Problem = Callable[[str], None]


def outline_pages(
    folder: Path | str,
    *,
    negatives: int = 0,
    dpi: float = PAGE_DPI,
    seed: int = 0,
    on_problem: Problem | None = None,
) -> ExampleSet:
    """A title of a PDF's outline and the page that it names.

    Args:
        folder: a PDF, or a folder with PDFs at any depth.
        negatives: other pages of the same document, drawn by `seed`, as hard negatives; as many as
            there are where there are fewer. More: harder, and each costs a page more in a step.
        dpi: of rendered pages. Higher: smaller print is read, time grows with its square.
        on_problem: told about a file that cannot be read, and the next follows; None: it raises.
    """
    ask = Column("title", "query")
    examples: list[Example] = []
    for path, count in _pdfs(Path(folder), on_problem):
        from modalities import pdf

        for entry in pdf.outline(path):
            where = f"{path}, page {entry.page}"
            draw = random.Random(f"{seed} {path.name} {entry.page} {entry.title}")
            others = [n for n in range(1, count + 1) if n != entry.page]
            numbers = [entry.page, *draw.sample(others, min(negatives, len(others)))]
            pages = tuple(page_item(path, number, dpi) for number in numbers)
            examples.append(Example(make_item(entry.title, ask, where), pages, None, where))
    return ExampleSet(examples, Path(folder).name)


def sentence_pages(
    folder: Path | str,
    *,
    per_page: int = 1,
    negatives: int = 0,
    dpi: float = PAGE_DPI,
    seed: int = 0,
    on_problem: Problem | None = None,
) -> ExampleSet:
    """A sentence of a page's text layer and the page. Pages without text are left out.

    per_page: sentences of a page, drawn by `seed`; more: more and easier pairs. Other arguments as
    of `outline_pages`.
    """
    ask = Column("sentence", "query")
    examples: list[Example] = []
    for path, count in _pdfs(Path(folder), on_problem):
        from modalities import pdf

        for number in range(1, count + 1):
            where = f"{path}, page {number}"
            try:
                _, layer = next(pdf.glyphs(path, [number]))
            except pdf.PdfError as error:
                if on_problem is None:
                    raise DataError(str(error)) from error
                on_problem(str(error))
                continue
            found = sentences(" ".join(word.text for word in layer.words()))
            draw = random.Random(f"{seed} {path.name} {number}")
            others = [n for n in range(1, count + 1) if n != number]
            numbers = [number, *draw.sample(others, min(negatives, len(others)))]
            pages = tuple(page_item(path, n, dpi) for n in numbers)
            for text in draw.sample(found, min(per_page, len(found))):
                examples.append(Example(make_item(text, ask, where), pages, None, where))
    return ExampleSet(examples, Path(folder).name)


def captions(
    folder: Path | str, modality: str = "image", *, ask: str = "caption", prompt: str = ""
) -> ExampleSet:
    """Pictures or recordings of a folder, and the words beside them.

    Words come from captions.jsonl or metadata.jsonl (a line {"file_name": ..., "text": ...}; also
    "caption", or "captions" with a list: an example each), else from a .txt of the same name.

    Args:
        modality: "image", "page" or "audio".
        ask: "caption": the words are the query and the file is found; "file": the other way.
        prompt: before each caption.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if ask not in ("caption", "file"):
        raise DataError(f'ask must be "caption" or "file", got {ask!r}')
    words = Column("text", "query" if ask == "caption" else "document", "text", prompt)
    examples = []
    for path, text, where in _captioned(folder, modality):
        found, said = file_item(path, modality), make_item(text, words, where)
        asked, answer = (said, found) if ask == "caption" else (found, said)
        examples.append(Example(asked, (answer,), None, where))
    if not examples:
        raise DataError(
            f"{folder}: no {modality} with words; wanted one of {CAPTIONS}, or a .txt beside a file"
        )
    return ExampleSet(examples, folder.name)


def sentences(text: str) -> list[str]:
    """The sentences of a text that can be asked: some words long, without those cut by the page."""
    least, most = SENTENCE_WORDS
    found = [" ".join(part.split()) for part in re.split(r"(?<=[.!?])\s+", text)]
    return [part for part in found if least <= len(part.split()) <= most and part[-1] in ".!?"]


def _pdfs(folder: Path, on_problem: Problem | None) -> Iterator[tuple[Path, int]]:
    """(path, pages) of each PDF, by name."""
    from modalities import pdf

    if not folder.exists():
        raise DataError(f"{folder}: no such file or folder")
    for path in [folder] if folder.is_file() else sorted(folder.rglob("*.pdf")):
        try:
            yield path, pdf.page_count(path)
        except pdf.PdfError as error:
            if on_problem is None:
                raise DataError(str(error)) from error
            on_problem(str(error))


def _captioned(folder: Path, modality: str) -> Iterator[tuple[Path, str, str]]:
    """(file, words, where they stand)."""
    for name in CAPTIONS:
        if (folder / name).is_file():
            for where, row in stream_json_lines(folder / name):
                for text in _texts(row, where):
                    yield _listed(folder, row, modality, where), text, where
            return
    suffixes = RECORDINGS if modality == "audio" else PICTURES
    for path in sorted(folder.rglob("*")):
        words = path.with_suffix(".txt")
        if path.suffix.lower() in suffixes and words.is_file():
            if words.stat().st_size > MAX_CAPTION_BYTES:
                raise DataError(f"{words}: larger than {MAX_CAPTION_BYTES} bytes: no caption")
            text = words.read_text(encoding="utf-8", errors="replace").strip()
            if not text:
                raise DataError(f"{words}: the caption is empty")
            yield path, text, str(words)


def _texts(row: Mapping[str, Any], where: str) -> list[str]:
    for key in ("text", "caption", "captions"):
        value = row.get(key)
        if value is not None:
            texts = value if isinstance(value, list) else [value]
            if texts and all(isinstance(text, str) and text.strip() for text in texts):
                return texts
            raise DataError(f"{where}: {key!r}: wanted words, got {value!r:.60}")
    raise DataError(f"{where}: wanted text, caption or captions; its keys are {sorted(row)}")


def _listed(folder: Path, row: Mapping[str, Any], modality: str, where: str) -> Path:
    name = row.get("file_name", row.get("file"))
    if not isinstance(name, str):
        raise DataError(f"{where}: wanted file_name; its keys are {sorted(row)}")
    item: Item = make_item(name, Column("file_name", "document", modality), where, folder)
    if not isinstance(item.value, Path):
        raise DataError(f"{where}: {name!r}: wanted a picture or a recording")
    return item.value
