"""Two rankings of the same documents made one. Knows scores and ranks, not where they come from.

    rrf        sum over the rankings of 1 / (60 + rank); rank from 1, nothing where a ranking lacks
               the document (reciprocal rank fusion: Cormack, Clarke and Buettcher 2009)
    weighted   weight * MaxSim + (1 - weight) * BM25, each stretched over the candidates to 0..1

RRF needs no tuning and no scores that compare; the weighted sum uses how far documents are apart,
and is better where `weight` was chosen on queries with known answers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RRF_CONSTANT = 60  # larger: the first ranks of either list stand out less
FUSIONS = ("rrf", "weighted", "bm25")


def check_fusion(fusion: str, weight: float) -> None:
    """Raises ValueError for a fusion that there is none of, or a weight outside of 0..1."""
    if fusion not in FUSIONS:
        raise ValueError(f"fusion: got {fusion!r}; wanted one of {', '.join(FUSIONS)}")
    if not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
        raise ValueError(
            f"weight: got {weight!r}; wanted a number from 0 (only BM25) to 1 (MaxSim)"
        )


def ranks(scores: Floats, listed: npt.NDArray[np.bool_]) -> Floats:
    """Rank from 1 of each of `scores` (n,) among those `listed`; infinite for the others.

    Ties go to the earlier position.
    """
    order = np.flatnonzero(listed)
    order = order[np.argsort(-scores[order], kind="stable")]
    found = np.full(len(scores), np.inf)
    found[order] = np.arange(1, len(order) + 1)
    return found


def rrf(*rankings: Floats) -> Floats:
    """Reciprocal rank fusion of ranks (n,) each, from 1; infinite: not in that ranking."""
    return np.sum([1 / (RRF_CONSTANT + ranking) for ranking in rankings], axis=0)


def weighted(maxsim: Floats, bm25: Floats, weight: float) -> Floats:
    """Weighted sum of the scores (n,) of the same documents.

    MaxSim is stretched so that the candidates' lowest is 0 and their highest 1; BM25 so that 0, which
    is no word in common, stays 0 and the highest is 1. weight: larger gives MaxSim more say.
    """
    return weight * _stretch(maxsim, np.min(maxsim, initial=np.inf)) + (1 - weight) * _stretch(
        bm25, 0
    )


def _stretch(scores: Floats, low: float) -> Floats:
    span = np.max(scores, initial=-np.inf) - low
    return (scores - low) / span if span > 0 else np.zeros_like(scores)
