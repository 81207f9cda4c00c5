"""K-means in two levels: trains thousands of centroids, finds the nearest one, in seconds on a core.

Knows vectors, not tokens, files or bits. The work is in the kernels' comparison of points with
centroids (`kernels.nearest`).

Plain Lloyd iterations compare every point with every centroid: 814,000 points x 8,192 centroids x
128 dimensions are 1.7 TFLOP each. Here the centroids are themselves put into coarse cells, every
cell has a list of the centroids nearest to its middle, and a point is compared with the list of its
own cell only. Points are ordered by cell, so that each cell is one matrix product. Training starts
the same way: coarse cells of the sample first, then centroids inside each cell, then a few
iterations over all of them together.

Training is spherical: centroids have unit length while they move, because a mean of many points is
short and would otherwise lose its points to any single point nearby, and never gain them back. Only
what comes out is the plain mean of each centroid's points, and the nearest centroid is that of the
smallest Euclidean distance: that leaves the codec the shortest residual (an eighth less energy than
the unit centroid at a mean cosine of 0.75), and a query's product with it is the mean score.

Deterministic: the same points and seed give the same bytes on the same machine, whatever the number
of threads. How sums are added may differ between processors, and with it the last bit of a centroid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lateint.index import kernels

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]  # float16 or float32

PLAIN = 1024  # up to so many centroids one level is as fast
BLOCK = 32768  # points handled together: bounds the memory beside them
LISTS = 64  # cells of which the lists are made together
ITERATIONS = 6  # inside the coarse cells, then over all centroids
REFINEMENTS = 3
LISTED = 11  # times sqrt(K): centroids that a point is compared with
ROUGH = 5  # the same while centroids still move: a point that misses its nearest costs little then


@dataclass(frozen=True)
class Cells:
    """Centroids, and the coarse cells through which the nearest one is found.

    Made from the centroids alone (`Cells.over`), so whoever has the centroids assigns alike.
    """

    centroids: F32  # (K, D)
    half: F32  # (K,) half their squared lengths
    middles: F32  # (C, D); C = 0: every point is compared with every centroid
    lists: npt.NDArray[np.uint32]  # (C, L) what a point of a cell is compared with, ascending

    @classmethod
    def over(cls, centroids: F32, *, listed: int | None = None) -> Cells:
        """Cells over `centroids` (K, D).

        listed: centroids on each cell's list (default: 1,024 at K = 8,192, then with sqrt(K)).
        Larger: more points find their true nearest centroid, slower in proportion.
        """
        count, dim = centroids.shape
        half = _half_norms(centroids)
        if count <= PLAIN:
            none = np.zeros((0, 0), np.uint32)
            return cls(centroids, half, np.zeros((0, dim), np.float32), none)
        cells = int(4 * np.sqrt(count))
        listed = min(count, listed or int(LISTED * np.sqrt(count)))
        rng = np.random.default_rng(count)
        middles = _lloyd(centroids, cells, 4, rng)
        lists = np.empty((cells, listed), np.uint32)
        for first in range(0, cells, LISTS):
            far = half - middles[first : first + LISTS] @ centroids.T
            near = np.argpartition(far, listed - 1, axis=1)[:, :listed]
            lists[first : first + LISTS] = np.sort(near, axis=1)
        return cls(centroids, half, middles, lists)

    def assign(self, points: Floats, *, threads: int = 0) -> Ints:
        """The nearest centroid (approximately: see `over`) of every point, (N,) int64."""
        codes = np.empty(len(points), np.int64)
        for first in range(0, len(points), BLOCK):
            block = np.ascontiguousarray(points[first : first + BLOCK], np.float32)
            codes[first : first + BLOCK] = self._block(block, threads)
        return codes

    def _block(self, points: F32, threads: int) -> npt.NDArray[np.uint32]:
        if not len(self.middles):
            return kernels.nearest(points, self.centroids, self.half, threads=threads)
        cells = nearest(points, self.middles, threads=threads)
        order = np.argsort(cells, kind="stable")
        ends = np.searchsorted(cells[order], np.arange(len(self.middles) + 1))
        return kernels.nearest_listed(
            points, order, ends, self.centroids, self.half, self.lists, threads=threads
        )


def train(sample: Floats, count: int, *, seed: int = 0, threads: int = 0) -> F32:
    """`count` centroids (count, D) float32 of the points `sample` (n, D), finite floats.

    count: larger: closer centroids, slower. More than n are not possible; equal points may leave
    several centroids in one place, where the later ones are never the nearest.
    Memory beside a float16 or float32 sample: some blocks of it. Raises ValueError: a sample of
    another shape, without points or with values that are not finite.
    """
    points = _checked(sample)
    if not 1 <= count <= len(points):
        raise ValueError(
            f"wanted {count} centroids of {len(points)} points; ask for 1 to {len(points)}"
        )
    rng = np.random.default_rng(seed)
    if count <= PLAIN:
        centroids = _lloyd(points, count, ITERATIONS + REFINEMENTS, rng, threads)
        return _means(points, nearest(points, centroids, threads=threads), centroids)
    centroids = _within(points, count, rng, threads)
    rough = int(ROUGH * np.sqrt(count))
    for _ in range(REFINEMENTS):
        codes = Cells.over(centroids, listed=rough).assign(points, threads=threads)
        centroids = _moved(points, codes, centroids, rng)
    return _means(points, Cells.over(centroids).assign(points, threads=threads), centroids)


def nearest(points: Floats, centroids: F32, *, threads: int = 0) -> Ints:
    """The centroid of the smallest Euclidean distance to each point, compared with all, (N,)."""
    half = _half_norms(centroids)
    codes = np.empty(len(points), np.int64)
    for first in range(0, len(points), BLOCK):
        block = np.ascontiguousarray(points[first : first + BLOCK], np.float32)
        found = kernels.nearest(block, centroids, half, threads=threads)
        codes[first : first + BLOCK] = found
    return codes


def _within(points: Floats, count: int, rng: np.random.Generator, threads: int) -> F32:
    """Centroids trained cell by cell: coarse cells first, then each cell's share of `count`."""
    coarse = int(np.sqrt(count))
    some = np.sort(rng.choice(len(points), min(len(points), 64 * coarse), replace=False))
    middles = _lloyd(points[some], coarse, ITERATIONS, rng, threads)
    cells = nearest(points, middles, threads=threads)
    order = np.argsort(cells, kind="stable")
    sizes = np.bincount(cells, minlength=coarse)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    found = [
        _lloyd(points[order[ends[cell] : ends[cell + 1]]], int(share), ITERATIONS, rng, threads)
        for cell, share in enumerate(_shares(sizes, count))
        if share
    ]
    return np.concatenate(found)


