"""A LlamaIndex retriever over a `Collection`, or an `Index` with its model.

retriever = LateintRetriever("papers.lateint", k=5)
retriever.retrieve("loss goes up after warm-up")
engine = RetrieverQueryEngine.from_args(retriever, llm=llm)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lateint.integrations.source import AnyPath, Source

try:
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
except ImportError as error:
    raise ImportError(
        f"LlamaIndex's retriever needs llama-index-core ({error}): "
        "pip install 'lateint[llamaindex]'"
    ) from error

if TYPE_CHECKING:
    from lateint.collection import Collection
    from lateint.index import Index
    from lateint.model import LateInteractionModel

UNREAD = ["score", "words", "version", "modified", "size", "width", "height"]
"""Metadata that a language model or an embedding has no use for."""


class LateintRetriever(BaseRetriever):
    """Pages, pictures and texts as nodes with their MaxSim scores, best first.

    A node's text is the text that the document carries ("" for scans and pictures, whose
    `metadata["source"]` names the file); its metadata is what the document was added with, and
    `score`, `page`, `source`, `words`.

    Args:
        place, model, words: as for `lateint.integrations.source.Source`.
        k: how many nodes. Larger: more of what fits, more to read.
        where, params, group_by, hybrid: as for `Collection.search`.
        others: what LlamaIndex's BaseRetriever takes (callback_manager ...).
    """

    def __init__(
        self,
        place: Collection | Index | AnyPath,
        model: LateInteractionModel | AnyPath | None = None,
        *,
        k: int = 10,
        where: str | None = None,
        params: Sequence[Any] = (),
        group_by: str | None = None,
        hybrid: bool = False,
        words: bool = True,
        **others: Any,
    ) -> None:
        self.k = k
        self.options = {"where": where, "params": params, "group_by": group_by, "hybrid": hybrid}
        self._source = Source(place, model, words=words)
        super().__init__(**others)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            NodeWithScore(
                node=TextNode(
                    id_=found.id,
                    text=found.text,
                    metadata=found.metadata,
                    excluded_llm_metadata_keys=UNREAD,
                    excluded_embed_metadata_keys=UNREAD,
                ),
                score=found.score,
            )
            for found in self._source.search(query_bundle.query_str, self.k, **self.options)
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
