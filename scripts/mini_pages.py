"""What the page reader finds on clean pages, on scans, in other languages and at every size of print:
a section of `bench_mini.py`.

    python scripts/mini_pages.py --data DATA [--only scans,languages,...] [--reader FILE]

Scans: the first pages of the installation guide in English, asked with their outline titles, as they
are and under three named levels of scan noise (`scans.LEVELS`, laid over pages of 150 dpi); beside
the model BM25 on the true text layer and BM25 on what Tesseract reads of the same noisy pictures.
Languages: guides in several languages, titles in the same language. Sizes and scripts: the share of
words read, by the height of print and, on drawn pages, by script. Real scans: a game's manual without
text layer, asked with runs of words that Tesseract is sure of (a weak reference). No text layer: the
Debian Live manual, asked with its bookmarks; its pages are blank but for links (pdfium and poppler
agree: 0.2 % ink), so chance is all that there is to find. All candidates are the pages of the one document.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bench_pages
import numpy as np
import page_data
import scans
import synthetic_pages
import torch
from development import stamp
from layout_data import Corpus, clean_title, collect
from PIL import Image
from read_pages import load_reader, save_readings
from safetensors.torch import load_file
from torch import Tensor

from modalities import pdf, words
from modalities.page import PageText
from modalities.paper import ink_of
from modalities.reader import GlyphNet, Reading

GUIDE = "installation-guide-amd64/usr/share/doc/installation-guide-amd64"
LURE = "lure-of-the-temptress/usr/share/doc/lure-of-the-temptress/Manual.pdf"
LIVE = "live-manual-pdf/usr/share/doc/live-manual/pdf/live-manual.portrait.{}.a4.pdf"
LANGUAGES = ("en", "de", "fr", "es", "cs", "vi", "ru")
MANUALS = ("en", "de", "fr", "pl")  # of the Live manual, in languages of Latin script
SEED = 20_260  # of the noise, and of what is drawn; training draws from other seeds
SCAN_DPI = 150
SIZES = (0, 9, 11, 13, 17, 25, 1000)  # pixels of a line's height at 100 dpi
FEW_PAGES = 60  # of a guide: its first; Tesseract takes a minute and a half for as many

Pages = list[tuple[Tensor, Tensor]]  # word vectors (N, WIDTH) and boxes (N, 4)
Draw = Callable[[Path, int], Image.Image]  # a page of a PDF, grey, at 100 dpi


def clean(path: Path, number: int) -> Image.Image:
    return next(pdf.pages(path, dpi=100, grey=True, numbers=[number])).image


def noisy(path: Path, number: int, level: str) -> Image.Image:
    """The page as a scan at SCAN_DPI."""
    page = next(pdf.pages(path, dpi=SCAN_DPI, grey=True, numbers=[number])).image
    return scans.scanned(page, scans.LEVELS[level], SEED + number)


def at_100(path: Path, number: int, level: str) -> Image.Image:
    """A scan as a program sees it that draws the page at 100 dpi."""
    scan = noisy(path, number, level)
    size = (round(scan.width * 100 / SCAN_DPI), round(scan.height * 100 / SCAN_DPI))
    return scan.resize(size, Image.Resampling.LANCZOS)


@dataclass
class Bench:
    """Data, the reader under test and both sides of the text; what was read is kept on disk."""

    data: Path
    weights: Path
    cache: Path

    def __post_init__(self) -> None:
        self.net: GlyphNet = load_reader(self.weights)
        text = PageText.shipped()
        self.layout, self.query = text.layout, text.query
        self.stamp = stamp(self.weights)
        self.cache.mkdir(parents=True, exist_ok=True)

    def read(self, name: str, path: Path, numbers: Sequence[int], draw: Draw) -> Pages:
        """What the reader sees on pages of a PDF."""
        kept = self.cache / f"mini-{name}-{self.stamp}.safetensors"
        if not kept.exists():
            found = [self.see(draw(path, number)) for number in numbers]
            save_readings([*numbers], found, kept)
        stored = load_file(str(kept))
        if stored["pages"].tolist() != [*numbers]:
            raise ValueError(f"{kept} holds other pages than asked for: delete it")
        sizes = (stored["offsets"][1:] - stored["offsets"][:-1]).tolist()
        return list(zip(stored["vectors"].split(sizes), stored["boxes"].split(sizes), strict=True))

    def see(self, image: Image.Image) -> Reading:
        return self.net.read(ink_of(torch.from_numpy(np.array(image))))

    def ask(
        self, pages: Pages, queries: list[list[str]], answers: list[list[int]]
    ) -> dict[str, dict[str, float]]:
        """Rows "multi" and "single" of the model on pages as read."""
        multi, single, count = bench_pages.model_scores(self.layout, self.query, pages, queries)
        return {
            "multi": measured(multi, answers) | {"tokens_per_page": round(count / len(pages))},
            "single": measured(single, answers),
        }


def measured(scores: np.ndarray, answers: list[list[int]]) -> dict[str, float]:
    """bench_pages' measures of a (queries, pages) score matrix; answers: pages of each query."""
    qrels = {f"q{i}": {str(page): 1 for page in found} for i, found in enumerate(answers)}
    return bench_pages.evaluate(qrels, scores, [str(i) for i in range(scores.shape[1])])


