"""K-means in two levels: trains thousands of centroids, finds the nearest one, in seconds on a core.

Knows vectors, not tokens, files or bits. Numpy only; the work is in matrix products.

Plain Lloyd iterations compare every point with every centroid: 814,000 points x 8,192 centroids x
128 dimensions are 1.7 TFLOP each. Here the centroids are themselves put into coarse cells, every
cell has a list of the centroids nearest to its middle, and a point is compared with the list of its
own cell only. Points are sorted by cell, so that each cell is one matrix product. Training starts
the same way: coarse cells of the sample first, then centroids inside each cell, then a few
iterations over all of them together.

Training is spherical: centroids have unit length while they move, because a mean of many points is
short and would otherwise lose its points to any single point nearby, and never gain them back. Only
what comes out is the plain mean of each centroid's points, and the nearest centroid is that of the
smallest Euclidean distance: that leaves the codec the shortest residual (an eighth less energy than
the unit centroid at a mean cosine of 0.75), and a query's product with it is the mean score.

Deterministic: the same points and seed give the same bytes on the same machine. Products are taken
in blocks of which the sizes depend on the data alone; how a BLAS adds inside of one may differ
between processors, and with it the last bit of a centroid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

PLAIN = 1024  # up to so many centroids one level is as fast
ROWS = 512  # points compared with centroids in one product: the scores stay in the cache
BLOCK = 65536  # points sorted by cell together: bounds the memory of an assignment
ITERATIONS = 6  # inside the coarse cells, then over all centroids
REFINEMENTS = 3


@dataclass(frozen=True)
class Cells:
    """Centroids, and the coarse cells through which the nearest one is found.

    Made from the centroids alone (`Cells.over`), so whoever has the centroids assigns alike.
    """

    centroids: F32  # (K, D)
    middles: F32  # (C, D); C = 0: every point is compared with every centroid
    lists: Ints  # (C, L) the centroids that a point of a cell is compared with, ascending

    @classmethod
    def over(cls, centroids: F32, *, listed: int | None = None) -> Cells:
        """Cells over `centroids` (K, D).

        listed: centroids on each cell's list (default: 1,024 at K = 8,192, then with sqrt(K)).
        Larger: more points find their true nearest centroid, slower in proportion.
        """
        count, dim = centroids.shape
        if count <= PLAIN:
            return cls(centroids, np.zeros((0, dim), np.float32), np.zeros((0, 0), np.int64))
        cells = int(4 * np.sqrt(count))
        listed = min(count, listed or int(11 * np.sqrt(count)))
        rng = np.random.default_rng(count)
        middles = _lloyd(centroids, cells, 4, rng)
        near = middles @ centroids.T - _half_norms(centroids)
        lists = np.sort(np.argpartition(-near, listed - 1, axis=1)[:, :listed], axis=1)
        return cls(centroids, middles, lists.astype(np.int64))

    def assign(self, points: F32) -> Ints:
        """The nearest centroid (approximately: see `over`) of every point, (N,) int64."""
        codes = np.empty(len(points), np.int64)
        for first in range(0, len(points), BLOCK):
            codes[first : first + BLOCK] = self._block(points[first : first + BLOCK])
        return codes

    def _block(self, points: F32) -> Ints:
        if not len(self.middles):
            return nearest(points, self.centroids)
        cells = nearest(points, self.middles)
        order = np.argsort(cells, kind="stable")
        points = points[order]
        ends = np.searchsorted(cells[order], np.arange(len(self.middles) + 1))
        codes = np.empty(len(points), np.int64)
        for cell in np.flatnonzero(np.diff(ends)):
            part = slice(ends[cell], ends[cell + 1])
            members = self.lists[cell]
            codes[order[part]] = members[nearest(points[part], self.centroids[members])]
        return codes


def train(sample: npt.NDArray[np.floating[Any]], count: int, *, seed: int = 0) -> F32:
    """`count` centroids (count, D) float32 of the points `sample` (n, D), finite floats.

    count: larger: closer centroids, slower. More than n are not possible; equal points may leave
    several centroids in one place, where the later ones are never the nearest.
    Raises ValueError: a sample of another shape, without points or with values that are not finite.
    """
    points = _checked(sample)
    if not 1 <= count <= len(points):
        raise ValueError(
            f"wanted {count} centroids of {len(points)} points; ask for 1 to {len(points)}"
        )
    rng = np.random.default_rng(seed)
    if count <= PLAIN:
        centroids = _lloyd(points, count, ITERATIONS + REFINEMENTS, rng)
        return _means(points, nearest(points, centroids), centroids)
    centroids = _within(points, count, rng)
    for _ in range(REFINEMENTS):
        codes = Cells.over(centroids).assign(points)
        centroids = _moved(points, codes, centroids, rng)
    return _means(points, Cells.over(centroids).assign(points), centroids)


def nearest(points: F32, centroids: F32) -> Ints:
    """The centroid of the smallest Euclidean distance to each point, compared with all, (N,)."""
    shift, columns = _half_norms(centroids), np.ascontiguousarray(centroids.T)
    codes = np.empty(len(points), np.int64)
    for first in range(0, len(points), ROWS):
        scores = points[first : first + ROWS] @ columns
        scores -= shift
        codes[first : first + ROWS] = scores.argmax(axis=1)
    return codes


def _within(points: F32, count: int, rng: np.random.Generator) -> F32:
    """Centroids trained cell by cell: coarse cells first, then each cell's share of `count`."""
    coarse = int(np.sqrt(count))
    some = np.sort(rng.choice(len(points), min(len(points), 64 * coarse), replace=False))
    middles = _lloyd(points[some], coarse, ITERATIONS, rng)
    cells = nearest(points, middles)
    order = np.argsort(cells, kind="stable")
    sizes = np.bincount(cells, minlength=coarse)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    found = [
        _lloyd(points[order[ends[cell] : ends[cell + 1]]], int(share), ITERATIONS, rng)
        for cell, share in enumerate(_shares(sizes, count))
        if share
    ]
    return np.concatenate(found)


