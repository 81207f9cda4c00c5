"""Candidates: which compressed documents deserve a full score, judged by their centroids alone.

Centroid interaction (PLAID, Santhanam et al. 2022): a document's score with each of its tokens
replaced by the token's centroid. Query times centroids is a small table, of which a byte is enough
here; a document token then costs one load and one max for all query tokens together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lateint.index import kernels
from lateint.index.fde import scan
from lateint.index.kernels import Query
from lateint.index.residual import ResidualSegment
from lateint.index.search.rank import best_places, top
from lateint.index.tokens import IntArray, Tokens

if TYPE_CHECKING:
    from lateint.index.search.engine import Settings
    from lateint.index.snapshot import Group

SCAN_TOKENS = 2_000_000  # up to so many, looking at all codes is as fast as the inverted lists
# Centroids per query token. With 32 recall@100 rises by 0.0003, with 8 it falls by 0.005 (200,000 documents).
PROBES = 16


def candidates(group: Group, queries: list[Query], settings: Settings) -> list[IntArray]:
    """For each query the best documents of the group by their centroids: places in the group,
    ascending, at most settings.ncandidates."""
    most = settings.ncandidates or 1
    threads = settings.threads or 0
    if group.count <= most:
        return [np.arange(group.count)] * len(queries)
    tables = [kernels.table(query, threads=threads) for query in queries]
    if settings.mode == "lists" or (settings.mode == "auto" and group.tokens > SCAN_TOKENS):
        probes = settings.nprobe or PROBES
        return [
            _from_lists(group, query, table, probes, most, threads)
            for query, table in zip(queries, tables, strict=True)
        ]
    return _from_all(group, tables, most, threads)


def from_fde(group: Group, queries: Tokens, settings: Settings) -> list[IntArray]:
    """The same by FDE vectors: the documents of which the dot product with the query's is highest."""
    most, fde = settings.ncandidates or 1, settings.fde
    assert fde is not None
    if group.count <= most:
        return [np.arange(group.count)] * len(queries)
    asked = fde.encode_queries(queries)
    scores = []
    for part in group.parts:
        file = part.segment.file
        file.expect("fde", np.int8, len(part.segment.documents), fde.size)
        found = scan(asked, file.read("fde"), file.read("fde_steps"))
        scores.append(found if part.positions is None else found[:, part.positions])
    return [np.sort(top(row, most)) for row in np.concatenate(scores, axis=1)]


def _from_all(group: Group, tables: list[kernels.Table], most: int, threads: int) -> list[IntArray]:
    sums = [_coded(part.segment).scan(tables, part.positions, threads) for part in group.parts]
    joined = sums[0] if len(sums) == 1 else np.concatenate(sums, axis=1)
    return [best_places(row, most) for row in joined]


def _from_lists(
    group: Group, query: Query, table: kernels.Table, probes: int, most: int, threads: int
) -> IntArray:
    cells = kernels.highest(query, probes)
    places, sums = [], []
    start = 0
    for part in group.parts:
        segment = _coded(part.segment)
        positions = segment.probe(cells)
        inside = positions
        if part.positions is not None and part.mask is not None:
            positions = positions[part.mask[positions]]
            inside = np.searchsorted(part.positions, positions)
        places.append(inside + start)
        sums.append(segment.scan([table], positions, threads)[0])
        start += len(part)
    found = np.concatenate(places)
    if len(found) < most:  # a filter has left little of what the lists hold: look at everything
        return _from_all(group, [table], most, threads)[0]
    return found[best_places(np.concatenate(sums), most)]


def _coded(segment: object) -> ResidualSegment:
    assert isinstance(segment, ResidualSegment)
    return segment
