"""The kernels in numpy: the same answers as the native ones, slower. Oracle of the tests.

Arguments have been checked by `lateint.index.kernels` (types, shapes); values that a file may have
wrong (codes, offsets, positions) are checked here for the documents that are visited, as the native
kernels do. `threads` is accepted and not used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lateint.index.kernels.symbols import levels_of, pack, stream

Array = npt.NDArray[Any]

ROWS = 1 << 14  # tokens gathered at once, so that working memory stays small


def isas() -> list[str]:
    return ["reference"]


def quantise(
    values: Array,
    centroids: Array,
    codes: Array,
    scale: Array,
    boundaries: Array | None,
    levels: Array,
    stretches: Array,
    along: float,
    nbits: int,
    threads: int,
) -> tuple[Array, Array]:
    count, dim = values.shape
    packed = np.empty((count, -(-dim * nbits // 8)), np.uint8)
    factor = np.empty(count, np.float32)
    _check_codes(codes, len(centroids), 0)
    for low in range(0, count, ROWS):
        part = slice(low, low + ROWS)
        token = values[part]
        left = token - centroids[codes[part]]
        spread = np.maximum(np.sqrt(_dots(left, left) / np.float32(dim)), np.float32(1e-9))
        unit = left / spread[:, None] / scale
        weight = np.float32(along) / np.maximum(_dots(token, token), np.float32(1e-12))
        both = _dots(token, left)
        best = np.full(len(token), -1, np.float32)
        symbols = np.zeros(unit.shape, np.uint8)
        for stretch in stretches:
            if boundaries is None:
                tried = _paths(unit * scale / stretch, levels, scale, nbits)
            else:
                tried = np.searchsorted(boundaries * stretch, unit.ravel()).reshape(unit.shape)
            coded = levels_of(pack(tried.astype(np.uint8), nbits), dim, levels) * scale
            own = _dots(token, coded)
            top = _dots(left, coded) + weight * both * own
            found = top / (_dots(coded, coded) + weight * own * own)
            gain = np.maximum(top, 0) * found
            better = gain > best
            best[better], symbols[better] = gain[better], tried[better]
            factor[part][better] = found[better]
        packed[part] = pack(symbols, nbits)
    return packed, factor


def _paths(wanted: Array, levels: Array, scale: Array, nbits: int) -> Array:
    """Symbols (N, D) of a trellis code with the smallest squared error of scale * level to `wanted`:
    Viterbi's algorithm, stream by stream. A state is c1 + 2 c2."""
    count, dim = wanted.shape
    symbols = np.empty((count, dim), np.uint8)
    every = np.arange(count)
    for first in range(0, dim, stream(nbits)):
        last = min(dim, first + stream(nbits))
        cost = np.full((count, 4), np.inf, np.float32)
        cost[:, 0] = 0
        came = np.empty(
            (last - first, count, 4, 2), np.uint8
        )  # into each state: from c2, by s ^ c2
        for d in range(first, last):
            error = (wanted[:, d, None, None] - levels.astype(np.float32) * scale[d]) ** 2
            subset = error.reshape(count, 2, -1, 2)  # (N, c1, other bits, lowest bit)
            choice, least = subset.argmin(axis=2), subset.min(axis=2)
            following = np.empty_like(cost)
            for state in range(4):
                c, c1 = state & 1, state >> 1
                ways = np.stack([cost[:, c1 + 2 * c2] + least[:, c1, c ^ c2] for c2 in (0, 1)])
                c2 = (ways[1] < ways[0]).astype(np.intp)
                following[:, state] = ways[c2, every]
                came[d - first, :, state, 0] = c2
                came[d - first, :, state, 1] = 2 * choice[every, c1, c ^ c2] + (c ^ c2)
            cost = following
        state = cost.argmin(axis=1)
        for d in range(last - 1, first - 1, -1):
            c2, level = came[d - first, every, state].T
            symbols[:, d] = level ^ c2
            state = (state >> 1) + 2 * c2.astype(np.intp)
    return symbols


def _dots(a: Array, b: Array) -> Array:
    return np.einsum("nd,nd->n", a, b)


