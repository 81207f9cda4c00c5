"""The index's inner loops: scanning codes, scoring residuals, exact scoring, packing.

Everything here takes plain C-contiguous numpy arrays, checks them (ValueError: they come out of
files) and calls the native extension, or numpy (`reference`, same answers) where there is none; that
gives one RuntimeWarning. The GIL is released. `threads=0` means all cores this process may use.
Documents are runs of tokens: document b owns tokens offsets[b] to offsets[b + 1]. `positions` choose
documents, in any order; None means all. A document without tokens scores 0 in `scan`, -inf elsewhere.

PACKING. A residual is one symbol of `nbits` bits for each dimension. A token's symbols lie in
ceil(D nbits / 8) bytes in order of dimension, low bits first: at 4 bits byte j holds dimensions 2j
(low nibble) and 2j + 1 (high nibble); at 2 bits 4j to 4j + 3; at 1 bit 8j to 8j + 7.

TRELLIS. What a symbol stands for depends on the two before it: with c1 and c2 their lowest bits, the
later one first, symbol s means levels[c1][s ^ c2], levels int8 (2, 2^nbits). There are twice as many
levels as symbols, so they lie closer, and the symbols of a whole stream are chosen together (trellis
coded quantisation: Marcellin and Fischer 1990, with Ungerboeck's code of four states). Of a normal
distribution's energy 0.319, 0.091 and 0.0068 are lost at 1, 2 and 4 bits where the best levels of one
dimension at a time lose 0.363, 0.118 and 0.0095, at the same bytes. A stream is 16 bytes of a token's
symbols and begins with c1 = c2 = 0, so a processor decodes 16 bytes at once. Levels int8 (2^nbits,)
are a plain code: symbol s means levels[s] (indexes of format 2).

INTEGERS. Similarity of a query token and a document token is S[code, t] + f step_t sum_d q8 level,
with int8 levels that span at most 127 (symmetric: within +-63) and q8 within +-127. The sum is exact
and the same on every processor: 127 * 127 * 2 fits 16 bits. Where the processor has no 8-bit dot
product (AVX2) sums stay in 16 bits for as long as the query's and levels' size lets them: q8 within
+-63 (the default) and levels within +-32 (1 and 2 bits) are up to 1.5 times as fast as +-127 with
+-63.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lateint.index.kernels import check, reference
from lateint.index.kernels.query import QUERY_LIMIT, Query, integers
from lateint.index.kernels.symbols import pack, packed_bytes, unpack

__all__ = [
    "LEVEL_LIMIT",
    "QUERY_LIMIT",
    "Query",
    "Table",
    "half",
    "highest",
    "native",
    "nearest",
    "nearest_listed",
    "pack",
    "packed_bytes",
    "prepare",
    "probe",
    "quantise",
    "reconstruct",
    "scan",
    "scan_many",
    "score",
    "score_tokens",
    "table",
    "unpack",
]

LEVEL_LIMIT = 63  # largest level of a symmetric set
Array = npt.NDArray[Any]


def _load() -> ModuleType:
    try:
        from lateint.index import _native
    except ImportError as error:
        warnings.warn(
            f"lateint.index: the native kernels are missing ({error}); numpy serves, 10 to 100 times "
            "slower. Build them with `pip install .` (needs a C++17 compiler)",
            RuntimeWarning,
            stacklevel=3,
        )
        return reference
    module: ModuleType = _native
    return module


_impl = _load()


def native() -> str | None:
    """Instruction set that the native kernels use here ("avx512", "avx2", ...); None: numpy."""
    return None if _impl is reference else str(_impl.isa())


class Table(NamedTuple):
    """A query's centroid scores in bytes, for `scan`: S[k, t] ~ floor_t + step * bytes[k, t].

    bytes: u8 (K, Tp), Tp = 16 for up to 16 query tokens, else padded to a multiple of 32.
    step: one for the whole query, so sums of bytes compare between documents.
    base: sum of floor_t; base + step * scan(...) estimates the centroid part of the score.
    """

    bytes: Array
    step: float
    base: float


def quantise(
    values: Array,
    centroids: Array,
    codes: Array,
    scale: Array,
    boundaries: Array | None,
    levels: Array,
    stretches: Array,
    *,
    along: float,
    threads: int = 0,
) -> tuple[Array, Array]:
    """Packed residuals of tokens u8 (N, packed_bytes) and their factors float32 (N,), in one pass.

    values: float32 (N, D), rotated; centroids: float32 (K, D); codes: u16 (N,); scale: float32 (D,),
    above 0; levels: int8, rising (of a trellis code read column by column); boundaries: of a plain
    code float32 (2^nbits - 1,) between them, else None.

    With r = value - centroid, divided by its spread |r| / sqrt(D) and by a stretch, the symbols are
    those whose scale * level is nearest to r: of a plain code the number of boundaries that lie below
    r_d / scale_d, of a trellis code by Viterbi's algorithm. stretches: float32 (M,), above 0: all are
    tried, and the one is kept with which the error e, after the best factor, has the smallest
    |e|^2 + along <e, value>^2 / <value, value>. More: smaller errors, slower building.
    """
    check.array("values", values, np.float32, None, None)
    count, dim = values.shape
    check.width(dim)
    check.array("centroids", centroids, np.float32, None, dim)
    check.array("codes", codes, np.uint16, count)
    check.scale(scale, dim)
    nbits = check.levels(levels)
    if levels.ndim == 2:
        boundaries = None
    else:
        check.boundaries(boundaries, nbits)
    check.array("stretches", stretches, np.float32, None)
    if not len(stretches) or not (np.isfinite(stretches) & (stretches > 0)).all():
        raise ValueError("stretches: wanted at least one, finite and above 0")
    packed, factor = _impl.quantise(
        values,
        centroids,
        codes,
        scale,
        boundaries,
        levels,
        stretches,
        along,
        nbits,
        check.threads(threads),
    )
    return np.asarray(packed), np.asarray(factor)


def reconstruct(
    codes: Array,
    packed: Array,
    centroids: Array,
    scale: Array,
    levels: Array,
    factor: Array | None = None,
    *,
    threads: int = 0,
) -> Array:
    """Tokens as the index knows them, float32 (N, D), rotated: c + f * scale * level.

    codes u16 (N,), packed u8 (N, bytes), centroids float32 (K, D), scale float32 (D,), levels int8,
    factor float32 (N,) or None (1)."""
    check.array("centroids", centroids, np.float32, None, None)
    dim = centroids.shape[1]
    check.width(dim)
    nbits = _residuals(codes, packed, levels, factor, dim)
    check.scale(scale, dim)
    return np.asarray(
        _impl.reconstruct(
            codes, packed, centroids, scale, levels, factor, nbits, check.threads(threads)
        )
    )


def nearest(points: Array, centroids: Array, half: Array, *, threads: int = 0) -> Array:
    """The nearest centroid (Euclidean) of each point, compared with all, u32 (n,).

    points float32 (n, D), centroids float32 (K, D), half float32 (K,): half their squared lengths.
    Costs n K D multiplications; a point's answer does not depend on the others."""
    check.points(points, centroids, half)
    return np.asarray(_impl.nearest(points, centroids, half, check.threads(threads)))


