"""The kernels in numpy: the same answers as the native ones, slower. Oracle of the tests.

Arguments have been checked by `lateint.index.kernels` (types, shapes); values that a file may have
wrong (codes, offsets, positions) are checked here for the documents that are visited, as the native
kernels do. `threads` is accepted and not used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ROWS = 1 << 14  # tokens gathered at once, so that working memory stays small


def isas() -> list[str]:
    return ["reference"]


def pack(index: Array, nbits: int) -> Array:
    """u8 [N, D] of level indices -> u8 [N, ceil(D nbits / 8)], low bits first."""
    count, dim = index.shape
    per = 8 // nbits
    nbytes = -(-dim // per)
    if count and dim and int(index.max()) >> nbits:
        raise ValueError(f"index: holds {int(index.max())}; {nbits} bits hold {(1 << nbits) - 1}")
    full = np.zeros((count, nbytes * per), np.uint8)
    full[:, :dim] = index
    planes = full.reshape(count, nbytes, per)
    packed = np.zeros((count, nbytes), np.uint8)
    for plane in range(per):
        packed |= planes[:, :, plane] << np.uint8(plane * nbits)
    return packed


def unpack(packed: Array, dim: int, nbits: int) -> Array:
    """The inverse of `pack`."""
    per = 8 // nbits
    shifts = np.arange(per, dtype=np.uint8) * np.uint8(nbits)
    planes = (packed[:, :, None] >> shifts) & np.uint8((1 << nbits) - 1)
    return np.ascontiguousarray(planes.reshape(len(packed), -1)[:, :dim])


def quantise(
    values: Array,
    centroids: Array,
    codes: Array,
    scale: Array,
    boundaries: Array,
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
        index = np.zeros(unit.shape, np.uint8)
        for stretch in stretches:
            tried = np.searchsorted(boundaries * stretch, unit.ravel()).reshape(unit.shape)
            coded = levels.astype(np.float32)[tried] * scale
            own = _dots(token, coded)
            top = _dots(left, coded) + weight * both * own
            found = top / (_dots(coded, coded) + weight * own * own)
            gain = np.maximum(top, 0) * found
            better = gain > best
            best[better], index[better] = gain[better], tried[better]
            factor[part][better] = found[better]
        packed[part] = pack(index, nbits)
    return packed, factor


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
        residual = levels.astype(np.float32)[unpack(packed[part], dim, nbits)] * scale
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
    residual = levels.astype(np.float32)[unpack(packed, dim, nbits)]
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
