"""Is one run better than another, or was it luck of the queries? Paired tests over queries.

The randomisation test (Fisher; Smucker, Allan and Carterette 2007, "A Comparison of Statistical
Significance Tests for Information Retrieval Evaluation") asks: if both systems were the same, how
often would swapping their scores at random, query by query, give a difference this large? It
assumes nothing of the distribution, which nDCG and MRR would break. Knows numbers by query only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

EXACT = 14  # differing queries up to which all 2^n swaps are counted instead of drawn
ROWS = 256  # permutations drawn together: bounds the memory


@dataclass(frozen=True)
class Comparison:
    """a against b over the same queries.

    difference: mean(a) - mean(b). p_value: of a two-sided paired randomisation test. low, high:
    95% of bootstrap means of the difference lie between them. better, worse, queries: how many
    queries a answers better than b, worse, and of how many; the rest are equal.
    """

    difference: float
    p_value: float
    low: float
    high: float
    better: int
    worse: int
    queries: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Two systems' values of one metric, query by query (`metrics.per_query`).

    permutations: of the test, and of the bootstrap; larger: a finer p-value (its least is
    1 / (permutations + 1)), more time. With few differing queries all swaps are counted, exactly.
    Raises ValueError: other queries in a than in b, or none.
    """
    if a.keys() != b.keys() or not a:
        missing = sorted(a.keys() ^ b.keys())[:3]
        raise ValueError(
            f"a comparison wants the same queries on both sides, at least one; got {len(a)} and "
            f"{len(b)}" + (f", only on one side: {missing}" if missing else "")
        )
    if permutations < 1:
        raise ValueError(f"permutations: got {permutations}; wanted at least 1")
    differences = np.array([a[query] - b[query] for query in a], dtype=np.float64)
    generator = np.random.default_rng(seed)
    low, high = _bootstrap(differences, permutations, generator)
    return Comparison(
        difference=float(differences.mean()),
        p_value=_p_value(differences, permutations, generator),
        low=low,
        high=high,
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
        queries=len(differences),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several comparisons, corrected (Holm 1979): with 20 systems beside one, an
    uncorrected 0.05 is expected once by luck. In the order they came; never below the input."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, running = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = running
    return corrected


def _p_value(
    differences: np.ndarray[Any, Any], permutations: int, generator: np.random.Generator
) -> float:
    moving = differences[differences != 0]  # a swap of equals changes nothing
    if not len(moving):
        return 1.0
    # rounding must not make the observed difference look smaller than its own mirror image
    observed = abs(moving.sum()) - 1e-12 * np.abs(moving).sum()
    if len(moving) <= EXACT:
        bits = np.arange(2 ** len(moving))[:, None] >> np.arange(len(moving)) & 1
        return float((np.abs((1.0 - 2.0 * bits) @ moving) >= observed).mean())
    extreme = 0
    for first in range(0, permutations, ROWS):
        rows = min(ROWS, permutations - first)
        signs = generator.integers(0, 2, size=(rows, len(moving)), dtype=np.int8)
        extreme += int((np.abs((1.0 - 2.0 * signs) @ moving) >= observed).sum())
    return (extreme + 1) / (permutations + 1)


def _bootstrap(
    differences: np.ndarray[Any, Any], samples: int, generator: np.random.Generator
) -> tuple[float, float]:
    means = np.empty(samples)
    for first in range(0, samples, ROWS):
        rows = min(ROWS, samples - first)
        drawn = generator.integers(0, len(differences), size=(rows, len(differences)))
        means[first : first + rows] = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
