"""Search by tokens and by words in one call: the best of both rankings, scored by both, fused.

The candidates are the `depth` best documents by MaxSim and the `depth` best by BM25. Every candidate
gets both scores, whichever list it came from, so hits can be ranked again by the caller.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lateint.index.answers import Hit
from lateint.index.errors import BadTokens, IndexCorrupt
from lateint.index.filters import check_key
from lateint.index.fuse import Floats, check_fusion, ranks, rrf, weighted
from lateint.index.search.rank import top
from lateint.index.tokens import IntArray, Tokens

if TYPE_CHECKING:
    from lateint.index.catalog import Catalog
    from lateint.index.reading import Reading

DEPTH = 100  # of either ranking, at least: larger finds what both rank low, and costs little


@dataclass(frozen=True)
class HybridHit(Hit):
    """A document found by tokens, words or both; `score` is the fused one, which the order follows.

    maxsim: its MaxSim score (None in a search by words alone); bm25: 0.0 where it has no word of
    the query.
    """

    maxsim: float | None
    bm25: float


@dataclass(frozen=True)
class Filter:
    """What may be found; see `Index.search`."""

    where: str | None = None
    params: Sequence[Any] = ()
    ids: Sequence[str] | None = None
    group_by: str | None = None


@dataclass(frozen=True)
class Fusion:
    """How two rankings become one; see fuse.py."""

    method: str = "rrf"
    weight: float = 0.5
    depth: int | None = None


def search(
    index: Reading,
    queries: Any,
    texts: Sequence[str],
    k: int,
    fusion: Fusion,
    chosen: Filter,
    options: dict[str, Any],
) -> list[list[HybridHit]]:
    """See `Index.search_hybrid`."""
    check_fusion(fusion.method, fusion.weight)
    said = _check_texts(texts)
    for name, value in (("k", k), ("depth", fusion.depth)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1
        ):
            raise ValueError(f"{name}: got {value!r}; wanted a whole number from 1")
    with index._use() as catalog:
        if chosen.group_by is not None:
            check_key(chosen.group_by, catalog.keys())
        asked: Tokens | None = None
        if fusion.method != "bm25":
            asked = index._queries(queries)
            if len(asked) != len(said):
                raise BadTokens(
                    f"got {len(asked)} queries and {len(said)} texts; wanted one text a query"
                )
        allowed = None
        if chosen.where is not None or chosen.ids is not None or chosen.params:
            allowed = index._chosen(catalog, chosen.where, chosen.params, chosen.ids).numbers
        one = _One(index, catalog, allowed, fusion, chosen, options)
        return [
            one.search(None if asked is None else asked.slice(i, i + 1), text, k)
            for i, text in enumerate(said)
        ]


@dataclass(frozen=True)
class _One:
    """The search for one query."""

    index: Reading
    catalog: Catalog
    allowed: IntArray | None  # ascending; None: all
    fusion: Fusion
    chosen: Filter
    options: dict[str, Any]

    def search(self, query: Tokens | None, text: str, k: int) -> list[HybridHit]:
        found, scores = self.catalog.lexical.search(text, len(self.index))
        if self.allowed is not None:
            inside = np.isin(found, self.allowed, assume_unique=True)
            found, scores = found[inside], scores[inside]
        depth = self.fusion.depth or max(DEPTH, 4 * k)
        while True:
            hits = self._fused(query, found, scores.astype(np.float64), depth)
            best = self._grouped(hits)[:k]
            # Groups may need more documents than the lists were long; k documents never do.
            if len(best) == k or self.chosen.group_by is None or depth >= len(self.index):
                return best
            depth *= 4

    def _fused(
        self, query: Tokens | None, found: IntArray, bm25: Floats, depth: int
    ) -> list[HybridHit]:
        """Candidates of both rankings, best first."""
        worded = found[top(bm25.astype(np.float32), depth)]
        numbers, maxsim = np.sort(worded), None
        listed = np.zeros(0, np.int64)
        if query is not None:
            chosen = self.chosen
            hits = self.index.search(
                query,
                depth,
                where=chosen.where,
                params=chosen.params,
                ids=chosen.ids,
                **self.options,
            )[0]
            known = self.catalog.numbers([hit.id for hit in hits])
            if len(known) < len(hits):
                raise IndexCorrupt(f"{self.catalog.path}: does not find ids that it holds")
            listed = np.asarray([known[hit.id] for hit in hits], np.int64)
            numbers = np.union1d(worded, listed)
            rows = self.catalog.documents(numbers.tolist())
            held = {known[hit.id]: hit.score for hit in hits}
            missing = [n for n in numbers.tolist() if n not in held]
            if missing:
                values = self.index.score(query, [rows[n].id for n in missing])[0]
                held |= dict(zip(missing, values.tolist(), strict=True))
            maxsim = np.asarray([held[n] for n in numbers.tolist()], np.float64)
        else:
            rows = self.catalog.documents(numbers.tolist())
        words = np.zeros(len(numbers))
        places = np.searchsorted(found, numbers)
        here = places < len(found)
        here[here] = found[places[here]] == numbers[here]
        words[here] = bm25[places[here]]
        score = self._score(numbers, maxsim, words, worded, listed)
        first = words if maxsim is None else maxsim  # among equals
        order = np.lexsort((numbers, -first, -score))
        return [
            HybridHit(
                rows[n].id,
                float(score[i]),
                rows[n].fields(),
                None if maxsim is None else float(maxsim[i]),
                float(words[i]),
            )
            for i, n in zip(order.tolist(), numbers[order].tolist(), strict=True)
        ]

    def _score(
        self,
        numbers: IntArray,
        maxsim: Floats | None,
        bm25: Floats,
        worded: IntArray,
        listed: IntArray,
    ) -> Floats:
        if maxsim is None:
            return bm25
        if self.fusion.method == "weighted":
            return weighted(maxsim, bm25, self.fusion.weight)
        return rrf(ranks(maxsim, np.isin(numbers, listed)), ranks(bm25, np.isin(numbers, worded)))

    def _grouped(self, hits: list[HybridHit]) -> list[HybridHit]:
        """The best hit of each group; hits without the key each count alone."""
        if (key := self.chosen.group_by) is None:
            return hits
        seen: set[str] = set()
        best = []
        for hit in hits:
            value = hit.metadata.get(key)
            group = None if value is None else json.dumps(value, sort_keys=True)
            if group is None or group not in seen:
                best.append(hit)
            if group is not None:
                seen.add(group)
        return best


def _check_texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, (str, bytes)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"texts: got {texts!r:.100}; wanted a list with one string a query")
    return [text.encode(errors="replace").decode() for text in texts]  # no lone surrogates
