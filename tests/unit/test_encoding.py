from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_model import HashedText, toy_model

from lateint.encoding import CollectionModel, fingerprint
from lateint.model import LateInteractionModel
from lateint.sources import SourceDocument
from modalities.pdf import Word


@pytest.fixture(scope="module")
def toy() -> CollectionModel:
    return CollectionModel.of(toy_model())


def test_where_a_model_comes_from(tmp_path: Path, shipped: LateInteractionModel) -> None:
    assert CollectionModel.of(toy_model()).origin == ""
    shipped.save(tmp_path / "model")
    saved, own = CollectionModel.of(tmp_path / "model"), CollectionModel.of(None)
    assert saved.origin == str(tmp_path / "model") and own.origin is None
    assert saved.fingerprint == own.fingerprint == fingerprint(shipped)
    assert own.dim == 128 and own.head == "multi"


def test_a_fingerprint_sees_weights_dtype_and_head() -> None:
    prints = {
        fingerprint(toy_model()),
        fingerprint(toy_model(scale=1.0001)),
        fingerprint(toy_model().to(torch.float64)),
        fingerprint(LateInteractionModel({"text": HashedText()})),
        fingerprint(LateInteractionModel({"text": HashedText()}, ("multi",))),
    }
    assert len(prints) == 5 and all(len(p) == 16 for p in prints)
    assert fingerprint(toy_model()) == fingerprint(toy_model())


def test_documents_become_tokens_with_what_they_stand_for(toy: CollectionModel) -> None:
    texts = [SourceDocument("", 1, "text", t, t) for t in ("red kite", "gull")]
    (kite, traces), (gull, _) = toy.encode_documents(texts)
    assert kite.shape == (3, toy.dim) and gull.shape == (2, toy.dim)
    assert kite.dtype == np.float32
    assert traces.labels == ("[document]", "red", "kite") and traces.boxes is None
    page = Image.new("RGB", (60, 90), "red")
    layer = (Word("alarm", (0.0, 0.0, 0.2, 0.1)),)
    ((cells, seen),) = toy.encode_documents(
        [SourceDocument("#page=1", 1, "pdf", page, "alarm", layer)]
    )
    assert len(cells) == 24 and seen.boxes is not None and seen.boxes.shape == (24, 4)
    assert seen.labels is not None and seen.labels[0] == "alarm" and set(seen.labels[1:]) == {""}
    ((_, bare),) = toy.encode_documents([SourceDocument("#page=1", 1, "pdf", page)])
    assert bare.labels is None and bare.boxes is not None
    assert toy.encode_documents([]) == []


def test_pages_go_to_the_page_encoder_and_nothing_to_one_that_is_not_there() -> None:
    assert CollectionModel.of(toy_model()).modality("image") == "page"
    texts = CollectionModel.of(LateInteractionModel({"text": HashedText()}))
    with pytest.raises(ValueError, match="no encoder for page or image: it cannot read a pdf"):
        texts.modality("pdf")


def test_a_picture_as_a_query_may_be_a_path_or_an_image(
    toy: CollectionModel, tmp_path: Path
) -> None:
    image = Image.new("RGB", (30, 20), "green")
    image.save(tmp_path / "g.png")
    one, other = toy.encode_picture(image), toy.encode_picture(tmp_path / "g.png")
    assert torch.equal(one.values, other.values)
    with pytest.raises(ValueError, match=r"gone\.png: no such file"):
        toy.encode_picture(tmp_path / "gone.png")


def test_what_the_model_reads_of_a_query(
    shipped: LateInteractionModel, toy: CollectionModel
) -> None:
    own = CollectionModel.of(shipped)
    for text, read in {
        "rain": True,
        "天气 K9": True,
        "天气": False,
        "...": False,
        "_-_": False,
    }.items():
        assert own.reads(text) is read, text
    assert toy.reads("天气") and not toy.reads("...")
