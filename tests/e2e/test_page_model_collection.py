"""A page model of another library under a collection: from a PDF to ranked pages with boxes."""

from __future__ import annotations

from pathlib import Path

import lateint
from tests.tiny_vlm import transformers_model

MANUAL = Path(__file__).parents[1] / "fixtures" / "kestrel-manual.pdf"


def test_a_collection_reads_pages_with_a_vision_language_model(tmp_path: Path) -> None:
    model, processor = transformers_model("colqwen2")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    papers = lateint.Collection.create(tmp_path / "papers", model=tmp_path / "model")
    papers.add(MANUAL)
    pages = len(papers)
    assert pages >= 3
    hits = papers.search("set the rain gauge counter back", k=pages)
    assert sorted(hit.page or 0 for hit in hits) == list(range(1, pages + 1))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    boxes = [match.box for hit in hits for match in hit.words if match.box is not None]
    # weights are random, so which cell a token meets means nothing; that cells are cells does
    assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in boxes)
    again = lateint.Collection.open(tmp_path / "papers").search("rain", k=1)
    assert again[0].page == papers.search("rain", k=1)[0].page
