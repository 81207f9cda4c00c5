"""The LlamaIndex retriever, run by LlamaIndex."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from integration_helpers import TEXTS, birds

from lateint.collection import Collection

pytest.importorskip("llama_index.core", reason="pip install 'lateint[llamaindex]'")

ASKED = "set the rain gauge counter back to zero"


def test_pages_of_a_collection_as_nodes(indexed: Collection) -> None:
    from llama_index.core.schema import MetadataMode

    from lateint.integrations.llamaindex import LateintRetriever

    retriever = LateintRetriever(indexed, k=2, where="kind = ?", params=["pdf"])
    nodes = retriever.retrieve(ASKED)
    hits = indexed.search(ASKED, k=2, where="kind = 'pdf'")
    assert [n.node.node_id for n in nodes] == [hit.id for hit in hits]
    assert [n.score for n in nodes] == pytest.approx([hit.score for hit in hits])
    best = nodes[0].node
    assert best.metadata["page"] == 3 and best.metadata["source"].endswith("kestrel-manual.pdf")
    assert "counter" in {word["word"] for word in best.metadata["words"]}
    told = best.get_content(MetadataMode.LLM)
    assert "gauge" in told and "page: 3" in told and "words" not in told


def test_an_index_with_its_model_sync_and_async(tmp_path: Path) -> None:
    from lateint.integrations.llamaindex import LateintRetriever

    index, model = birds(tmp_path / "i")
    retriever = LateintRetriever(index, model, k=1)
    (kite,) = retriever.retrieve("red kite")
    assert kite.node.get_content() == TEXTS["kite"] and kite.node.metadata["year"] == 2023
    (heron,) = asyncio.run(retriever.aretrieve("heron"))
    assert heron.node.node_id == "heron"