def _shares(sizes: Ints, count: int) -> Ints:
    """`count` divided over cells in proportion to their sizes. As it is at most the number of
    points, no share is larger than its cell, whichever way the parts are rounded."""
    shares: Ints = np.diff(np.cumsum(sizes) * count // sizes.sum(), prepend=0)
    return shares


def _lloyd(
    points: Floats, count: int, iterations: int, rng: np.random.Generator, threads: int = 0
) -> F32:
    """Plain spherical k-means from `count` points drawn at random; unit rows."""
    centroids = _unit(points[np.sort(rng.choice(len(points), count, replace=False))])
    for _ in range(iterations if count < len(points) else 0):
        codes = nearest(points, centroids, threads=threads)
        centroids = _moved(points, codes, centroids, rng)
    return centroids


def _moved(points: Floats, codes: Ints, centroids: F32, rng: np.random.Generator) -> F32:
    """Unit centroids in the middle of their points; one that has none starts again at a point,
    drawn with a chance in proportion to its squared distance from the centroid it has now."""
    moved = _unit(_means(points, codes, centroids))
    empty = np.flatnonzero(np.bincount(codes, minlength=len(centroids)) == 0)
    if len(empty):
        lost = np.empty(len(points))
        for first in range(0, len(points), BLOCK):
            gap = points[first : first + BLOCK] - moved[codes[first : first + BLOCK]]
            lost[first : first + BLOCK] = np.einsum("nd,nd->n", gap, gap)
        drawn = _draw(lost, len(empty), rng)
        moved[empty[: len(drawn)]] = _unit(points[drawn])
    return moved


def _means(points: Floats, codes: Ints, centroids: F32) -> F32:
    """The mean of each centroid's points; where there are none, what it was."""
    sizes = np.bincount(codes, minlength=len(centroids))
    used = np.flatnonzero(sizes)
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes[used])])
    means = centroids.copy()
    for first in range(0, len(used), 1024):  # in pieces: no ordered copy of all points at once
        piece = slice(first, min(first + 1024, len(used)))
        begin, end = starts[piece.start], starts[piece.stop]
        some = points[order[begin:end]].astype(np.float32, copy=False)
        sums = np.add.reduceat(some, starts[piece] - begin, axis=0)
        means[used[piece]] = (sums / sizes[used[piece], None]).astype(np.float32)
    return means


def _unit(rows: Floats) -> F32:
    """Rows of unit length, float32; zero rows stay."""
    rows = rows.astype(np.float32, copy=False)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


def _draw(weights: npt.NDArray[np.float64], count: int, rng: np.random.Generator) -> Ints:
    """Up to `count` different positions, each with a chance in proportion to its weight."""
    possible = np.flatnonzero(weights > 0)
    if len(possible) <= count:
        return possible
    keys = rng.exponential(size=len(possible)) / weights[possible]  # the smallest win: Efraimidis
    return np.sort(possible[np.argpartition(keys, count)[:count]])


def _half_norms(centroids: F32) -> F32:
    half: F32 = 0.5 * np.einsum("kd,kd->k", centroids, centroids)
    return half


def _checked(sample: Floats) -> Floats:
    points = np.asarray(sample)
    if points.ndim != 2 or not points.size or points.dtype.kind != "f":
        raise ValueError(
            f"points are {points.dtype} {points.shape}; wanted floats (n, D), one row at least"
        )
    if points.dtype not in (np.float16, np.float32):
        points = points.astype(np.float32)
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise ValueError(
            f"point {int(bad.argmax())} has NaN or infinite values ({int(bad.sum())} such points); "
            "leave them out"
        )
    return points