def _shares(sizes: Ints, count: int) -> Ints:
    """`count` divided over cells in proportion to their sizes. As it is at most the number of
    points, no share is larger than its cell, whichever way the parts are rounded."""
    shares: Ints = np.diff(np.cumsum(sizes) * count // sizes.sum(), prepend=0)
    return shares


def _lloyd(points: F32, count: int, iterations: int, rng: np.random.Generator) -> F32:
    """Plain spherical k-means from `count` points drawn at random; unit rows."""
    centroids = _unit(points[np.sort(rng.choice(len(points), count, replace=False))])
    for _ in range(iterations if count < len(points) else 0):
        centroids = _moved(points, nearest(points, centroids), centroids, rng)
    return centroids


def _moved(points: F32, codes: Ints, centroids: F32, rng: np.random.Generator) -> F32:
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


def _means(points: F32, codes: Ints, centroids: F32) -> F32:
    """The mean of each centroid's points; where there are none, what it was."""
    sizes = np.bincount(codes, minlength=len(centroids))
    used = np.flatnonzero(sizes)
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes[used])])
    means = centroids.copy()
    for first in range(0, len(used), 1024):  # in pieces: no sorted copy of all points at once
        piece = slice(first, min(first + 1024, len(used)))
        begin, end = starts[piece.start], starts[piece.stop]
        sums = np.add.reduceat(points[order[begin:end]], starts[piece] - begin, axis=0)
        means[used[piece]] = (sums / sizes[used[piece], None]).astype(np.float32)
    return means


def _unit(rows: F32) -> F32:
    """Rows of unit length; zero rows stay."""
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


def _checked(sample: npt.NDArray[np.floating[Any]]) -> F32:
    points = np.asarray(sample)
    if points.ndim != 2 or not points.size or points.dtype.kind != "f":
        raise ValueError(
            f"points are {points.dtype} {points.shape}; wanted floats (n, D), one row at least"
        )
    points = np.ascontiguousarray(points, np.float32)
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise ValueError(
            f"point {int(bad.argmax())} has NaN or infinite values ({int(bad.sum())} such points); "
            "leave them out"
        )
    return points
