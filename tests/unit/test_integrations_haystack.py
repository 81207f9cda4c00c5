"""The Haystack document store and retriever, run by Haystack, with Haystack's own test kit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from integration_helpers import META, TEXTS
from toy_model import HashedText, toy_model

from lateint.model import LateInteractionModel
from modalities import ENCODERS

pytest.importorskip("haystack", reason="pip install 'lateint[haystack]'")

from haystack import Document, Pipeline
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy, FilterPolicy
from haystack.errors import FilterError
from haystack.testing.document_store import DocumentStoreBaseTests

from lateint.integrations.haystack import LateintDocumentStore, LateintRetriever


class TestHaystacksOwn(DocumentStoreBaseTests):
    """What Haystack asks of every store. Embeddings are not kept: tokens are."""

    @pytest.fixture
    def document_store(self, tmp_path: Path) -> LateintDocumentStore:
        return LateintDocumentStore(tmp_path / "i", toy_model())

    def assert_documents_are_equal(self, received: Any, expected: Any) -> None:
        def known(documents: Any) -> Any:
            return {d.id: (d.content, d.meta) for d in documents}

        assert known(received) == known(expected)

    def test_write_documents(self, document_store: Any) -> None:
        documents = [Document(content="a b")]
        assert document_store.write_documents(documents) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents(documents, DuplicatePolicy.FAIL)
        self.assert_documents_are_equal(document_store.filter_documents(), documents)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model, whose encoder is in the table for this test."""
    monkeypatch.setitem(ENCODERS, HashedText.name, ("toy_model", "HashedText"))
    LateInteractionModel({"text": HashedText()}).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def store(tmp_path: Path, saved: Path) -> LateintDocumentStore:
    store = LateintDocumentStore(tmp_path / "birds.index", saved)
    documents = [Document(id=i, content=TEXTS[i], meta=META[i]) for i in TEXTS]
    assert store.write_documents(documents) == 3
    return store


def ids(documents: list[Document]) -> list[str]:
    return [document.id for document in documents]


def test_a_pipeline_survives_its_file(store: LateintDocumentStore) -> None:
    pipeline = Pipeline()
    pipeline.add_component("retriever", LateintRetriever(store, top_k=2))
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=[LateintRetriever.__module__])
    for each in (pipeline, again):
        found = each.run({"retriever": {"query": "the weir"}})["retriever"]["documents"]
        assert set(ids(found)) == {"kite", "heron"}
        assert found[0].score >= found[1].score > 0 and found[0].meta == META[found[0].id]
        assert found[0].content == TEXTS[found[0].id]


def test_filters_of_store_and_run(store: LateintDocumentStore) -> None:
    late = {"field": "meta.year", "operator": ">", "value": 2023}
    sea = {"field": "meta.sea", "operator": "==", "value": True}
    retriever = LateintRetriever(store, filters=late)
    assert set(ids(retriever.run("the weir")["documents"])) == {"gull", "heron"}
    assert ids(retriever.run("the weir", filters=sea)["documents"]) == ["gull"]
    merged = LateintRetriever(store, filters=late, filter_policy=FilterPolicy.MERGE)
    assert ids(merged.run("the weir", filters=sea)["documents"]) == ["gull"]
    assert ids(asyncio.run(retriever.run_async("heron", top_k=1))["documents"]) == ["heron"]
    assert ids(store.filter_documents(late)) == ["gull", "heron"]
    with pytest.raises(FilterError):
        retriever.run("x", filters={"field": "content", "operator": "==", "value": "x"})


def test_policies_and_deletion(store: LateintDocumentStore) -> None:
    new = [Document(id="kite", content="a kite of paper"), Document(id="owl", content="an owl")]
    with pytest.raises(DuplicateDocumentError):
        store.write_documents(new)
    assert store.count_documents() == 3
    assert store.write_documents(new, DuplicatePolicy.SKIP) == 1
    assert store.filter_documents({"field": "meta.year", "operator": "==", "value": 2023})
    assert store.write_documents(new, DuplicatePolicy.OVERWRITE) == 2
    assert store.search("paper", top_k=1)[0].id == "kite" and store.count_documents() == 4
    store.delete_documents(["kite", "nobody"])
    assert set(ids(store.filter_documents())) == {"gull", "heron", "owl"}
    with pytest.raises(ValueError, match="no text"):
        store.write_documents([Document(id="x")])
    with pytest.raises(ValueError, match="wanted a LateintDocumentStore"):
        LateintRetriever(object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model object"):
        LateintDocumentStore(store.path.parent / "other", toy_model()).to_dict()
