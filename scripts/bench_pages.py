"""Finds the page by its title: the page model beside what a user would do instead.

    python scripts/bench_pages.py --data DATA [--tesseract-pages 12] [--tesseract-document 3]

Pages: all of the English PDFs of the development packages. Queries: their outline titles of two
words or more, numbering stripped, answered by the page a title points to; and phrases out of the
body, answered by all pages that hold their words, where BM25 is at its best. Rows: BM25 on the true
text layer; MaxSim on the true words (what the model would reach if it read without error); the
model on pixels alone, multi-vector and single-vector; and the time of Tesseract for the same
pages, with its own threads and with one (OMP_THREAD_LIMIT=1), whichever is faster for it. What
Tesseract with BM25 finds is measured on the pages of one document, since all would take hours.
The bound: reading needs 8 GMAC a page, about 0.06 s at one core's fp32 peak of 139 GFLOP/s.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bm25s
import development
import ir_measures
import numpy as np
import torch
from ir_measures import RR, R, nDCG
from layout_data import Corpus
from results import record
from safetensors.torch import load_file
from torch import Tensor

from lateint.model import PAGE_MERGE
from lateint.pooling import merged
from lateint.ragged import Ragged
from modalities import pdf, words
from modalities.layout import LayoutContext, QueryContext, geometry
from modalities.page import PageReader, PageText

DRAWING = threading.Lock()
PHRASES = 400
MEASURES = (nDCG @ 5, R @ 1, R @ 10, RR @ 10)


def evaluate(
    qrels: dict[str, dict[str, int]], scores: np.ndarray, names: list[str]
) -> dict[str, float]:
    """Measures of a (queries, pages) score matrix."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    run = {
        query: {names[page]: float(scores[i, page]) for page in top[i]}
        for i, query in enumerate(qrels)
    }
    found = ir_measures.calc_aggregate(MEASURES, qrels, run)
    return {str(m): round(found[m], 4) for m in MEASURES}


def phrases(corpus: Corpus, count: int, seed: int) -> list[tuple[list[str], list[int]]]:
    """Runs of five to eight words out of the body of random pages, of which at least two are found
    on few pages, with all pages that hold every word of the run."""
    rng, sets = random.Random(seed), [set(page) for page in layer(corpus)]
    pages = range(len(sets))
    common: Counter[str] = Counter(word for page in sets for word in page)
    found: list[tuple[list[str], list[int]]] = []
    while len(found) < count:
        page = rng.choice(pages)
        start, end = corpus.offsets[page : page + 2]
        length = rng.randint(5, 8)
        if end - start < 60:
            continue
        first = rng.randrange(start, end - length)
        run = [corpus.vocabulary[i] for i in corpus.ids[first : first + length]]
        if sum(common[word] < 0.05 * len(sets) and len(word) > 3 for word in run) >= 2:
            found.append((run, [p for p in pages if sets[p].issuperset(run)]))
    return found


def layer(corpus: Corpus) -> list[list[str]]:
    """The folded words of each page's text layer."""
    return [
        [corpus.vocabulary[i] for i in corpus.ids[s:e]]
        for s, e in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)
    ]


def bm25(pages: list[list[str]], queries: list[list[str]]) -> np.ndarray:
    """BM25 (Lucene's, bm25s defaults) over the words of pages."""
    index = bm25s.BM25()
    index.index(pages, show_progress=False)
    return np.stack([index.get_scores(query) for query in queries])


@torch.inference_mode()
def model_scores(
    layout: LayoutContext,
    query: QueryContext,
    pages: list[tuple[Tensor, Tensor]],
    queries: list[list[str]],
    merge: float = 1,
) -> tuple[np.ndarray, np.ndarray, int]:
    """(queries, pages) MaxSim and pooled scores, and the number of page tokens; merge: one in so many
    of them is kept, as `lateint.load()` does."""
    asked = [
        query(words.vectors(q)[None], torch.ones(1, len(q), dtype=torch.bool)) for q in queries
    ]
    tokens = torch.cat([a.tokens[0] for a in asked])
    owner = torch.cat([torch.full((a.tokens.shape[1],), i) for i, a in enumerate(asked)])
    pooled = torch.cat([a.pooled for a in asked])
    multi, single, count = [], [], 0
    for vectors, boxes in pages:
        out = layout(
            vectors[None].float(),
            geometry(boxes)[None],
            torch.ones(1, len(vectors), dtype=torch.bool),
        )
        rows, _ = merged(Ragged.from_list([out.tokens[0]]), merge)
        best = (rows.values @ tokens.T).amax(0)
        multi.append(torch.zeros(len(queries)).index_add_(0, owner, best))
        single.append(pooled @ out.pooled[0])
        count += len(rows.values)
    return torch.stack(multi, 1).numpy(), torch.stack(single, 1).numpy(), count


