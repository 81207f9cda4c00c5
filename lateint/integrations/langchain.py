"""A LangChain retriever over a `Collection`, or an `Index` with its model.

retriever = LateintRetriever(place="papers.lateint", k=5)
retriever.invoke("loss goes up after warm-up", where="page < 10")
chain = {"context": retriever, "question": RunnablePassthrough()} | prompt | llm
"""

from __future__ import annotations

from typing import Any

from lateint.integrations.source import Source

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import run_in_executor
    from pydantic import PrivateAttr
except ImportError as error:
    raise ImportError(
        f"LangChain's retriever needs langchain-core ({error}): pip install 'lateint[langchain]'"
    ) from error


class LateintRetriever(BaseRetriever):
    """Pages, pictures and texts as LangChain documents, best first.

    A document's `page_content` is the text that it carries: a page's text layer, a part of a text;
    "" for scans and pictures, whose `metadata["source"]` names the file. `metadata` has what the
    document was added with, and `score` (MaxSim, higher is better), `page`, `source`, `words`.

    place, model: as for `lateint.integrations.source.Source`.
    k: how many documents. Larger: more of what fits, more to read.
    where, params, group_by, hybrid: as for `Collection.search`. These and k can also be given with
        each call: `retriever.invoke("budget", k=3, where="year >= ?", params=[2024])`.
    words: whether `metadata` says which words matched.
    """

    place: Any
    model: Any = None
    k: int = 10
    where: str | None = None
    params: list[Any] = []  # noqa: RUF012  pydantic copies it
    group_by: str | None = None
    hybrid: bool = False
    words: bool = True
    _source: Source = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._source = Source(self.place, self.model, words=self.words)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **asked: Any
    ) -> list[Document]:
        return self._documents(query, asked)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **asked: Any
    ) -> list[Document]:
        return await run_in_executor(None, self._documents, query, asked)

    def _documents(self, query: str, asked: dict[str, Any]) -> list[Document]:
        known = ("k", "where", "params", "group_by", "hybrid")
        if unknown := sorted(asked.keys() - set(known)):
            raise TypeError(f"retriever: got {unknown}; wanted some of {list(known)}")
        options = {name: asked.get(name, getattr(self, name)) for name in known}
        if "where" in asked and "params" not in asked:
            options["params"] = []  # those of the retriever belong to its own where
        return [
            Document(id=found.id, page_content=found.text, metadata=found.metadata)
            for found in self._source.search(query, options.pop("k"), **options)
        ]
