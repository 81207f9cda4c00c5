"""What an index will take, before it is built: vectors, bytes, memory, seconds.

Bytes follow from the layout of the files and come within a tenth, but for texts, which are counted at
the length given. Memory and seconds are models of what the code does, with rates measured on this
machine in about a second (or reference rates, where `measure=False`): within a factor of two on a
machine that does nothing else. Builds nothing and touches no file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lateint.index import kernels, kmeans
from lateint.index.building import BUILD_TOKENS, SEGMENT_BYTES, TRAIN_TOKENS
from lateint.index.codec import LEVELS, default_centroids, level_sets, sample_size
from lateint.index.kinds import HalfSegment
from lateint.index.options import Options, check_options
from lateint.index.residual import ResidualSegment
from lateint.index.search.candidates import PROBES, SCAN_TOKENS
from lateint.index.search.engine import CANDIDATES
from lateint.index.segments import BLOCK

QUERY_TOKENS = 32
PROCESS = 40 << 20  # bytes of Python with numpy and this package
LISTED = 0.6  # entries in inverted lists per token: a document's tokens share centroids
ROW = 170  # bytes of a document in the database beside its id (twice), metadata and text
WORDS = 0.7  # bytes of the word index per byte of text
TRAINING = 13  # bytes per number of the sample while centroids are trained
AROUND = 1.6  # times the comparisons alone: sorting by cell, gathering, means, packing
PER_DOCUMENT = 60e-6  # seconds to check a document and write its row
COMMIT = 0.1  # seconds of fixed costs


@dataclass(frozen=True)
class Rates:
    """CPU seconds on one core for the units of work.

    compare: a point with a centroid, per dimension; ask: a centroid with a query; scan: a document
    token by its centroid; score: a document token in full, per dimension; half: the same of float16.
    The last four are for a query of 32 tokens.
    """

    compare: float = 4e-11
    ask: float = 3e-7
    scan: float = 3e-9
    score: float = 6e-10
    half: float = 1.2e-9
    measured: bool = False

    @classmethod
    def measure(cls, width: int, nbits: int) -> Rates:
        """On this machine, for tokens of this width; takes about a second."""
        rng = np.random.default_rng(0)
        points = rng.standard_normal((2048, width)).astype(np.float32)
        compare = _seconds(lambda: kmeans.nearest(points, points[:1024], threads=1))
        docs, length = 200, 50
        tokens = docs * length
        offsets = np.arange(docs + 1, dtype=np.int64) * length
        values = np.resize(points, (tokens, width)).astype(np.float16)
        query = points[:QUERY_TOKENS]
        half = _seconds(lambda: kernels.half(query, values, offsets, None, threads=1))
        per_dim = tokens * width
        if nbits == 16:
            return cls(compare / (2048 * 1024 * width), half=half / per_dim, measured=True)
        scale = np.ones(width, np.float32)
        whole, steps = np.ones((1024, width), np.int8), np.ones(1024, np.float32)
        asked = kernels.prepare(query, whole, steps, scale)
        table = kernels.table(asked, threads=1)
        codes = rng.integers(0, 1024, tokens).astype(np.uint16)
        packed = rng.integers(0, 256, (tokens, kernels.packed_bytes(width, nbits))).astype(np.uint8)
        levels = level_sets(LEVELS[nbits][0])
        factor = np.ones(tokens, np.float32)
        ask = _seconds(
            lambda: kernels.table(kernels.prepare(query, whole, steps, scale), threads=1)
        )
        scan = _seconds(lambda: kernels.scan(table.bytes, codes, offsets, None, threads=1))
        score = _seconds(
            lambda: kernels.score(asked, codes, packed, offsets, None, levels, factor, threads=1)
        )
        return cls(
            compare / (2048 * 1024 * width),
            ask / 1024,
            scan / tokens,
            score / per_dim,
            half / per_dim,
            True,
        )


@dataclass(frozen=True)
class Forecast:
    """The answer of `forecast`. Bytes everywhere; seconds are of one core's time.

    vectors: token vectors kept; compressed: whether they are, or stay float16; parts: bytes on the
    disk by what they hold (names as in `IndexInfo.parts`); build_memory, search_memory: of the whole
    process at most, without the documents that a caller holds beside the batch being added;
    search_seconds: of one query of 32 tokens; measured: whether with this machine's rates.
    """

    documents: int
    vectors: int
    compressed: bool
    centroids: int
    segments: int
    parts: dict[str, int]
    build_memory: int
    search_memory: int
    build_seconds: float
    search_seconds: float
    measured: bool

    @property
    def bytes(self) -> int:
        """On the disk."""
        return sum(self.parts.values())

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that `json.dumps` takes."""
        return {**asdict(self), "bytes": self.bytes}


