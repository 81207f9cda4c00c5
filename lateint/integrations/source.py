"""What every integration asks: a text, and which documents answer it, with their own text and why.

Over a `Collection`, or an `Index` with the model that encodes for it. Knows none of the libraries
that it serves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lateint.collection import Collection
from lateint.collection_files import exists
from lateint.explain import Traces, matches
from lateint.index import Index

if TYPE_CHECKING:
    from lateint.encoding import CollectionModel
    from lateint.model import LateInteractionModel

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Found:
    """A document found: the text that it carries ("" where it has none: a scan, a picture), its
    MaxSim score, and its metadata as a dictionary of JSON values with `score` in it and, where they
    are known, `page`, `source` (its file) and `words` (see `lateint.explain.Match`)."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any]


class Source:
    """A collection or an index to ask; several threads may, one is served at a time.

    Args:
        place: a `Collection`, an `Index`, or the folder of either, which is then opened.
        model: what encodes queries for an index: a model, the folder of one, None for the model that
            ships. For a collection only where it was created with a model object.
        words: whether to say which words of the query matched; some milliseconds a document.

    Raises what opening raises; TypeError for another kind of `place`.
    """

    def __init__(
        self,
        place: Collection | Index | AnyPath,
        model: LateInteractionModel | AnyPath | None = None,
        *,
        words: bool = True,
    ) -> None:
        if isinstance(place, (str, os.PathLike)):
            folder = Path(place).expanduser()
            place = Collection.open(folder, model) if exists(folder) else Index.open(folder)
        if not isinstance(place, (Collection, Index)):
            raise TypeError(
                f"got a {type(place).__name__}; wanted a Collection, an Index or the folder of one"
            )
        self.place = place
        self.words = words
        self._given = model
        self._model: CollectionModel | None = None
        self._lock = threading.Lock()

    def search(self, query: str, k: int, **options: Any) -> list[Found]:
        """The k best documents for a text, best first.

        options: `where`, `params`, `group_by`, `hybrid`, as for `Collection.search`.
        """
        with self._lock:
            if isinstance(self.place, Collection):
                return _in_collection(self.place, query, k, self.words, options)
            return self._in_index(self.place, query, k, **options)

    def _in_index(
        self,
        index: Index,
        query: str,
        k: int,
        *,
        where: str | None = None,
        params: Sequence[Any] = (),
        group_by: str | None = None,
        hybrid: bool = False,
    ) -> list[Found]:
        if not query.strip():
            raise ValueError(f"query: got {query!r}; wanted some words")
        model = self.model
        asked = model.encode_queries([query])
        chosen: dict[str, Any] = {"where": where, "params": params, "group_by": group_by}
        hits: Sequence[Any]
        if hybrid:
            hits = index.search_hybrid(asked, [query], k, **chosen)[0]
        else:
            hits = index.search(asked, k, **chosen)[0] if model.reads(query) else []
        texts = index.texts([hit.id for hit in hits])
        labels = model.query_labels(query) if self.words else []
        found = []
        for hit, text in zip(hits, texts, strict=True):
            extra: dict[str, Any] = {"score": hit.score}
            if self.words:
                scores = index.token_scores(asked, hit.id)
                extra["words"] = [m.to_json() for m in matches(scores, labels, Traces())]
            found.append(Found(hit.id, hit.score, text or "", {**hit.metadata, **extra}))
        return found

    @property
    def model(self) -> CollectionModel:
        """What encodes for an index; loaded at the first use."""
        from lateint.encoding import CollectionModel

        if self._model is None:
            self._model = CollectionModel.of(self._given)
        return self._model


def _in_collection(
    collection: Collection, query: str, k: int, words: bool, options: dict[str, Any]
) -> list[Found]:
    hits = collection.search(query, k, words=words, **options)
    texts = collection.texts([hit.id for hit in hits])
    found = []
    for hit, text in zip(hits, texts, strict=True):
        extra: dict[str, Any] = {"score": hit.score, "source": str(hit.source)}
        if hit.page is not None:
            extra["page"] = hit.page
        if words:
            extra["words"] = [match.to_json() for match in hit.words]
        found.append(Found(hit.id, hit.score, text or "", {**hit.metadata, **extra}))
    return found
