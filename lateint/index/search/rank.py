"""The best of a row of scores: highest first, the earlier position first among equals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from lateint.index.search.exact import Scores
from lateint.index.tokens import IntArray

BATCH = 1024  # positions looked up at once while grouping


def top(scores: Scores, k: int) -> IntArray:
    """Positions of the k highest of `scores` (n,), best first, ties in order of position."""
    if k < len(scores):
        limit = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= limit)
    else:
        candidates = np.arange(len(scores))
    order = np.argsort(-scores[candidates], kind="stable")
    return candidates[order[:k]].astype(np.int64)


def best_places(sums: IntArray, most: int) -> IntArray:
    """Places of the `most` highest of whole numbers (n,), ascending; of equals the first."""
    if len(sums) <= most:
        return np.arange(len(sums))
    limit = np.partition(sums, len(sums) - most)[len(sums) - most]
    kept = sums >= limit
    over = int(np.count_nonzero(kept)) - most
    if over:
        kept[np.flatnonzero(sums == limit)[-over:]] = False
    return np.flatnonzero(kept)


def top_groups(
    scores: Scores, k: int, groups: Callable[[IntArray], Sequence[Hashable | None]]
) -> IntArray:
    """Like `top`, with one position per group: its best. Walks down the ranking until k are found.

    groups: positions -> the group of each; None stands for a group of its own.
    """
    order = top(scores, len(scores))
    seen: set[Hashable] = set()
    found: list[int] = []
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        for position, group in zip(batch.tolist(), groups(batch), strict=True):
            if group is not None and group in seen:
                continue
            found.append(position)
            if len(found) == k:
                return np.asarray(found, np.int64)
            if group is not None:
                seen.add(group)
    return np.asarray(found, np.int64)