def forecast(
    documents: int,
    tokens_per_document: float,
    dim: int,
    *,
    metadata_bytes: int = 100,
    text_bytes: int = 0,
    id_bytes: int = 20,
    measure: bool = True,
    **options: Any,
) -> Forecast:
    """What an index of so many documents, built in one go, will take.

    tokens_per_document: on average, before pooling. dim and options: as for `Index.create`.
    metadata_bytes, text_bytes, id_bytes: of a document, on average. measure: take this machine's
    rates; False: those of the machine that lateint was developed on. Raises what `Index.create`
    raises for the same options.
    """
    for name, value in (("documents", documents), ("tokens_per_document", tokens_per_document)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ValueError(f"{name}: got {value!r}; wanted a number from 0")
    chosen = check_options(dim, **{**_DEFAULTS, **options})
    width = chosen.width(dim)
    tokens = round(documents * max(1.0, tokens_per_document / chosen.pool_factor))
    compressed = chosen.coded and tokens >= TRAIN_TOKENS
    rates = Rates.measure(width, chosen.nbits if compressed else 16) if measure else Rates()
    one = _Plan(documents, tokens, width, chosen, compressed)
    database = documents * (ROW + 2 * id_bytes + metadata_bytes + round(text_bytes * (1 + WORDS)))
    parts = one.parts()
    parts["database"] = (64 << 10) + database + 4 * sum(parts.values()) // BLOCK
    return Forecast(
        documents,
        tokens,
        compressed,
        one.centroids,
        one.segments,
        parts,
        one.build_memory(),
        one.search_memory(parts),
        one.build_seconds(rates),
        one.search_seconds(rates),
        rates.measured,
    )


_DEFAULTS: dict[str, Any] = {
    "nbits": None,
    "keep_originals": False,
    "centroids": None,
    "prefix": None,
    "pool_factor": 1,
    "seed": 0,
    "memory": 1 << 30,
    "fde": False,
}


@dataclass(frozen=True)
class _Plan:
    """An index to come."""

    documents: int
    tokens: int
    width: int
    options: Options
    compressed: bool

    @property
    def gathered(self) -> int:
        """Tokens of the first commit of a build, which the codec is trained on at the latest."""
        room = max(BUILD_TOKENS, self.options.memory // 8 // (2 * self.width))
        return min(self.tokens, room)

    @property
    def expected(self) -> int:
        """Tokens that the codec is trained for."""
        return self.tokens if self.gathered == self.tokens else self.gathered * 4

    @property
    def sample(self) -> int:
        """Tokens that it is trained with."""
        most = self.options.memory // (8 * 4 * self.width)
        return min(sample_size(self.expected, self.width), most, self.gathered)

    @property
    def centroids(self) -> int:
        if not self.compressed:
            return 0
        return self.options.centroids or default_centroids(self.expected, self.sample)

    @property
    def per_token(self) -> int:
        if not self.compressed:
            return HalfSegment.bytes_per_token(self.width)
        options = self.options
        return ResidualSegment.bytes_per_token(self.width, options.nbits, options.keep_originals)

    @property
    def segments(self) -> int:
        limit = max(1, SEGMENT_BYTES // self.per_token)
        return -(-self.tokens // limit)

    def parts(self) -> dict[str, int]:
        tokens, documents, width = self.tokens, self.documents, self.width
        parts = {"documents": 8 * documents, "offsets": 8 * (documents + self.segments)}
        if not self.compressed:
            return {**parts, "values": 2 * width * tokens}
        parts |= {
            "codes": 2 * tokens,
            "factor": tokens,
            "packed": kernels.packed_bytes(width, self.options.nbits) * tokens,
            "starts": 8 * (self.centroids + 1) * self.segments,
            "lists": round(4 * LISTED * tokens),
            "codecs": 4 * width * width + self.centroids * (width + 4) + 4 * width,
        }
        if self.options.keep_originals:
            parts["originals"] = 2 * width * tokens
        if self.options.fde:
            parts |= {"fde": self.options.fde.size * documents, "fde_steps": 4 * documents}
        return parts

    def build_memory(self) -> int:
        """The larger of training, and writing a segment, beside the documents of one commit."""
        held = 2 * min(self.gathered * 2 * self.width, self.options.memory // 8)
        sample = TRAINING * self.sample * self.width if self.compressed else 0
        segment = 3 * min(SEGMENT_BYTES, self.tokens * self.per_token)
        return PROCESS + held + max(sample, segment)

    def search_memory(self, parts: dict[str, int]) -> int:
        """All that every search reads, and what candidates touch."""
        frame = parts["documents"] + parts["offsets"]
        if not self.compressed:
            return PROCESS + frame + parts["values"]
        codec = parts["codecs"] + 4 * self.width * self.centroids
        tables = self.centroids * 5 * QUERY_TOKENS
        touched = min(parts["packed"], CANDIDATES * max(BLOCK, self.per_token * self._length))
        return PROCESS + frame + parts["codes"] + codec + tables + round(touched)

    def build_seconds(self, rates: Rates) -> float:
        seconds = COMMIT + PER_DOCUMENT * self.documents
        if not self.compressed:
            return seconds + 2e-9 * self.tokens * self.width
        root = float(np.sqrt(self.centroids))
        near = self.centroids if self.centroids <= kmeans.PLAIN else 15 * root  # compared with each
        rounds = kmeans.ITERATIONS + kmeans.REFINEMENTS + 1
        training = rounds * near
        if self.centroids > kmeans.PLAIN:  # coarse cells, inside of them, then all together
            training = (1 + kmeans.ITERATIONS) * root + (kmeans.REFINEMENTS + 2) * near
        compared = self.sample * training + self.tokens * (near + self.width)
        if self.centroids > kmeans.PLAIN:
            compared += 25 * 4 * root * self.centroids  # the cells, five times
        return seconds + AROUND * float(compared) * self.width * rates.compare

    def search_seconds(self, rates: Rates) -> float:
        if not self.compressed:
            return 3e-4 + rates.half * self.tokens * self.width
        looked = float(self.tokens)
        if self.tokens > SCAN_TOKENS:
            each = LISTED * self.tokens / max(1, self.centroids) * self._length
            looked = min(looked, PROBES * QUERY_TOKENS * each)
        scored = min(self.documents, CANDIDATES) * self._length * self.width
        return 3e-4 + rates.ask * self.centroids + rates.scan * looked + rates.score * scored

    @property
    def _length(self) -> float:
        return self.tokens / max(1, self.documents)


def _seconds(work: Callable[[], object]) -> float:
    """The least of a few tries: what else the machine does only adds."""
    best = float("inf")
    for _ in range(4):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best
