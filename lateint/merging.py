"""Tokens that are alike become one: clusters by Ward's criterion (token pooling, Clavié et al. 2024).

Clusters are merged in rounds: of all pairs that are each other's nearest, the cheapest go together,
until few enough are left; a round is one matrix product. Knows rows of numbers only, and numpy only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

TIE, GOLDEN = 1e-9, 0.6180339887498949


def merge(values: npt.NDArray[Any], keep: int) -> tuple[F32, Places]:
    """(n, D) floats -> (min(n, keep), D) float32 and the place of each one's first member.

    A merged row points where its members' sum points and is as long as they are on average, so unit
    rows stay unit rows. Rows keep the order of their first members. keep: at least 1.
    """
    sums, weight = np.asarray(values).astype(np.float64), np.ones(len(values))
    length = np.linalg.norm(sums, axis=1)  # total of the members'
    members = np.arange(len(sums))
    while len(sums) > keep:
        nearest, cost = _nearest(sums / weight[:, None], weight)
        place = np.arange(len(sums))
        first = np.flatnonzero((nearest[nearest] == place) & (place < nearest))
        first = first[np.argsort(cost[first], kind="stable")][: len(sums) - keep]
        second = nearest[first]
        for total in (sums, weight, length):
            total[first] += total[second]
        left = np.ones(len(sums), bool)
        left[second] = False
        sums, weight, length, members = sums[left], weight[left], length[left], members[left]
    norm = np.linalg.norm(sums, axis=1)
    scale = length / weight / np.maximum(norm, 1e-12)
    merged: F32 = (sums * scale[:, None]).astype(np.float32)
    return merged, members


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
    apart += TIE * ((place[:, None] + place[None]) * GOLDEN % 1)
    np.fill_diagonal(apart, np.inf)
    nearest = apart.argmin(axis=1)
    return nearest, apart[np.arange(len(apart)), nearest]
