"""The exact ranking that a search is measured against: float32 MaxSim over every token, in numpy."""

from __future__ import annotations

import numpy as np

from lateint.index.kinds import tokens_at
from lateint.index.search import exact
from lateint.index.search.exact import Scores
from lateint.index.search.rank import top
from lateint.index.snapshot import Selection
from lateint.index.tokens import IntArray, Tokens


def exact_scores(selection: Selection, queries: Tokens) -> Scores:
    """MaxSim by `exact.maxsim` over the tokens as well as the index keeps them, (Bq, count)."""
    out = np.empty((len(queries), selection.count), np.float32)
    for part, place in zip(selection.parts, selection.firsts, strict=True):
        positions = part.all_positions
        lengths = np.diff(part.segment.offsets)[positions]
        for first, last in exact.blocks(lengths, exact.rows(queries)):
            held = tokens_at(part.segment, positions[first:last])
            out[:, place + first : place + last] = exact.maxsim(queries, held)
    return out


def exact_top(selection: Selection, queries: Tokens, k: int) -> list[IntArray]:
    """Places of the k best for each query, best first."""
    found: list[IntArray] = []
    for first, last in exact.query_groups(queries, selection.count):
        scores = exact_scores(selection, queries.slice(first, last))
        found += [top(row, k) for row in scores]
    return found
