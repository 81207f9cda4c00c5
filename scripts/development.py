"""The development pages that benchmarks share: all of the English PDFs, their words and outline titles, and
what a reader sees on them, kept on disk by the reader's weights (not by their date)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import page_data
from layout_data import Corpus, collect
from read_pages import Job, load_reader, read_all, save_readings
from safetensors.torch import load_file
from torch import Tensor

import modalities

ENGLISH = (
    "octave-doc/usr/share/doc/octave/octave.pdf",
    "octave-doc/usr/share/doc/octave/liboctave.pdf",
    "octave-doc/usr/share/doc/octave/refcard-a4.pdf",
    "installation-guide-amd64/usr/share/doc/installation-guide-amd64/en/install.en.pdf",
    "packaging-tutorial/usr/share/doc/packaging-tutorial/packaging-tutorial.pdf",
    "debian-history/usr/share/doc/debian-history/docs/project-history.en.pdf",
)
WEIGHTS = Path(modalities.__file__).parent / "weights" / "page.safetensors"

Pages = list[tuple[Tensor, Tensor]]  # word vectors (N, WIDTH) and boxes (N, 4)


def english_paths(data: Path) -> list[Path]:
    for package in dict.fromkeys(name.split("/")[0] for name in ENGLISH):
        page_data.unpack(data / "pkg" / package)
    return [data / "pkg" / name for name in ENGLISH]


def english(data: Path) -> Corpus:
    """Words of the text layer and outline titles."""
    kept = data / "bench" / "english.safetensors"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        paths = english_paths(data)
        collect(paths, most=100_000, without_outline=100_000, seed=0).save(kept)
    return Corpus.load(kept)


def english_read(data: Path, weights: Path = WEIGHTS) -> tuple[Corpus, Pages]:
    """The pages as a reader sees them: the package's, or that of a checkpoint."""
    corpus = english(data)
    return corpus, read_pages(corpus, english_paths(data), data / "bench", "read", weights)


def stamp(weights: Path) -> str:
    """What tells one reader's weights from another's."""
    found = hashlib.sha256()
    for _, value in sorted(load_reader(weights).state_dict().items()):
        found.update(value.numpy().tobytes())
    return found.hexdigest()[:12]


def read_pages(
    corpus: Corpus, paths: list[Path], cache: Path, name: str, weights: Path = WEIGHTS
) -> Pages:
    """(vectors, boxes) as the reader sees each page of the corpus; kept in the folder `cache`."""
    kept = cache / f"{name}-{stamp(weights)}.safetensors"
    if not kept.exists():
        numbers = [int(name.rpartition("=")[2]) for name in corpus.names]
        jobs = []
        for document, path in enumerate(paths):
            mine = [numbers[p] for p in np.flatnonzero(corpus.document == document)]
            jobs += [Job(weights, path, tuple(mine[i : i + 20])) for i in range(0, len(mine), 20)]
        readings = [r for result in read_all(jobs, 2) for _, r, _ in result]
        save_readings(list(range(len(readings))), readings, kept)
    stored = load_file(str(kept))
    sizes = (stored["offsets"][1:] - stored["offsets"][:-1]).tolist()
    return list(zip(stored["vectors"].split(sizes), stored["boxes"].split(sizes), strict=True))