def guide(bench: Bench, language: str, most: int | None = None) -> tuple[Path, Corpus]:
    """One language's guide, its first pages or all, with the words of their text layer."""
    page_data.unpack(bench.data / "pkg" / "installation-guide-amd64")
    path = bench.data / "pkg" / GUIDE / language / f"install.{language}.pdf"
    kept = bench.cache / f"mini-guide-{language}.safetensors"
    if not kept.exists():
        collect([path], most=100_000, without_outline=100_000, seed=0, workers=1).save(kept)
    corpus = Corpus.load(kept)
    return path, corpus if most is None else first(corpus, most)


def first(corpus: Corpus, most: int) -> Corpus:
    """The first pages of a corpus and the queries that they answer."""
    end = int(corpus.offsets[min(most, len(corpus.names))])
    queries = [(q, [p for p in pages if p < most]) for q, pages in corpus.queries]
    return Corpus(
        corpus.vocabulary, corpus.ids[:end], corpus.boxes[:end], corpus.offsets[: most + 1],
        corpus.document[:most], corpus.names[:most], [(q, p) for q, p in queries if p],
    )  # fmt: skip


def titles(corpus: Corpus) -> tuple[list[list[str]], list[list[int]]]:
    """Outline titles of two words or more, and the pages that they point to."""
    asked = [([w for w, _, _ in words.split(text)], pages) for text, pages in corpus.queries]
    kept = [(title, pages) for title, pages in asked if len(title) >= 2]
    return [title for title, _ in kept], [pages for _, pages in kept]


def numbers_of(corpus: Corpus) -> list[int]:
    return [int(name.rpartition("=")[2]) for name in corpus.names]


