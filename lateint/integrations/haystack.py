"""A Haystack document store over an `Index` with its model, and the retriever that asks it.

    store = LateintDocumentStore("birds.index")
    store.write_documents([Document(content="a red kite", meta={"year": 2024})])
    pipeline.add_component("retriever", LateintRetriever(store, top_k=5))
    pipeline.run({"retriever": {"query": "red bird", "filters": {...}}})

There is no embedder in between: the store encodes texts with its model, and the retriever takes the
query as text. Haystack reads a pipeline's file with foreign classes only when told that they are
trusted: `Pipeline.loads(text, allowed_modules=["lateint.integrations.haystack"])`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lateint.index import Index, IndexMissing
from lateint.integrations.haystack_filters import BadCondition, to_where
from lateint.integrations.source import AnyPath, Source

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
    from haystack.document_stores.types.filter_policy import apply_filter_policy
    from haystack.errors import FilterError
except ImportError as error:
    raise ImportError(
        f"Haystack's document store needs haystack-ai ({error}): pip install 'lateint[haystack]'"
    ) from error

if TYPE_CHECKING:
    from lateint.model import LateInteractionModel

ENCODED = 512  # documents encoded and committed together


class LateintDocumentStore:
    """Texts of Haystack documents in an index: id, content and meta; found by MaxSim of their tokens.

    A document's `embedding` is not kept (its tokens are), nor a `blob`.

    Args:
        path: the index's folder; made when it is missing.
        model: what encodes documents and queries: the folder of a model, a model, or None for the
            model that ships. A store with a model object cannot be written to a pipeline's file.
        index_options: for `Index.create`, where the index is made (nbits ...).

    Raises what `Index.create` and `Index.open` raise.
    """

    def __init__(
        self,
        path: AnyPath,
        model: LateInteractionModel | AnyPath | None = None,
        index_options: dict[str, Any] | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self.index_options = dict(index_options or {})
        self._given = model
        try:
            index = Index.open(self.path)
        except IndexMissing:
            from lateint.encoding import CollectionModel

            known = CollectionModel.of(model)
            options = {"model": known.fingerprint, **self.index_options}
            Index.create(self.path, known.dim, **options).close()
            index = Index.open(self.path)
        self.index = index
        self.source = Source(index, model, words=False)

    def to_dict(self) -> dict[str, Any]:
        """For a pipeline's file. Raises ValueError where the model is an object."""
        model = self._given
        if model is not None and not isinstance(model, (str, Path)):
            raise ValueError(
                f"{self.path}: the store has a model object; make it with the folder of a saved model"
            )
        return default_to_dict(
            self,
            path=str(self.path),
            model=None if model is None else str(model),
            index_options=self.index_options,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LateintDocumentStore:
        """What `to_dict` wrote."""
        store: LateintDocumentStore = default_from_dict(cls, data)
        return store

    def count_documents(self) -> int:
        """Documents in the store."""
        return len(self.index)

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """The documents that a filter holds for, in the order in which they were added; None: all.
        Raises FilterError."""
        where, params = self.where(filters)
        ids = self.index.ids(where, params)
        columns = zip(ids, self.index.texts(ids), self.index.metadata(ids), strict=True)
        return [Document(id=id, content=text, meta=meta) for id, text, meta in columns]

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Encodes and adds documents; returns how many were written.

        policy: what happens to an id that is there already, or twice in `documents`: FAIL and NONE
        raise DuplicateDocumentError and write nothing, OVERWRITE replaces, SKIP leaves it as it is.
        Raises ValueError for what is no Document, or one without text.
        """
        chosen = self._to_write(documents, policy)
        if not chosen:
            return 0
        with Index.open(self.path, write=True) as writer:
            for first in range(0, len(chosen), ENCODED):
                part = chosen[first : first + ENCODED]
                texts = [str(document.content) for document in part]
                model = self.source.model
                tokens = model.model.encode_documents(
                    texts, modality=model.modality("text"), head=model.head
                )
                writer.upsert(
                    [document.id for document in part],
                    tokens,
                    metadata=[document.meta for document in part],
                    texts=texts,
                )
        self.index.refresh()
        return len(chosen)

    def _to_write(self, documents: list[Document], policy: DuplicatePolicy) -> list[Document]:
        if not isinstance(documents, list):
            raise ValueError(f"documents: got a {type(documents).__name__}; wanted a list")
        chosen: dict[str, Document] = {}
        for place, document in enumerate(documents):
            if not isinstance(document, Document):
                raise ValueError(f"document {place}: got a {type(document).__name__}")
            if document.content is None:
                raise ValueError(f"document {document.id!r} has no text: wanted content")
            known = document.id in chosen or document.id in self.index
            if known and policy in (DuplicatePolicy.NONE, DuplicatePolicy.FAIL):
                raise DuplicateDocumentError(
                    f"ID '{document.id}' already exists: write with OVERWRITE or SKIP"
                )
            if not known or policy == DuplicatePolicy.OVERWRITE:
                chosen[document.id] = document
        return list(chosen.values())

    def delete_documents(self, document_ids: list[str]) -> None:
        """Removes documents; ids that are not there are fine."""
        with Index.open(self.path, write=True) as writer:
            writer.delete(document_ids)
        self.index.refresh()

    def search(
        self, query: str, *, filters: dict[str, Any] | None = None, top_k: int = 10
    ) -> list[Document]:
        """The best documents for a text, with their MaxSim scores, best first. Raises FilterError,
        ValueError (an empty query)."""
        where, params = self.where(filters)
        found = self.source.search(query, top_k, where=where, params=params)
        return [
            Document(
                id=each.id,
                content=each.text,
                meta={name: value for name, value in each.metadata.items() if name != "score"},
                score=each.score,
            )
            for each in found
        ]

    def where(self, filters: dict[str, Any] | None) -> tuple[str | None, list[Any]]:
        """A filter as SQL with parameters, for `Index.search`. Raises FilterError."""
        if not filters:
            return None, []
        try:
            return to_where(filters, self.index.info().keys)
        except BadCondition as error:
            raise FilterError(str(error)) from None


@component
class LateintRetriever:
    """Asks a `LateintDocumentStore` with a text.

    filters, top_k: what `run` takes where it is not told otherwise; filter_policy: whether the filters
    of a run replace these (REPLACE) or come on top of them (MERGE).
    """

    def __init__(
        self,
        document_store: LateintDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        filter_policy: FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        if not isinstance(document_store, LateintDocumentStore):
            raise ValueError(
                f"document_store: got a {type(document_store).__name__}; "
                "wanted a LateintDocumentStore"
            )
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.filter_policy = filter_policy

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """{"documents": the best for the query, best first}."""
        chosen = apply_filter_policy(self.filter_policy, self.filters, filters)
        found = self.document_store.search(
            query, filters=chosen, top_k=self.top_k if top_k is None else top_k
        )
        return {"documents": found}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The same beside an event loop."""
        return await asyncio.to_thread(self.run, query, filters, top_k)

    def to_dict(self) -> dict[str, Any]:
        """For a pipeline's file."""
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            filter_policy=self.filter_policy.value,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LateintRetriever:
        """What `to_dict` wrote."""
        options = dict(data["init_parameters"])
        options["document_store"] = LateintDocumentStore.from_dict(options["document_store"])
        if "filter_policy" in options:
            options["filter_policy"] = FilterPolicy(options["filter_policy"])
        retriever: LateintRetriever = default_from_dict(cls, {**data, "init_parameters": options})
        return retriever
