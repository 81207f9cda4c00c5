"""Which documents are scored, and how: from all of a selection down to what is ranked.

    float16 documents     scored exactly, all of them
    compressed documents  1. candidates by their tokens' centroids alone (candidates.py)
                          2. these scored in full: centroid and residual, in integers
                          3. the best of them rescored exactly, if originals are kept

Scores of all kinds estimate the same MaxSim, so they are ranked together. Knows numbers of places
in a selection, not documents' ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from lateint.index import kernels
from lateint.index.fde import Fde
from lateint.index.kernels import Query
from lateint.index.kinds import Segment
from lateint.index.residual import ResidualSegment
from lateint.index.search.candidates import candidates, from_fde
from lateint.index.search.exact import Scores
from lateint.index.search.rank import top
from lateint.index.snapshot import Group, Selection
from lateint.index.tokens import IntArray, Tokens

WORK = 64 << 20  # bytes for tables and scores of the queries that share a pass
SHARED = 8  # queries that a thread takes at a time
MODES = ("auto", "scan", "lists", "fde", "exact")
CANDIDATES = 400  # at least; see Settings
CANDIDATES_PER_HIT = 4
RESCORED = 32
RESCORED_PER_HIT = 2


@dataclass(frozen=True)
class Settings:
    """How thoroughly to search. Larger ncandidates, nprobe and rescore: better recall, slower.

    ncandidates: compressed documents scored in full; None: CANDIDATES, or CANDIDATES_PER_HIT k if
    that is more. nprobe: centroids visited per query token in mode "lists"; None: by measurement.
    mode: "scan" compares every document by its centroids, "lists" those in the inverted lists of
    the nearest centroids, "exact" scores every document in full on the best data there are, "auto"
    is scan for what takes some milliseconds and lists beyond; "fde" those of which the vector is
    nearest to the query's, made as `fde` says. rescore: hits rescored exactly from
    originals, where they are kept; None: RESCORED, or RESCORED_PER_HIT k if that is more; 0: none.
    threads: 0 is all cores; None: one for a single query, all cores for several.
    """

    ncandidates: int | None = None
    nprobe: int | None = None
    mode: str = "auto"
    rescore: int | None = None
    threads: int | None = None
    fde: Fde | None = None

    def check(self) -> None:
        """Raises ValueError."""
        if self.mode not in MODES:
            raise ValueError(f"mode: got {self.mode!r}; wanted one of {', '.join(MODES)}")
        if self.mode == "fde" and self.fde is None:
            raise ValueError("mode: this index keeps no FDE vectors; create it with fde=True")
        for name, low in (("ncandidates", 1), ("nprobe", 1), ("rescore", 0), ("threads", 0)):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < low
            ):
                raise ValueError(
                    f"{name}: got {value!r}; wanted a whole number from {low}, or None"
                )

    def resolved(self, k: int, queries: int) -> Settings:
        """With numbers in place of None."""
        few = 1 if queries == 1 else (os.cpu_count() or 1)
        return replace(
            self,
            ncandidates=max(k, self.ncandidates or max(CANDIDATES, CANDIDATES_PER_HIT * k)),
            rescore=max(RESCORED, RESCORED_PER_HIT * k) if self.rescore is None else self.rescore,
            threads=few if self.threads is None else self.threads,
        )


@dataclass(frozen=True)
class Found:
    """What was scored for one query: places in the selection, ascending, and their scores."""

    places: IntArray
    scores: Scores


def search(selection: Selection, queries: Tokens, settings: Settings) -> Iterator[Found]:
    """For each query what may be among its best. `settings` are resolved.

    Many queries: each thread takes some of them. Few: the threads share each query's documents."""
    threads = kernels.check.threads(settings.threads or 0)
    if threads == 1 or len(queries) < SHARED * threads:
        for first, last in _query_groups(selection, queries, WORK):
            yield from _search(selection, queries.slice(first, last), settings)
        return
    alone = replace(settings, threads=1)
    with ThreadPoolExecutor(threads) as pool:
        runs = [
            pool.submit(list, _search(selection, queries.slice(first, last), alone))
            for first, last in _query_groups(selection, queries, WORK // threads, SHARED)
        ]
        try:
            for run in runs:
                yield from run.result()
        finally:
            pool.shutdown(cancel_futures=True)


def score(selection: Selection, queries: Tokens, threads: int) -> Scores:
    """MaxSim of each query with all documents of the selection, on the best data there are,
    (Bq, count)."""
    out = np.empty((len(queries), selection.count), np.float32)
    for first, last in _query_groups(selection, queries, WORK):
        some = queries.slice(first, last)
        for part, place in zip(selection.parts, selection.firsts, strict=True):
            if part.segment.exact:
                to = slice(place, place + len(part))
                out[first:last, to] = part.segment.half(some, part.positions, threads)
        for group in selection.groups:
            asked = prepare(group, some)
            for part, place in zip(group.parts, group.firsts, strict=True):
                if not part.segment.exact:
                    for row, query in zip(out[first:last], asked, strict=True):
                        row[place : place + len(part)] = _coded(part.segment).score(
                            query, part.positions, threads
                        )
    return out


def prepare(group: Group, queries: Tokens) -> list[Query]:
    """The queries as a codec's kernels want them."""
    codec = group.codec.codec
    return [  # rotated one by one: an answer does not depend on the queries beside it
        kernels.prepare(codec.rotate(query), codec.whole, codec.steps, codec.scale)
        for query in queries
    ]


def _search(selection: Selection, queries: Tokens, settings: Settings) -> Iterator[Found]:
    threads = settings.threads or 0
    pieces: list[list[Found]] = [[] for _ in range(len(queries))]
    exact = settings.mode == "exact"
    for part, place in zip(selection.parts, selection.firsts, strict=True):
        if part.segment.kind == "fp16" or (exact and part.segment.exact):
            places = np.arange(place, place + len(part))
            scores = part.segment.half(queries, part.positions, threads)
            for own, row in zip(pieces, scores, strict=True):
                own.append(Found(places, row))
    for group in selection.groups:
        asked = prepare(group, queries)
        chosen: Sequence[IntArray | None] = [None] * len(asked)
        if settings.mode == "fde":
            chosen = from_fde(group, queries, settings)
        elif not exact:
            chosen = candidates(group, asked, settings)
        for own, query, picked in zip(pieces, asked, chosen, strict=True):
            own += _scored(group, query, picked, threads, skip=exact)
    for i, own in enumerate(pieces):
        found = _merged(own)
        if settings.rescore and not exact and selection.rescorable:
            _rescore(selection, queries.slice(i, i + 1), found, settings.rescore, threads)
        yield found


def _scored(
    group: Group, query: Query, chosen: IntArray | None, threads: int, skip: bool
) -> Iterator[Found]:
    """The chosen documents of a group (places in the group, ascending; None: all), scored in full.

    skip: leave out parts with originals, which were scored from these."""
    ends = None if chosen is None else np.searchsorted(chosen, group.ends)
    start = 0
    for i, (part, place) in enumerate(zip(group.parts, group.firsts, strict=True)):
        positions: IntArray | None = part.positions
        inside: IntArray = np.arange(len(part) if ends is None else 0)
        if chosen is not None and ends is not None:
            stop = int(ends[i])
            inside = chosen[start:stop] - (int(group.ends[i]) - len(part))
            positions = inside if positions is None else positions[inside]
            start = stop
        if len(inside) and not (skip and part.segment.exact):
            scores = _coded(part.segment).score(query, positions, threads)
            yield Found(inside + place, scores)


def _rescore(selection: Selection, query: Tokens, found: Found, count: int, threads: int) -> None:
    """Puts exact scores in the place of the best `count`, where originals are kept."""
    best = np.sort(top(found.scores, count))
    places = found.places[best]
    ends = np.searchsorted(places, [*selection.firsts[1:], selection.count])
    start = 0
    for part, place, stop in zip(selection.parts, selection.firsts, ends.tolist(), strict=True):
        inside = places[start:stop] - place
        if len(inside) and part.segment.exact and part.segment.kind != "fp16":
            positions = inside if part.positions is None else part.positions[inside]
            found.scores[best[start:stop]] = part.segment.half(query, positions, threads)[0]
        start = stop


def _merged(pieces: list[Found]) -> Found:
    if not pieces:
        return Found(np.zeros(0, np.int64), np.zeros(0, np.float32))
    places = np.concatenate([piece.places for piece in pieces])
    scores = np.concatenate([piece.scores for piece in pieces])
    if len(pieces) > 1 and (places[1:] < places[:-1]).any():
        order = np.argsort(places)
        places, scores = places[order], scores[order]
    return Found(places, scores)


def _coded(segment: Segment) -> ResidualSegment:
    assert isinstance(segment, ResidualSegment)
    return segment


def _query_groups(
    selection: Selection, queries: Tokens, work: int, most: int | None = None
) -> Iterator[tuple[int, int]]:
    """Runs of at most `most` queries of which tables and scores fit in `work` bytes; at least one
    query each."""
    centroids = sum(group.codec.centroids for group in selection.groups)
    each = 4 * selection.count + centroids * 5 * (queries.lengths + 32)
    ends = np.cumsum(each)
    first = 0
    while first < len(queries):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + work, side="right")))
        last = last if most is None else min(last, first + most)
        yield first, last
        first = last