def tesseract(image: Image.Image, dpi: int, *, table: bool = False) -> str:
    """What Tesseract (English, one thread) reads: plain text, or its table of words."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "page.png"
        image.save(picture)
        done = subprocess.run(
            ["tesseract", str(picture), "-", "--dpi", str(dpi), *(["tsv"] if table else [])],
            env=os.environ | {"OMP_THREAD_LIMIT": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    return done.stdout.decode("utf-8", "replace")


def recognised(bench: Bench, level: str, path: Path, numbers: list[int]) -> list[list[str]]:
    """Folded words of each page as Tesseract reads its scan; kept, since it takes minutes."""
    kept = bench.cache / f"mini-tesseract-{path.stem}-{level}.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for number in numbers:
        if str(number) not in found:
            text = tesseract(noisy(path, number, level), SCAN_DPI)
            found[str(number)] = [w for w, _, _ in words.split(text)]
            kept.write_text(json.dumps(found))
    return [found[str(number)] for number in numbers]


def by_scan(bench: Bench) -> dict[str, Any]:
    """The English guide clean and under each level."""
    path, corpus = guide(bench, "en", FEW_PAGES)
    queries, answers = titles(corpus)
    numbers = numbers_of(corpus)
    true = measured(bench_pages.bm25(bench_pages.layer(corpus), queries), answers)
    table: dict[str, Any] = {"pages": len(numbers), "queries": len(queries), "bm25, true": true}
    for level in ("clean", *scans.LEVELS):
        draw = clean if level == "clean" else partial(at_100, level=level)
        pages = bench.read(f"en-{FEW_PAGES}-{level}", path, numbers, draw)
        table[level] = bench.ask(pages, queries, answers) | bench_pages.reading_rate(corpus, pages)
        if level in TESSERACT:
            text = recognised(bench, level, path, numbers)
            table[level]["tesseract + bm25"] = measured(bench_pages.bm25(text, queries), answers)
        print(level, table[level], flush=True)
    return table


TESSERACT = ("copy", "fax")  # levels at which it is run


def by_language(bench: Bench) -> dict[str, Any]:
    """Titles in the language of the guide."""
    table = {}
    for language in LANGUAGES:
        path, corpus = guide(bench, language, FEW_PAGES)
        queries, answers = titles(corpus)
        pages = bench.read(f"{language}-{FEW_PAGES}-clean", path, numbers_of(corpus), clean)
        table[language] = {
            "queries": len(queries),
            "bm25, true": measured(bench_pages.bm25(bench_pages.layer(corpus), queries), answers),
            **bench.ask(pages, queries, answers),
            **bench_pages.reading_rate(corpus, pages),
        }
        print(language, table[language], flush=True)
    return table


def found_there(corpus: Corpus, pages: Pages, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Of each page (words, 2): the line's height in pixels of a page of `shape` (H, W), and
    whether a vector near the true word's (cosine > 0.9) was read at its place."""
    table = words.vectors(corpus.vocabulary)
    height, width = shape
    for page, (vectors, boxes) in enumerate(pages):
        start, end = corpus.offsets[page : page + 2]
        true = torch.from_numpy(corpus.boxes[start:end])
        tall = true[:, 3] - true[:, 1]
        alike = table[torch.from_numpy(corpus.ids[start:end].astype(np.int64))] @ vectors.float().T
        x, y = _middles(true)
        there_x, there_y = _middles(boxes)
        near = (y[:, None] - there_y[None]).abs() < 0.6 * tall[:, None]
        reach = (true[:, 2] - true[:, 0]) / 2 + tall * height / width
        near &= (x[:, None] - there_x[None]).abs() < reach[:, None]
        hit = ((alike > 0.9) & near).any(1) if len(boxes) else torch.zeros(len(true)).bool()
        yield torch.stack([tall * height, hit.float()], 1).numpy()


