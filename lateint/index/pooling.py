"""Token pooling: fewer tokens a document, means of those that are alike (`lateint.merging`).

Knows token matrices only. Documents are pooled, queries never are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lateint.index.tokens import Tokens
from lateint.merging import merge

F32 = npt.NDArray[np.float32]


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
        rest = values[protected:]
        kept = [values[:protected], merge(rest, max(1, -(-len(rest) // factor)))[0]]
        parts += kept
        lengths.append(sum(map(len, kept)))
    values = np.concatenate(parts) if parts else np.zeros((0, tokens.dim), np.float32)
    return Tokens(values, np.cumsum(lengths, dtype=np.int64))
