"""Tokens that are alike become one: clusters by Ward's criterion (token pooling, Clavié et al. 2024).

The tree of clusters is built in rounds, in each of which all pairs that are each other's nearest are
joined (Ward's criterion is reducible, so no order among them matters: Murtagh 1983), and cut where few
enough are left. A round is one matrix product. Knows rows of numbers only, and numpy only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

TIE, GOLDEN = 1e-9, 0.6180339887498949
TOGETHER = 2048  # rows compared with each other; more of them are merged in runs of so many


def merge(values: npt.NDArray[Any], keep: int) -> tuple[F32, Places]:
    """(n, D) floats -> (min(n, keep), D) float32 and the place of each one's first member.

    A merged row points where its members' sum points and is as long as they are on average, so unit
    rows stay unit rows (members that cancel each other give the first of them). Rows keep the order of
    their first members. Of more than TOGETHER rows each run of so many keeps its share, one at least.
    Raises ValueError for keep < 1 and for rows that are not finite.
    """
    rows = np.asarray(values).astype(np.float64)
    if keep < 1:
        raise ValueError(f"keep: got {keep}; wanted 1 or more")
    if not np.isfinite(rows).all():
        raise ValueError("values: has NaN or infinite rows")
    edges = np.arange(0, len(rows) + TOGETHER, TOGETHER).clip(max=len(rows))
    shares = np.diff(edges * keep // max(1, len(rows)))
    parts = [
        _merged(rows[first:last], max(1, int(share)), int(first))
        for first, last, share in zip(edges[:-1], edges[1:], shares, strict=True)
    ]
    if not parts:
        return rows.astype(np.float32), np.zeros(0, np.intp)
    return np.concatenate([p for p, _ in parts]), np.concatenate([p for _, p in parts])


def _merged(rows: F64, keep: int, start: int) -> tuple[F32, Places]:
    """`merge` of one run, whose first row is at `start`."""
    first = _roots(rows, keep)
    members, cluster = np.unique(first, return_inverse=True)
    weight = np.bincount(cluster).astype(np.float64)
    length = np.bincount(cluster, np.linalg.norm(rows, axis=1)) / weight
    sums = np.zeros((len(members), rows.shape[1]))
    np.add.at(sums, cluster, rows)
    norm = np.linalg.norm(sums, axis=1)
    cancelled = norm < 1e-9 * length
    sums[cancelled], norm[cancelled] = rows[members[cancelled]], 1
    scale = np.where(cancelled, 1.0, length / np.maximum(norm, 1e-300))
    return (sums * scale[:, None]).astype(np.float32), members + start


def _roots(rows: F64, keep: int) -> Places:
    """Of each row the first member of its cluster, where `keep` clusters are left."""
    roots = np.arange(len(rows))
    if len(rows) <= keep:
        return roots
    sums, weight, members = rows.copy(), np.ones(len(rows)), roots.copy()
    costs, pairs = [], []
    while len(sums) > 1:
        nearest, cost = _nearest(sums / weight[:, None], weight)
        place = np.arange(len(sums))
        first = np.flatnonzero((nearest[nearest] == place) & (place < nearest))
        second = nearest[first]
        costs.append(cost[first])
        pairs.append(np.stack([members[first], members[second]], 1))
        sums[first] += sums[second]
        weight[first] += weight[second]
        left = np.ones(len(sums), bool)
        left[second] = False
        sums, weight, members = sums[left], weight[left], members[left]
    cheapest = np.argsort(np.concatenate(costs), kind="stable")[: len(rows) - keep]
    for a, b in np.concatenate(pairs)[cheapest].tolist():  # a tree: each joins two clusters
        a, b = _root(roots, a), _root(roots, b)
        roots[max(a, b)] = min(a, b)
    return np.array([_root(roots, i) for i in range(len(rows))], np.intp)


def _root(roots: Places, i: int) -> int:
    while roots[i] != i:
        i = int(roots[i])
    return i


def _nearest(means: F64, weight: F64) -> tuple[Places, F64]:
    """For each cluster the one that is cheapest to merge with, and what that costs (Ward): the
    squared distance of the means times the harmonic share of their weights."""
    square = np.einsum("nd,nd->n", means, means)
    apart = square[:, None] + square[None] - 2 * (means @ means.T)
    apart *= weight[:, None] * weight[None] / (weight[:, None] + weight[None])
    # Exactly symmetric, else rounding may leave no pair that is each other's nearest. Equal tokens
    # (blank patches) would all choose the first of them, and merge one pair a round: what decides
    # between equals is the sum of their places, which pairs them.
    apart = np.minimum(apart, apart.T)
    place = np.arange(len(apart))
    apart += TIE * max(float(square.mean()), 1e-300) * ((place[:, None] + place[None]) * GOLDEN % 1)
    np.fill_diagonal(apart, np.inf)
    nearest = apart.argmin(axis=1)
    return nearest, apart[np.arange(len(apart)), nearest]
