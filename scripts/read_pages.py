"""Stage "gather": the reader's word vectors and boxes of many pages, kept on disk.

The context of words is trained on what the reader really sees, and benchmarks ask several
questions of the same pages; both read each page once.
"""

from __future__ import annotations

import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from layout_data import Corpus
from safetensors.torch import load_file, save_file

from modalities import pdf
from modalities.paper import ink_of
from modalities.reader import GlyphNet, Reading

_net: GlyphNet | None = None


def load_reader(weights: Path) -> GlyphNet:
    """The reader's weights: a training checkpoint's, or the `reader.` part of the package's."""
    stored = {
        k.removeprefix("reader."): v.float() if v.is_floating_point() else v
        for k, v in load_file(str(weights)).items()
        if not k.startswith(("layout.", "query."))
    }
    net = GlyphNet()
    net.load_state_dict(stored)
    return net.eval()


@dataclass(frozen=True)
class Job:
    weights: Path
    path: Path
    numbers: tuple[int, ...]
    dpi: float = 100


def read(job: Job) -> list[tuple[int, Reading, float]]:
    """(page number, Reading, seconds of reading without rendering) of some pages of a PDF."""
    global _net
    if _net is None:
        torch.set_num_threads(1)
        _net = load_reader(job.weights)
    found = []
    for page in pdf.pages(job.path, dpi=job.dpi, grey=True, numbers=list(job.numbers)):
        ink = ink_of(torch.from_numpy(np.array(page.image)))
        began = time.perf_counter()
        reading = _net.read(ink)
        found.append((page.number, reading, time.perf_counter() - began))
    return found


def read_all(jobs: list[Job], workers: int) -> list[list[tuple[int, Reading, float]]]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        results = []
        for i, result in enumerate(pool.map(read, jobs)):
            results.append(result)
            if i % 50 == 49:
                print(f"{i + 1} of {len(jobs)} files read", file=sys.stderr, flush=True)
        return results


def save_readings(pages: list[int], readings: list[Reading], out: Path) -> None:
    """pages: (P,), offsets: (P + 1,), vectors: (N, WIDTH) fp16, boxes: (N, 4) fp32."""
    lengths = torch.tensor([0] + [len(r.boxes) for r in readings])
    save_file(
        {
            "pages": torch.tensor(pages),
            "offsets": lengths.cumsum(0),
            "vectors": torch.cat([r.vectors.half() for r in readings]),
            "boxes": torch.cat([r.boxes.float() for r in readings]),
        },
        str(out),
    )


def gather(
    corpus_path: Path, paths: list[Path], weights: Path, out: Path, most: int, workers: int
) -> None:
    """Reads whole documents of a corpus, in random order, until `most` pages are read."""
    corpus = Corpus.load(corpus_path)
    titled = {int(corpus.document[p]) for _, pages in corpus.queries for p in pages}
    by_document: dict[int, list[int]] = {}
    for page, document in enumerate(corpus.document.tolist()):
        if document in titled:
            by_document.setdefault(document, []).append(page)
    order = list(by_document)
    random.Random(1).shuffle(order)
    jobs, owners, count = [], [], 0
    for document in order:
        members = by_document[document]
        if len(members) < 3:
            continue
        numbers = tuple(int(corpus.names[p].rpartition("=")[2]) for p in members)
        jobs.append(Job(weights, paths[document], numbers))
        owners.append(members)
        count += len(members)
        if count >= most:
            break
    pages, readings = [], []
    for members, result in zip(owners, read_all(jobs, workers), strict=True):
        by_number = {number: reading for number, reading, _ in result}
        for page in members:
            reading = by_number.get(int(corpus.names[page].rpartition("=")[2]))
            if reading is not None:
                pages.append(page)
                readings.append(reading)
    save_readings(pages, readings, out)
    print(f"{len(pages)} pages read")
