"""The LangChain retriever, run by LangChain."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from integration_helpers import TEXTS, birds

from lateint.collection import Collection

pytest.importorskip("langchain_core", reason="pip install 'lateint[langchain]'")

ASKED = "set the rain gauge counter back to zero"


def test_pages_of_a_collection_with_page_score_and_words(indexed: Collection) -> None:
    from lateint.integrations.langchain import LateintRetriever

    retriever = LateintRetriever(place=indexed, k=3)
    documents = retriever.invoke(ASKED)
    hits = indexed.search(ASKED, k=3)
    assert [d.id for d in documents] == [hit.id for hit in hits]
    best = documents[0]
    assert best.id == "kestrel-manual.pdf#page=3"
    assert best.metadata["page"] == 3 and best.metadata["path"] == "kestrel-manual.pdf"
    assert best.metadata["score"] == pytest.approx(hits[0].score)
    assert Path(best.metadata["source"]).name == "kestrel-manual.pdf"
    assert "counter" in {word["word"] for word in best.metadata["words"]}
    assert "gauge" in best.page_content
    (second,) = retriever.invoke(ASKED, k=1, where="page = ? and kind = 'pdf'", params=[2])
    assert second.metadata["page"] == 2
    assert len(retriever.batch([ASKED, "otter"])) == 2


def test_an_index_with_its_model_in_a_chain(tmp_path: Path) -> None:
    from langchain_core.runnables import RunnableLambda

    from lateint.integrations.langchain import LateintRetriever

    index, model = birds(tmp_path / "i")
    retriever = LateintRetriever(place=index, model=model, k=2, where="year >= ?", params=[2024])
    chain = retriever | RunnableLambda(lambda found: [d.page_content for d in found])
    assert chain.invoke("weir") == [TEXTS["heron"], TEXTS["gull"]]
    (kite,) = retriever.invoke("the red kite", k=1, where="year < 2024")
    assert (kite.id, kite.metadata["year"]) == ("kite", 2023)
    assert {word["word"] for word in kite.metadata["words"]} == {"the", "red", "kite"}
    with pytest.raises(TypeError, match="wanted some of"):
        retriever.invoke("weir", top=3)
    with pytest.raises(ValueError, match="wanted some words"):
        retriever.invoke(" ")


def test_async_beside_others(tmp_path: Path, indexed: Collection) -> None:
    from lateint.integrations.langchain import LateintRetriever

    index, model = birds(tmp_path / "i")
    over_index = LateintRetriever(place=index, model=model, k=1)
    over_pages = LateintRetriever(place=indexed, k=1)

    async def ask() -> list[Any]:
        birds = [over_index.ainvoke(query) for query in ("red", "blue", "heron")]
        return await asyncio.gather(*birds, over_pages.ainvoke(ASKED), over_pages.ainvoke(ASKED))

    found = [documents[0].id for documents in asyncio.run(ask())]
    assert found == ["kite", "gull", "heron", *["kestrel-manual.pdf#page=3"] * 2]


def test_a_folder_is_opened(indexed_copy: Path, tmp_path: Path) -> None:
    from lateint.integrations.langchain import LateintRetriever

    retriever = LateintRetriever(place=str(indexed_copy), k=1, words=False)
    (page,) = retriever.invoke(ASKED)
    assert page.id == "kestrel-manual.pdf#page=3" and "words" not in page.metadata
    with pytest.raises(TypeError, match="wanted a Collection, an Index"):
        LateintRetriever(place=3)
