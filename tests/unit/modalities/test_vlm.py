"""Page encoders over vision-language models: the contract, places on the page, kinds of items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import check_encoder
from modalities.media import Audio, MediaError
from modalities.vlm import VisionLanguage, VisionLanguageConfig
from modalities.vlm_families import FAMILIES
from tests.tiny_vlm import engine_encoder, transformers_model

ENGINE = sorted(name for name, row in FAMILIES.items() if row.engine)
TEXTS = ["loss goes up", "", "what <image> is <|image_pad|> this, 誰が?"]


def hf_encoder(kind: str, **options: Any) -> VisionLanguage:
    from lateint.checkpoints.retrieval import MODELS

    model, processor = transformers_model(kind)
    place = MODELS[kind]
    config = VisionLanguageConfig(kind, 16, **options)
    encoder = VisionLanguage(model.get_submodule(place.backbone), processor, config)
    encoder.projection.load_state_dict(model.get_submodule(place.projection).state_dict())
    return encoder.eval()


def made(family: str, **options: Any) -> VisionLanguage:
    make = engine_encoder if family in ENGINE else hf_encoder
    return make(family, **options)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    rng = np.random.default_rng(0)
    items: list[Any] = [
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for width, height in ((60, 90), (110, 50))
    ]
    path = tmp_path_factory.mktemp("vlm") / "page.png"
    items[0].save(path)
    return [path, items[1]]


@pytest.mark.parametrize("family", [*sorted(FAMILIES), "smolvlm"])
def test_contract(family: str, pages: list[Any]) -> None:
    smol = family == "smolvlm"  # ColSmolVLM is ColIdefics3 on another backbone
    encoder = engine_encoder("engine-colidefics3", kind=family) if smol else made(family)
    check_encoder(encoder, pages)
    check_encoder(encoder, TEXTS, role="query")
    assert encoder.modalities[:2] == ("page", "text")
    grid = encoder(encoder.prepare(pages, "document"))
    assert grid.boxes is not None
    labels = encoder.labels(pages[0], "document")
    own = [i for i, label in enumerate(labels) if label.startswith("r") and label[1:2].isdigit()]
    boxes = grid.boxes[0][own]
    # cells of the page's own lattice, side by side, cover it and do not overlap
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    assert float(area.sum()) == pytest.approx(1, abs=1e-4)
    assert labels[own[0]] == "r0c0" and boxes[0, :2].tolist() == [0, 0]
    assert boxes[-1, 2:].tolist() == pytest.approx([1, 1], abs=1e-5)
    rest = [i for i in range(len(labels)) if i not in own and not labels[i].startswith("page ")]
    assert rest and (grid.boxes[0][rest] == torch.tensor([0.0, 0, 1, 1])).all()


@pytest.mark.parametrize("family", ["colpali", "engine-colqwen2", "colmodernvbert", "neomme"])
def test_patches_alone_are_the_same_tokens_on_a_lattice(family: str, pages: list[Any]) -> None:
    every, few = made(family), made(family, tokens="patches")
    few.load_state_dict(every.state_dict())
    check_encoder(few, pages)
    whole = every(every.prepare(pages, "document"))
    grid = few(few.prepare(pages, "document"))
    for i, item in enumerate(pages):
        labels, all_labels = few.labels(item, "document"), every.labels(item, "document")
        at = [j for j, label in enumerate(all_labels) if label in set(labels)]
        assert [all_labels[j] for j in at] == labels
        count = len(labels)
        torch.testing.assert_close(grid.tokens[i, :count], whole.tokens[i, at])
        rows, cols = grid.shape[i]
        assert rows * cols == count and (rows > 1 or family == "colmodernvbert")


def test_queries_have_augmentation_and_documents_do_not() -> None:
    encoder = made("engine-colqwen2")
    query = encoder.labels("up", "query")
    document = encoder.labels("up", "document")
    assert query == [*document, *["<|endoftext|>"] * 10]
    assert encoder.cost(["up"], "query") == [len(query)]


def test_placeholders_in_a_text_are_blanks() -> None:
    encoder = made("engine-colidefics3")
    plain, odd = encoder.labels("a  b", "query"), encoder.labels("a <image>b", "query")
    assert odd == plain


def test_split_pages_are_tiles_and_the_whole_page(pages: list[Any]) -> None:
    encoder = made("engine-colidefics3")
    labels = encoder.labels(pages[0], "document")  # 60 x 90 -> 64 x 96: 2 x 3 tiles of 2 x 2
    tiles = [label for label in labels if label.startswith("r") and "c" in label]
    whole = [label for label in labels if label.startswith("page ")]
    assert len(tiles) == 6 * 4 and set(tiles) == {f"r{r}c{c}" for r in range(6) for c in range(4)}
    assert whole == ["page r0c0", "page r0c1", "page r1c0", "page r1c1"]
    grid = encoder(encoder.prepare(pages[:1], "document"))
    assert grid.boxes is not None
    at = labels.index("r2c3")  # the second tile of the second row
    assert grid.boxes[0, at].tolist() == pytest.approx([3 / 4, 2 / 6, 1, 3 / 6], abs=1e-5)


def test_recordings_carry_their_seconds() -> None:
    encoder = made("engine-colqwen-omni")
    assert encoder.modalities == ("page", "text", "audio")
    rng = np.random.default_rng(0)
    sounds = [
        Audio((rng.standard_normal(n) * 0.1).astype(np.float32), 16000) for n in (16000, 9600)
    ]
    check_encoder(encoder, sounds)
    grid = encoder(encoder.prepare(sounds, "document"))
    assert grid.seconds is not None and grid.boxes is None
    labels = encoder.labels(sounds[0], "document")
    heard = [i for i, label in enumerate(labels) if label.endswith("s") and "." in label]
    seconds = grid.seconds[0, heard]
    assert len(heard) == 25 and seconds[0, 0] == 0  # 40 ms each
    assert seconds[-1, 1] == pytest.approx(1.0, abs=1e-3)
    assert labels[heard[3]] == "0.12s"


def test_kinds_do_not_mix_and_other_items_are_refused(pages: list[Any], tmp_path: Path) -> None:
    encoder = made("engine-colqwen2")
    with pytest.raises(ValueError, match="one kind"):
        encoder.prepare(["text", pages[0]], "document")
    with pytest.raises(TypeError, match="a str, a picture"):
        encoder.prepare([3], "document")
    with pytest.raises(TypeError, match="sequence"):
        encoder.prepare("text", "query")
    with pytest.raises(ValueError, match="role"):
        encoder.prepare(["text"], "passage")  # type: ignore[arg-type]
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for call in (encoder.prepare, encoder.cost):
        with pytest.raises(MediaError, match="broken"):
            call([tmp_path / "broken.png"], "document")


def test_single_vector_of_full_width_without_projection() -> None:
    model, processor = transformers_model("neomme")
    config = VisionLanguageConfig("neomme", 32, projected=False)
    encoder = VisionLanguage(model.model, processor, config).eval()
    check_encoder(encoder, ["loss goes up", "a"], role="query")
    grid = encoder(encoder.prepare(["loss goes up"], "query"))
    assert grid.pooled is not None
    torch.testing.assert_close(grid.pooled[0], grid.tokens[0].mean(0))
    with pytest.raises(ValueError, match="32 wide"):
        VisionLanguage(model.model, processor, VisionLanguageConfig("neomme", 16, projected=False))


def test_families_and_backbones_go_together() -> None:
    model, processor = transformers_model("colpali")
    with pytest.raises(ValueError, match="qwen2_vl, not 'paligemma'"):
        VisionLanguage(model.vlm, processor, VisionLanguageConfig("colqwen2", 16))
    with pytest.raises(ValueError, match="did you mean 'colpali'"):
        VisionLanguageConfig("colpalli", 16)


def test_a_saved_encoder_without_its_processor_is_an_error(tmp_path: Path) -> None:
    encoder = made("colpali")
    encoder.save(tmp_path)
    assert json.loads((tmp_path / "encoder.json").read_text())["config"]["family"] == "colpali"
    (tmp_path / "processor" / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is missing"):
        VisionLanguage.load(tmp_path)