def nearest_listed(
    points: Array,
    order: Array,
    ends: Array,
    centroids: Array,
    half: Array,
    lists: Array,
    *,
    threads: int = 0,
) -> Array:
    """The same among the centroids on the list of each point's cell.

    order: i64 (n,), points by cell: cell c has order[ends[c] : ends[c + 1]], ends i64 (C + 1,);
    lists: u32 (C, L), the centroids that a point of each cell is compared with."""
    check.points(points, centroids, half)
    check.array("order", order, np.int64, len(points))
    check.array("lists", lists, np.uint32, None, None)
    check.array("ends", ends, np.int64, len(lists) + 1)
    if not lists.size:
        raise ValueError("lists: empty; wanted at least one centroid for each cell")
    threads = check.threads(threads)
    return np.asarray(_impl.nearest_listed(points, order, ends, centroids, half, lists, threads))


def prepare(
    query: Array,
    whole: Array,
    steps: Array,
    scale: Array,
    *,
    limit: int = QUERY_LIMIT,
    threads: int = 1,
) -> Query:
    """The query (T, D) float32, rotated, against centroids whole * steps, int8 (K, D) and float32
    (K,), and the scale of each dimension, float32 (D,).

    Costs one product K x D x T. limit: largest integer of q8, up to 127; larger: less noise
    (63 adds 1.3 % to that of 4-bit residuals, 127 a quarter of it), slower where the processor has
    no 8-bit dot product. Raises ValueError for wrong types, shapes, and values that are not finite.
    """
    q8, step = integers(query, scale, limit)
    check.width(query.shape[1])
    check.array("whole", whole, np.int8, None, query.shape[1])
    check.array("steps", steps, np.float32, len(whole))
    return Query(q8, step, *_impl.product(whole, steps, query, check.threads(threads)))