def reading_rate(corpus: Corpus, read: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Share of a page's true words for which the page as read has a vector with cosine > 0.9."""
    table, right, total = words.vectors(corpus.vocabulary), 0.0, 0
    for page, (vectors, _) in enumerate(read):
        start, end = corpus.offsets[page : page + 2]
        true = table[torch.from_numpy(corpus.ids[start:end].astype(np.int64))]
        if len(vectors):
            right += float(((true @ vectors.float().T).amax(1) > 0.9).sum())
        total += len(true)
    return {"words": total, "read": round(right / total, 4)}


def speed(paths: list[Path], count: int) -> dict[str, float]:
    """Median seconds a page: rendering, reading to tokens, and Tesseract, interleaved."""
    rng = random.Random(3)
    encoder = PageReader.shipped()
    rows: dict[str, list[float]] = {
        "render": [],
        "read": [],
        "tesseract": [],
        "tesseract_one_thread": [],
    }
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for k in range(count):
            path = paths[k % len(paths)]
            number = rng.randint(1, pdf.page_count(path))
            began = time.perf_counter()
            page = next(pdf.pages(path, dpi=100, grey=True, numbers=[number]))
            rows["render"].append(time.perf_counter() - began)
            took = []
            for _ in range(3):
                began = time.perf_counter()
                encoder(encoder.prepare([page.image], "document"))
                took.append(time.perf_counter() - began)
            rows["read"].append(statistics.median(took))
            picture = Path(folder) / "page.png"
            next(pdf.pages(path, dpi=150, grey=True, numbers=[number])).image.save(picture)
            for name, extra in (
                ("tesseract", {}),
                ("tesseract_one_thread", {"OMP_THREAD_LIMIT": "1"}),
            ):
                began = time.perf_counter()
                subprocess.run(
                    ["tesseract", str(picture), str(picture), "--dpi", "150"],
                    env=os.environ | extra,
                    stderr=subprocess.DEVNULL,
                    check=True,
                )
                rows[name].append(time.perf_counter() - began)
    medians = {k: round(statistics.median(v), 4) for k, v in rows.items()}
    ratio = [
        min(a, b) / r
        for a, b, r in zip(
            rows["tesseract"], rows["tesseract_one_thread"], rows["read"], strict=True
        )
    ]
    return medians | {
        "pages": count,
        "times_faster_than_its_faster": round(statistics.median(ratio), 1),
    }


def recognised(pages: list[tuple[Path, int]]) -> list[list[str]]:
    """Folded words of each page (file, number) as Tesseract reads it at 150 dpi, two at a time."""

    def one(page: tuple[Path, int], folder: str) -> list[str]:
        path, number = page
        picture = Path(folder) / f"{number}.png"
        with DRAWING:  # pdfium draws for one thread at a time
            next(pdf.pages(path, dpi=150, grey=True, numbers=[number])).image.save(picture)
        command = ["tesseract", str(picture), "-", "--dpi", "150"]
        done = subprocess.run(
            command,
            env=os.environ | {"OMP_THREAD_LIMIT": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        return [w for w, _, _ in words.split(done.stdout.decode("utf-8", "replace"))]

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda page: one(page, folder), pages))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--reader",
        type=Path,
        default=development.WEIGHTS,
        help="a reader's checkpoint instead of the package's",
    )
    parser.add_argument(
        "--context", type=Path, help="a context's checkpoint instead of the package's"
    )
    parser.add_argument(
        "--single", type=Path, help="a context trained with the single-vector head alone"
    )
    parser.add_argument("--tesseract-pages", type=int, default=0, help="to time it on")
    parser.add_argument(
        "--tesseract-document", type=int, help="number in development.ENGLISH, to search in"
    )
    parser.add_argument("--record", action="store_true", help="append to scripts/results/")
    args = parser.parse_args()
    torch.set_num_threads(2)
    corpus, paths = development.english(args.data), development.english_paths(args.data)
    names = [f"{corpus.document[i]}/{name}" for i, name in enumerate(corpus.names)]
    asked = [(text, pages) for text, pages in corpus.queries if len([*words.split(text)]) >= 2]
    titles = [[w for w, _, _ in words.split(text)] for text, _ in asked]
    qrels = {f"q{i}": {names[p]: 1 for p in pages} for i, (_, pages) in enumerate(asked)}
    inner = phrases(corpus, PHRASES, seed=5)
    inner_qrels = {f"p{i}": {names[p]: 1 for p in pages} for i, (_, pages) in enumerate(inner)}
    queries = titles + [text for text, _ in inner]
    table: dict[str, dict[str, float]] = {}
    inner_table: dict[str, dict[str, float]] = {}
    scored: dict[str, np.ndarray] = {}

    def show(row: str, scores: np.ndarray) -> None:
        scored[row] = scores
        table[row] = evaluate(qrels, scores[: len(titles)], names)
        inner_table[row] = evaluate(inner_qrels, scores[len(titles) :], names)
        print(f"{row:38} titles  {table[row]}\n{'':38} phrases {inner_table[row]}", flush=True)

    print(f"{len(names)} pages, {len(titles)} titles, {len(inner)} phrases")
    show("BM25, true text layer", bm25(layer(corpus), queries))

    def sides(path: Path | None) -> tuple[LayoutContext, QueryContext]:
        if path is None:
            text = PageText.shipped()
            return text.layout, text.query
        layout, query, stored = LayoutContext(), QueryContext(), load_file(str(path))
        for module, prefix in ((layout, "layout."), (query, "query.")):
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)},
                strict=False,  # one from before meanings says nothing of them
            )
        return layout.eval(), query.eval()

    layout, query = sides(args.context)
    vectors = words.vectors(corpus.vocabulary)
    spelt = [
        (
            vectors[torch.from_numpy(corpus.ids[s:e].astype(np.int64))],
            torch.from_numpy(corpus.boxes[s:e]),
        )
        for s, e in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)
    ]
    multi, single, _ = model_scores(layout, query, spelt, queries)
    show("model on true words, multi-vector", multi)
    show("model on true words, single vector", single)
    facts: dict[str, object] = {"pages": len(names), "queries": len(titles), "phrases": inner_table}
    if args.reader.exists():
        read = development.english_read(args.data, args.reader)[1]
        facts |= reading_rate(corpus, read)
        multi, single, count = model_scores(layout, query, read, queries)
        facts["tokens_read"] = round(count / len(names), 1)
        show("model on pixels, all tokens", multi)
        multi, single, count = model_scores(layout, query, read, queries, PAGE_MERGE)
        facts["tokens_per_page"] = round(count / len(names), 1)
        show("model on pixels, multi-vector", multi)
        show("model on pixels, single vector", single)
        if args.single is not None:
            show(
                "model on pixels, trained single alone",
                model_scores(*sides(args.single), read, queries)[1],
            )
        base = table["BM25, true text layer"]["nDCG@5"]
        facts["of_bm25"] = round(table["model on pixels, multi-vector"]["nDCG@5"] / base, 3)
    if args.tesseract_document is not None and shutil.which("tesseract"):
        inside = np.flatnonzero(corpus.document == args.tesseract_document)
        mine = [i for i, (_, pages) in enumerate(asked) if pages[0] in inside]
        numbered = [int(corpus.names[p].rpartition("=")[2]) for p in inside]
        found = recognised([(paths[args.tesseract_document], number) for number in numbered])
        some = {f"q{i}": qrels[f"q{i}"] for i in mine}
        rows = {row: scores[np.ix_(mine, inside)] for row, scores in scored.items()}
        rows["BM25, true text layer"] = bm25(
            [layer(corpus)[p] for p in inside], [queries[i] for i in mine]
        )
        rows["BM25, Tesseract's text"] = bm25(found, [queries[i] for i in mine])
        kept = [names[p] for p in inside]
        facts["one_document"] = {
            "file": paths[args.tesseract_document].name,
            "pages": len(inside),
            "queries": len(mine),
            "table": {row: evaluate(some, scores, kept) for row, scores in rows.items()},
        }
    if args.tesseract_pages and shutil.which("tesseract"):
        facts["seconds"] = speed(paths, args.tesseract_pages)
    print(facts)
    if args.record:
        record("bench_pages", table=table, **facts)


if __name__ == "__main__":
    main()