def _middles(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2


def by_size(bench: Bench) -> dict[str, Any]:
    """Share of words read at their place, by the height of their line: the guide in English and the
    slides of the packaging tutorial."""
    slides = bench.data / "pkg/packaging-tutorial/usr/share/doc/packaging-tutorial"
    tutorial = slides / "packaging-tutorial.pdf"
    kept = bench.cache / "mini-tutorial.safetensors"
    if not kept.exists():
        collect([tutorial], most=100_000, without_outline=100_000, seed=0, workers=1).save(kept)
    rows = []
    for name, (path, corpus) in {
        f"en-{FEW_PAGES}-clean": guide(bench, "en", FEW_PAGES),
        "slides": (tutorial, Corpus.load(kept)),
    }.items():
        pages = bench.read(name, path, numbers_of(corpus), clean)
        image = clean(path, 1)
        rows += [*found_there(corpus, pages, (image.height, image.width))]
    all_words = np.concatenate(rows)
    table = {}
    for low, high in itertools.pairwise(SIZES):
        inside = (all_words[:, 0] >= low) & (all_words[:, 0] < high)
        if inside.any():
            share = round(float(all_words[inside, 1].mean()), 4)
            table[f"{low}-{high}"] = {"words": int(inside.sum()), "read": share}
    return table


def by_script(bench: Bench, count: int = 40) -> dict[str, Any]:
    """Share of words read on drawn pages without noise. The fonts and texts are those of training,
    the draws are not: a weaker test than the guides."""
    corpus = Corpus.load(bench.data / "run" / "corpus.safetensors")
    others = synthetic_pages.other_texts(bench.data)
    drawer = synthetic_pages.Drawer(bench.data / "fonts", corpus, others)
    table = {}
    for script in drawer.scripts:
        rng, right, total = random.Random(SEED), 0, 0
        for _ in range(count):
            sheet = drawer.draw(rng, script)
            true = words.vectors([w for w, _, _ in words.split("".join(sheet.text))])
            seen = bench.see(sheet.image).vectors
            if len(seen) and len(true):
                right += int(((true @ seen.T).amax(1) > 0.9).sum())
            total += len(true)
        table[script] = {"words": total, "read": round(right / total, 4)}
    return table


def real_scans(bench: Bench, most: int = 20, count: int = 150) -> dict[str, Any]:
    """Runs of four words in a line that Tesseract is sure of (confidence 85 and more) ask for their
    page of the scanned manual."""
    path = bench.data / "pkg" / LURE
    numbers = [*range(1, min(most, pdf.page_count(path)) + 1)]
    kept = bench.cache / "mini-lure.json"
    if not kept.exists():
        scanned = [
            tesseract(next(pdf.pages(path, dpi=200, grey=True, numbers=[n])).image, 200, table=True)
            for n in numbers
        ]
        kept.write_text(json.dumps(scanned))
    runs, total, right = [], 0, 0
    pages = bench.read("lure", path, numbers, clean)
    for page, text in enumerate(json.loads(kept.read_text())):
        rows = [row.split("\t") for row in text.split("\n")[1:] if row.count("\t") == 11]
        run: list[str] = []
        line: list[str] = []
        for row in rows:
            spelt = [w for w, _, _ in words.split(row[11])]
            if row[1:5] != line or float(row[10]) < 85 or len(spelt) != 1:
                run, line = [], row[1:5]
            if float(row[10]) >= 85 and len(spelt) == 1 and len(spelt[0]) > 2:
                run.append(spelt[0])
                if len(pages[page][0]):
                    alike = words.vectors(spelt) @ pages[page][0].float().T
                    right += int(float(alike.max()) > 0.9)
                total += 1
            if len(run) == 4:
                runs.append((run, page))
                run = []
    asked = random.Random(SEED).sample(runs, min(count, len(runs)))
    return {
        "pages": len(numbers),
        "queries": len(asked),
        "words that Tesseract is sure of": total,
        "read": round(right / max(1, total), 4),
        **bench.ask(pages, [run for run, _ in asked], [[page] for _, page in asked]),
    }


def no_text_layer(bench: Bench) -> dict[str, Any]:
    """The Live manual in some languages, asked with its bookmarks."""
    page_data.unpack(bench.data / "pkg" / "live-manual-pdf")
    table = {}
    for language in MANUALS:
        path = bench.data / "pkg" / LIVE.format(language)
        answers: dict[tuple[str, ...], list[int]] = {}
        for entry in pdf.outline(path):
            title = tuple(w for w, _, _ in words.split(clean_title(entry.title)))
            pages = answers.setdefault(title, [])
            if entry.page - 1 not in pages:
                pages.append(entry.page - 1)
        asked = [(list(t), p) for t, p in answers.items() if len(t) >= 2 and len(p) <= 3]
        numbers = [*range(1, pdf.page_count(path) + 1)]
        read = bench.read(f"live-{language}", path, numbers, clean)
        table[language] = {
            "pages": len(numbers),
            "queries": len(asked),
            **bench.ask(read, [t for t, _ in asked], [p for _, p in asked]),
        }
        print(language, table[language], flush=True)
    return table


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "scans": by_scan,
    "languages": by_language,
    "sizes": by_size,
    "scripts": by_script,
    "real scans": real_scans,
    "no text layer": no_text_layer,
}


def shipped() -> Path:
    import modalities

    return Path(modalities.__file__).parent / "weights" / "page.safetensors"


def measure(
    data: Path, reader: Path | None = None, only: Sequence[str] | None = None
) -> dict[str, Any]:
    """All sections, or some. reader: a checkpoint instead of the package's weights."""
    bench = Bench(data, reader or shipped(), data / "bench")
    digest = hashlib.sha256(bench.weights.read_bytes()).hexdigest()[:12]
    facts: dict[str, Any] = {"weights": digest}
    with torch.inference_mode():
        for name in only or SECTIONS:
            facts[name] = SECTIONS[name](bench)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--reader", type=Path)
    parser.add_argument("--only", help=f"some of {', '.join(SECTIONS)}")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else None
    for name, table in measure(args.data, args.reader, only).items():
        print(name, table, flush=True)


if __name__ == "__main__":
    main()