def table(query: Query, *, threads: int = 1) -> Table:
    """The query's centroid scores in bytes. See `Table`."""
    tokens = len(query)
    if not len(query.scores):
        raise ValueError("query: prepared against 0 centroids")
    padded = 16 if tokens <= 16 else -(-tokens // 32) * 32
    count = check.threads(threads)
    return Table(*_impl.table(query.scores, query.low, query.high, tokens, padded, count))


def scan(
    table: Array,
    codes: Array,
    offsets: Array,
    positions: Array | None = None,
    *,
    threads: int = 1,
) -> Array:
    """Centroid interaction, u32 (n,): sum over t of the max over the document of table[code, t].

    table: `Table.bytes`; codes u16 (N,); offsets i64 (B + 1,); positions i64 (n,) or None."""
    check.table(table)
    check.array("codes", codes, np.uint16, None)
    check.selection(offsets, positions)
    return np.asarray(_impl.scan(table, codes, offsets, positions, check.threads(threads)))


def scan_many(
    tables: list[Array],
    codes: Array,
    offsets: Array,
    positions: Array | None = None,
    *,
    threads: int = 1,
) -> Array:
    """`scan` for several queries: u32 (len(tables), n). Threads share queries and documents."""
    for one in tables:
        check.table(one)
    check.array("codes", codes, np.uint16, None)
    check.selection(offsets, positions)
    return np.asarray(
        _impl.scan_many(list(tables), codes, offsets, positions, check.threads(threads))
    )


def score(
    query: Query,
    codes: Array,
    packed: Array,
    offsets: Array,
    positions: Array | None,
    levels: Array,
    factor: Array | None = None,
    *,
    threads: int = 1,
) -> Array:
    """MaxSim of the query with the compressed documents, float32 (n,).

    query: from `prepare`; codes u16 (N,), packed u8 (N, bytes), offsets i64 (B + 1,), positions i64
    (n,) or None, levels int8, factor float32 (N,) or None."""
    nbits = _residuals(codes, packed, levels, factor, query.dim)
    check.selection(offsets, positions)
    return np.asarray(
        _impl.score(
            query.q8,
            query.step,
            query.scores,
            codes,
            packed,
            offsets,
            positions,
            levels,
            factor,
            nbits,
            check.threads(threads),
        )
    )


def score_tokens(
    query: Query, codes: Array, packed: Array, levels: Array, factor: Array | None = None
) -> Array:
    """Similarity of each query token with each of the tokens given (one document), (T, Ld)."""
    nbits = _residuals(codes, packed, levels, factor, query.dim)
    return np.asarray(
        _impl.score_tokens(query.q8, query.step, query.scores, codes, packed, levels, factor, nbits)
    )


def half(
    query: Array,
    values: Array,
    offsets: Array,
    positions: Array | None = None,
    *,
    threads: int = 1,
) -> Array:
    """Exact MaxSim of query float32 (T, D) with tokens float16 (N, D), float32 (n,)."""
    check.array("query", query, np.float32, None, None)
    tokens, dim = query.shape
    check.width(dim)
    if not 1 <= tokens <= check.MAX_TOKENS:
        raise ValueError(f"query: {tokens} tokens; wanted 1 to {check.MAX_TOKENS}")
    check.array("values", values, np.float16, None, dim)
    check.selection(offsets, positions)
    bits = values.view(np.uint16)  # C++17 has no such number
    return np.asarray(_impl.half(query, bits, offsets, positions, check.threads(threads)))


def highest(query: Query, most: int) -> Array:
    """The `most` centroids with the highest scores for each of the query's tokens (the earlier among
    equals), each once, ascending: u32 (n,). Raises ValueError for most < 1."""
    if most < 1:
        raise ValueError(f"most: got {most}; wanted 1 or more")
    return np.asarray(_impl.highest(query.scores, len(query), min(most, 1 << 30)))


def probe(list_offsets: Array, list_docs: Array, cells: Array, documents: int) -> Array:
    """Documents in the inverted lists of `cells`, each once, ascending: i64 (n,).

    list_offsets i64 (K + 1,), list_docs u32 (M,): list k is list_docs[list_offsets[k] :
    list_offsets[k + 1]], positions below `documents`; cells u32 (P,), repetition allowed."""
    check.array("list_offsets", list_offsets, np.int64, None)
    check.array("list_docs", list_docs, np.uint32, None)
    check.array("cells", cells, np.uint32, None)
    if not len(list_offsets):
        raise ValueError("list_offsets: empty; wanted K + 1 numbers")
    if documents < 0:
        raise ValueError(f"documents: got {documents}; wanted 0 or more")
    return np.asarray(_impl.probe(list_offsets, list_docs, cells, documents))


def _residuals(codes: Array, packed: Array, levels: Array, factor: Array | None, dim: int) -> int:
    """Checks what describes N tokens; returns nbits, which the levels' number tells."""
    check.array("codes", codes, np.uint16, None)
    nbits = check.levels(levels)
    check.array("packed", packed, np.uint8, len(codes), packed_bytes(dim, nbits))
    check.factor(factor, len(codes))
    return nbits
