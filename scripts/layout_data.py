"""Words with boxes and outline titles of public PDFs: what the context of words is trained on."""

from __future__ import annotations

import json
import random
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from modalities import pdf, words
from modalities.reader import reading_order

GENERIC = {
    "contents", "table of contents", "index", "references", "bibliography", "introduction",
    "abstract", "acknowledgements", "acknowledgments", "change history", "list of figures",
    "list of tables", "preface", "appendix", "title page", "cover", "notes", "examples",
}  # fmt: skip


def clean_title(title: str) -> str:
    """A bookmark's title as someone would type it: no numbering, no generic ones ("" then)."""
    stripped = title
    match = re.match(
        r"^\s*(?:(?:chapter|part|appendix|section)\s+)?(?:\d+|[A-Z]|[IVXL]+)?(?:\.\d+)*[.:)]?\s+(?=\S)",
        title,
        re.I,
    )
    if match and re.search(r"\d|\.|chapter|part|appendix|section", match.group(), re.I):
        stripped = title[match.end() :]
    stripped = " ".join(stripped.split())
    return "" if stripped.lower() in GENERIC else stripped


@dataclass
class Corpus:
    """Pages as word ids with boxes, and queries with the pages that answer them.

    vocabulary: folded words; ids: (N,) int32; boxes: (N, 4) float32 in reading order; offsets:
    (pages + 1,); document: (pages,) which PDF; names: `file#page=3`; queries: (text, pages).
    """

    vocabulary: list[str] = field(default_factory=list)
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    document: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    names: list[str] = field(default_factory=list)
    queries: list[tuple[str, list[int]]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        arrays = {
            k: np.ascontiguousarray(getattr(self, k))
            for k in ("ids", "boxes", "offsets", "document")
        }
        save_file(arrays, str(path))
        facts = {"vocabulary": self.vocabulary, "names": self.names, "queries": self.queries}
        path.with_suffix(".json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, path: Path) -> Corpus:
        facts = json.loads(path.with_suffix(".json").read_text())
        return cls(**load_file(str(path)), **facts)


def page_words(glyphs: pdf.Glyphs) -> tuple[list[str], np.ndarray]:
    """Folded words of a text layer with their boxes, in the reader's reading order."""
    found: list[str] = []
    boxes: list[tuple[float, float, float, float]] = []
    for word in glyphs.words():
        x0, y0, x1, y1 = word.box
        length = len(word.text)
        for text, start, end in words.split(word.text):
            step = (x1 - x0) / length
            found.append(text)
            boxes.append((x0 + start * step, y0, x0 + end * step, y1))
    table = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    order = reading_order(torch.from_numpy(table)).numpy()
    return [found[i] for i in order], table[order]


@dataclass
class Text:
    """One PDF's pages (number, words, boxes) and its outline (title, page)."""

    pages: list[tuple[int, list[str], np.ndarray]]
    titles: list[tuple[str, int]]


def text_of(path: Path, *, most: int, without_outline: int, seed: str) -> Text:
    """Of a PDF with an outline at most `most` pages (its first eight and a random run), of one
    without `without_outline`; nothing of one that cannot be read."""
    rng = random.Random(seed)
    try:
        count = pdf.page_count(path)
        titles = [(clean_title(e.title), e.page) for e in pdf.outline(path)]
        limit = most if titles else without_outline
        start = rng.randrange(max(1, count - limit + 1))
        run = range(start + 1, min(count, start + limit) + 1)
        chosen = sorted({*range(1, min(count, 8) + 1), *run} if titles else run)
        pages = [(number, *page_words(glyphs)) for number, glyphs in pdf.glyphs(path, chosen)]
    except pdf.PdfError as error:
        print(f"left out: {error}", file=sys.stderr)
        return Text([], [])
    return Text([page for page in pages if len(page[1]) >= 5], titles)


def collect(
    paths: list[Path], *, most: int, without_outline: int, seed: int, workers: int = 2
) -> Corpus:
    """Text and titles of PDFs, see `text_of`. The result does not depend on `workers`."""
    corpus, vocabulary = Corpus(), dict[str, int]()
    ids, boxes, lengths, document = [], [], [], []
    read = partial(text_of, most=most, without_outline=without_outline)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(read, path, seed=f"{seed} {i}") for i, path in enumerate(paths)]
        for number, (path, job) in enumerate(zip(paths, jobs, strict=True)):
            text, place = job.result(), dict[int, int]()
            for page, spelt, box in text.pages:
                place[page] = len(lengths)
                ids += [vocabulary.setdefault(word, len(vocabulary)) for word in spelt]
                boxes.append(box)
                lengths.append(len(spelt))
                document.append(number)
                corpus.names.append(f"{path.name}#page={page}")
            answers: dict[str, list[int]] = {}
            for title, page in text.titles:
                if title and page in place and place[page] not in answers.setdefault(title, []):
                    answers[title].append(place[page])
            corpus.queries += [(t, found) for t, found in answers.items() if 0 < len(found) <= 3]
            if number % 100 == 99:
                print(
                    f"{number + 1} files, {len(lengths)} pages, {len(corpus.queries)} titles",
                    flush=True,
                )
    corpus.vocabulary = list(vocabulary)
    corpus.ids = np.array(ids, np.int32)
    corpus.boxes = np.concatenate(boxes) if boxes else corpus.boxes
    corpus.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    corpus.document = np.array(document, np.int32)
    return corpus
