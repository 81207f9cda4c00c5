"""Token pooling: fewer tokens a document, means of those that are alike (Clavié et al. 2024).

Ward's criterion decides what is alike. Clusters are merged in rounds: of all pairs that are each
other's nearest, the cheapest go together, until few enough are left; a round is one matrix product.
Knows token matrices only. Documents are pooled, queries never are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lateint.index.tokens import Tokens

F32 = npt.NDArray[np.float32]

TIE, GOLDEN = 1e-9, 0.6180339887498949
TOGETHER = 2048  # tokens compared with each other; longer documents are pooled in runs of so many


def pool_tokens(tokens: Tokens, factor: int, protected: int = 0) -> Tokens:
    """About one token in `factor` of each document, float32; factor 1 changes nothing.

    A pooled token points where its members' sum points and is as long as they are on average, so
    unit rows stay unit rows. Tokens keep the order of their first members. factor: larger is fewer
    bytes, faster and worse. protected: so many tokens at the start of each document stay as they
    are (markers). Every document keeps at least one token. Raises ValueError for a factor below 1
    or a negative `protected`.
    """
    if factor < 1 or protected < 0:
        raise ValueError(f"factor {factor}, protected {protected}: wanted at least 1 and 0")
    if factor == 1:
        return tokens
    parts: list[F32] = []
    lengths = [0]
    for document in tokens:
        values = np.asarray(document, np.float32)
        kept = [values[:protected]] if protected else []
        rest = values[protected:]
        runs = range(0, len(rest), TOGETHER)
        kept += [_pooled(rest[first : first + TOGETHER], factor) for first in runs]
        parts += kept
        lengths.append(sum(map(len, kept)))
    values = np.concatenate(parts) if parts else np.zeros((0, tokens.dim), np.float32)
    return Tokens(values, np.cumsum(lengths, dtype=np.int64))


def _pooled(values: F32, factor: int) -> F32:
    """(n, D) -> (ceil(n / factor), D)."""
    keep = -(-len(values) // factor)
    sums, weight = values.astype(np.float64), np.ones(len(values))
    length = np.linalg.norm(sums, axis=1)  # total of the members'
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
        sums, weight, length = sums[left], weight[left], length[left]
    norm = np.linalg.norm(sums, axis=1)
    scale = length / weight / np.maximum(norm, 1e-12)
    pooled: F32 = (sums * scale[:, None]).astype(np.float32)
    return pooled


def _nearest(
    means: npt.NDArray[np.float64], weight: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
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