def reconstruct(
    codes: Array,
    packed: Array,
    centroids: Array,
    scale: Array,
    levels: Array,
    factor: Array | None,
    nbits: int,
    threads: int,
) -> Array:
    dim = centroids.shape[1]
    out = np.empty((len(codes), dim), np.float32)
    _check_codes(codes, len(centroids), 0)
    for low in range(0, len(codes), ROWS):
        part = slice(low, low + ROWS)
        residual = levels_of(packed[part], dim, levels) * scale
        if factor is not None:
            residual *= factor[part, None]
        out[part] = centroids[codes[part]] + residual
    return out


def product(whole: Array, steps: Array, query: Array, threads: int) -> tuple[Array, Array, Array]:
    """See `lateint.index.kernels.prepare` and `Query`: scores, low, high."""
    tokens = len(query)
    padded = np.zeros((-(-tokens // 8) * 8, query.shape[1]), np.float32)
    padded[:tokens] = query
    scores = np.ascontiguousarray((whole.astype(np.float32) @ padded.T) * steps[:, None])
    if not len(scores):
        return scores, np.full(len(padded), np.inf, np.float32), np.full(len(padded), -np.inf, "f")
    return scores, scores.min(axis=0), scores.max(axis=0)


def table(
    scores: Array, low: Array, high: Array, tokens: int, padded: int, threads: int
) -> tuple[Array, float, float]:
    """See `lateint.index.kernels.table`."""
    out = np.zeros((len(scores), padded), np.uint8)
    own, floor = scores[:, :tokens], low[:tokens]
    step = np.float32((high[:tokens] - floor).max() / np.float32(255))
    if step > 0:
        inverse = np.float32(1) / step
        out[:, :tokens] = np.minimum((own - floor) * inverse + np.float32(0.5), 255)
    return out, float(step), float(floor.sum(dtype=np.float64))


def nearest(points: Array, centroids: Array, half: Array, threads: int) -> Array:
    columns = np.ascontiguousarray(centroids.T)
    codes = np.empty(len(points), np.uint32)
    for low in range(0, len(points), 512):  # the scores stay in the cache
        scores = points[low : low + 512] @ columns
        scores -= half
        codes[low : low + 512] = scores.argmax(axis=1)
    return codes


def nearest_listed(
    points: Array,
    order: Array,
    ends: Array,
    centroids: Array,
    half: Array,
    lists: Array,
    threads: int,
) -> Array:
    codes = np.zeros(len(points), np.uint32)
    for cell in np.flatnonzero(np.diff(ends)):
        rows, members = order[ends[cell] : ends[cell + 1]], lists[cell]
        codes[rows] = members[nearest(points[rows], centroids[members], half[members], 1)]
    return codes


def scan(
    table: Array, codes: Array, offsets: Array, positions: Array | None, threads: int
) -> Array:
    starts, stops = _spans(offsets, positions, len(codes))
    out = np.zeros(len(starts), np.uint32)
    for items, rows, at in _runs(starts, stops):
        found = codes[rows]
        _check_codes(found, len(table), int(rows[0]))
        out[items] = np.maximum.reduceat(table[found], at, axis=0).sum(axis=1, dtype=np.uint32)
    return out


def scan_many(
    tables: list[Array], codes: Array, offsets: Array, positions: Array | None, threads: int
) -> Array:
    count = len(offsets) - 1 if positions is None else len(positions)
    out = np.zeros((len(tables), count), np.uint32)
    for row, one in zip(out, tables, strict=True):
        row[:] = scan(one, codes, offsets, positions, threads)
    return out


def score(
    q8: Array,
    step: Array,
    scores: Array,
    codes: Array,
    packed: Array,
    offsets: Array,
    positions: Array | None,
    levels: Array,
    factor: Array | None,
    nbits: int,
    threads: int,
) -> Array:
    starts, stops = _spans(offsets, positions, len(codes))
    out = np.full(len(starts), -np.inf, np.float32)
    for items, rows, at in _runs(starts, stops):
        _check_codes(codes[rows], len(scores), int(rows[0]))
        own = None if factor is None else factor[rows]
        similar = _similar(q8, step, scores, codes[rows], packed[rows], levels, own, nbits)
        out[items] = np.maximum.reduceat(similar, at, axis=0).sum(axis=1)
    return out


def score_tokens(
    q8: Array,
    step: Array,
    scores: Array,
    codes: Array,
    packed: Array,
    levels: Array,
    factor: Array | None,
    nbits: int,
) -> Array:
    _check_codes(codes, len(scores), 0)
    similar = _similar(q8, step, scores, codes, packed, levels, factor, nbits)
    return np.ascontiguousarray(similar.T)


def half(
    query: Array, values: Array, offsets: Array, positions: Array | None, threads: int
) -> Array:
    starts, stops = _spans(offsets, positions, len(values))
    out = np.full(len(starts), -np.inf, np.float32)
    for items, rows, at in _runs(starts, stops):
        similar = values[rows].view(np.float16).astype(np.float32) @ query.T
        out[items] = np.maximum.reduceat(similar, at, axis=0).sum(axis=1)
    return out


def highest(scores: Array, tokens: int, most: int) -> Array:
    order = np.argsort(-scores[:, :tokens], axis=0, kind="stable")  # the earlier among equals
    return np.unique(order[:most]).astype(np.uint32)


def probe(list_offsets: Array, list_docs: Array, cells: Array, documents: int) -> Array:
    seen = np.zeros(documents, np.bool_)
    lists = len(list_offsets) - 1
    for cell in cells.tolist():
        if cell >= lists:
            raise ValueError(f"cells: names list {cell}; there are {lists}")
        start, stop = int(list_offsets[cell]), int(list_offsets[cell + 1])
        if not 0 <= start <= stop <= len(list_docs):
            raise ValueError(
                f"list_offsets: list {cell} is {start} to {stop} of {len(list_docs)} entries; "
                "wanted offsets that rise from 0"
            )
        found = list_docs[start:stop]
        if len(found) and int(found.max()) >= documents:
            raise ValueError(
                f"list_docs: list {cell} names document {int(found.max())}; there are {documents}"
            )
        seen[found] = True
    return np.flatnonzero(seen).astype(np.int64)


def _similar(
    q8: Array,
    step: Array,
    scores: Array,
    codes: Array,
    packed: Array,
    levels: Array,
    factor: Array | None,
    nbits: int,
) -> Array:
    """Similarity of each token with each query token, (N, T): S[code, t] + f step_t (q8 . level).

    The products are sums of at most 1024 integers below 2^14, so float32 holds them exactly."""
    tokens, dim = q8.shape
    residual = levels_of(packed, dim, levels)
    exact = residual @ q8.astype(np.float32).T  # (N, T), whole numbers
    weight = step if factor is None else factor[:, None] * step
    return np.asarray(scores[codes, :tokens] + exact * weight, np.float32)


def _spans(offsets: Array, positions: Array | None, tokens: int) -> tuple[Array, Array]:
    """First and last token of each chosen document; ValueError where they make no sense."""
    if positions is None:
        starts, stops = offsets[:-1], offsets[1:]
    else:
        documents = len(offsets) - 1
        wrong = (positions < 0) | (positions >= documents)
        if wrong.any():
            raise ValueError(
                f"positions: holds {positions[wrong.argmax()]}; wanted 0 to {documents - 1}"
            )
        starts, stops = offsets[positions], offsets[positions + 1]
    wrong = (starts < 0) | (starts > stops) | (stops > tokens)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"offsets: document {at if positions is None else positions[at]} is token {starts[at]} "
            f"to {stops[at]} of {tokens}; wanted offsets that rise from 0 to {tokens}"
        )
    return starts, stops


def _runs(starts: Array, stops: Array) -> Any:
    """(items, rows, at): documents with tokens, the rows of all their tokens, and where each
    document begins among those; at most ROWS rows unless one document alone is longer."""
    items = np.flatnonzero(stops > starts)
    ends = np.cumsum(stops[items] - starts[items])
    first = 0
    while first < len(items):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + ROWS, side="right")))
        chosen = items[first:last]
        lengths = stops[chosen] - starts[chosen]
        at = np.cumsum(lengths) - lengths
        rows = np.repeat(starts[chosen] - at, lengths) + np.arange(int(lengths.sum()))
        yield chosen, rows, at
        first = last


def _check_codes(codes: Array, centroids: int, first: int) -> None:
    if len(codes) and int(codes.max()) >= centroids:
        at = int(codes.argmax())
        raise ValueError(
            f"codes: token {first + at} names centroid {int(codes[at])}; there are {centroids}"
        )
