"""OpenClip over tiny open_clip models of every kind: the contract, boxes, labels, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import CONFIGS, tiny, write_open_clip, write_parts

from modalities import check_encoder, load_encoder
from modalities.clip import OpenClip
from modalities.clip_config import check_model_config
from modalities.clip_pictures import ClipPictures, patch_boxes
from modalities.clip_tokenizer import ClipTokenizer
from modalities.media import MediaError

TEXTS = ["a dog!", "", "two dogs run over a field of wet grass", "日本語 \ud800 ?"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder)
    return folder


def make(kind: str, parts: Path, **options: Any) -> OpenClip:
    model, tokenizer, config, preprocess = tiny(kind, parts)
    return OpenClip.from_model(model, tokenizer, config, preprocess, **options)


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(20, 30, 3), (64, 96, 3), (90, 7, 3)]
    return [Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize("kind", CONFIGS)
def test_contract(kind: str, parts: Path) -> None:
    encoder = make(kind, parts)
    assert encoder.modalities == ("image", "text")
    check_encoder(encoder, pictures())
    check_encoder(encoder, TEXTS, role="query")
    grid = encoder(encoder.prepare(pictures(), "document"))
    assert grid.pooled is not None and grid.boxes is not None


def test_another_width_is_a_projection_behind_both_towers(parts: Path, tmp_path: Path) -> None:
    encoder = make("clip", parts, dim=8)
    own = make("clip", parts)
    check_encoder(encoder, pictures())
    check_encoder(encoder, TEXTS)
    for items in (pictures(), TEXTS):
        with torch.inference_mode():
            wide, narrow = (e(e.prepare(items, "query")) for e in (own, encoder))
            expected = encoder.projection(wide.tokens)
        torch.testing.assert_close(narrow.tokens[narrow.mask], expected[narrow.mask])
    assert sum(p.numel() for p in own.projection.parameters()) == 0


def test_tokens_of_a_text(parts: Path) -> None:
    """The start token of a causal tower is the same for every text and is left out; what stands
    for padding may be a word of its own."""
    encoder = make("clip", parts)
    assert encoder.labels("A dog, 2 dogs", "query") == [
        *("a", "dog", ",", "2", "dogs", "<end_of_text>")
    ]
    assert encoder.labels("", "document") == ["<end_of_text>"]
    assert encoder.labels("!a", "document")[0] == "!"
    batch = encoder.prepare(["a dog", "a"], "query")
    assert batch.inputs["ids"].shape == (2, 4)  # not the whole context: the tower is causal
    long = encoder.labels("dog " * 100, "query")
    assert len(long) == 76 and long[-1] == "<end_of_text>"
    assert encoder.cost(["a dog", "dog " * 100], "query") == [4, 77]
    pieces = make("siglip", parts)
    assert pieces.labels("Ab, c", "query") == ["a", "b", "<unk>", "c", "</s>"]
    assert pieces.labels("", "query") == ["</s>"]
    assert len(pieces.labels("a" * 50, "query")) == 16
    assert pieces.prepare(["a"], "query").inputs["ids"].shape == (1, 16)
    stripped = make("clipa", parts)
    assert stripped.labels("the loss", "query") == ["[CLS]", "the", "loss"]
    assert make("transformers", parts).labels("warmup", "query") == [
        *("[CLS]", "warm", "up", "[SEP]")
    ]


def test_boxes_say_where_patches_lie_in_the_whole_picture(parts: Path) -> None:
    """A picture twice as wide as high, cut to its middle square: the first patch begins at a
    quarter. With bars instead: they hold no tokens."""
    wide = Image.new("RGB", (200, 100), "red")
    cut = make("clip", parts)
    grid = cut(cut.prepare([wide], "document"))
    assert grid.boxes is not None and grid.shape == ((4, 4),)
    torch.testing.assert_close(grid.boxes[0, 0], torch.tensor([0.25, 0, 0.375, 0.25]))
    torch.testing.assert_close(grid.boxes[0, -1], torch.tensor([0.625, 0.75, 0.75, 1]))
    bars = make("eva", parts)  # 160 x 160 in patches of 16: a band of 80, over 6 rows
    grid = bars(bars.prepare([wide, Image.new("RGB", (50, 50))], "document"))
    assert grid.boxes is not None and grid.shape == ((6, 10), (10, 10))
    torch.testing.assert_close(grid.boxes[0, 0], torch.tensor([0, 0, 0.1, 0.1]))
    torch.testing.assert_close(grid.boxes[0, 59], torch.tensor([0.9, 0.9, 1, 1]))
    assert bars.labels(wide, "query")[-1] == "r5c9"


def test_a_patch_is_where_its_box_says(parts: Path) -> None:
    """What changes most when one corner of the picture changes is the token whose box it is."""
    encoder = make("clip", parts)
    grey = Image.new("RGB", (128, 64), "grey")
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    for x, y in ((32, 0), (80, 48), (48, 16)):
        marked = grey.copy()
        marked.paste(Image.fromarray(noise), (x, y))
        with torch.inference_mode():
            grid = encoder(encoder.prepare([grey, marked], "document"))
        assert grid.boxes is not None
        most = int((grid.tokens[0] - grid.tokens[1]).norm(dim=1).argmax())
        box = grid.boxes[1, most] * torch.tensor([128, 64, 128, 64])
        assert box.round().tolist() == [x, y, x + 16, y + 16]


def test_very_long_pictures_are_cut_to_their_middle_first() -> None:
    steps = ClipPictures({"size": 32})
    image = Image.new("RGB", (100_000, 1), "red")
    flat, (x0, y0, x1, y1) = steps(image)
    assert flat.shape == (3, 32, 32) and flat[0].min() == 255
    assert 0.49 < x0 < 0.5 < x1 < 0.51 and (y0, y1) == (0, 1)
    flat, box = ClipPictures({"size": 32, "resize_mode": "longest"})(image)
    assert flat.shape == (3, 32, 32)
    assert len(patch_boxes(box, 4, 4)[0]) == 4  # one row of patches, or two halves of two


def test_what_items_are_is_told_by_their_type(parts: Path, tmp_path: Path) -> None:
    encoder = make("clip", parts)
    path = tmp_path / "a.png"
    pictures()[0].save(path)
    by_path = encoder.prepare([path], "document").inputs["pixels"]
    assert torch.equal(by_path, encoder.prepare(pictures()[:1], "document").inputs["pixels"])
    assert "ids" in encoder.prepare([str(path)], "document").inputs
    with pytest.raises(ValueError, match="encode them apart"):
        encoder.prepare([path, "a dog"], "query")
    with pytest.raises(TypeError, match="not int"):
        encoder.prepare([3], "query")
    with pytest.raises(TypeError, match="one str"):
        encoder.prepare("dog", "query")
    with pytest.raises(ValueError, match="passage"):
        encoder.prepare([], "passage")  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(MediaError, match=r"a\.png"):
        encoder.prepare([path], "query")


def test_only_what_is_used_is_trained(parts: Path) -> None:
    encoder = make("coca", parts).train()
    for items in (pictures(), TEXTS):
        grid = encoder(encoder.prepare(items, "document"))
        (grid.tokens.square().sum() + grid.pooled.square().sum()).backward()
    trained = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
    assert not [n for n in trained if "text_decoder" in n or "logit" in n]
    assert [n for n, p in trained.items() if p.grad is None] == []


def test_patch_dropout_is_taken_out(parts: Path) -> None:
    model, tokenizer, config, preprocess = tiny("clip", parts)
    config["vision_cfg"]["patch_dropout"] = 0.5
    from open_clip.transformer import PatchDropout

    model.visual.patch_dropout = PatchDropout(0.5)
    encoder = OpenClip.from_model(model, tokenizer, config, preprocess).train()
    assert encoder(encoder.prepare(pictures(), "query")).shape == ((4, 4),) * 3


def test_bfloat16_is_kept(parts: Path, tmp_path: Path) -> None:
    encoder = make("clip", parts, dtype=torch.bfloat16)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert isinstance(again, OpenClip) and again.dtype == torch.bfloat16
    check_encoder(again, pictures(), atol=5e-2)
    check_encoder(again, TEXTS, atol=5e-2)


def test_parts_that_do_not_belong_together(parts: Path) -> None:
    import open_clip

    model, tokenizer, config, preprocess = tiny("clip", parts)
    with pytest.raises(ValueError, match="context is 64, the text tower's 77"):
        OpenClip.from_model(model, open_clip.SimpleTokenizer(context_length=64), config, preprocess)
    other = tiny("siglip", parts)
    with pytest.raises(ValueError, match="entries"):
        OpenClip.from_model(other[0], tokenizer, other[2], other[3])
    random_words = open_clip.SimpleTokenizer(reduction_mask="random")
    with pytest.raises(ValueError, match="at random"):
        ClipTokenizer(random_words)
    with pytest.raises(ValueError, match="own 49408"):
        ClipTokenizer(open_clip.SimpleTokenizer(additional_special_tokens=["<x>"]))
    with pytest.raises(ValueError, match="no tokenizer of open_clip"):
        ClipTokenizer(object())


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ({"attentional_pool": "parallel"}, {}, "has not finished"),
        ({"pool_type": "none"}, {}, "does not pool"),
        ({}, {"pool_type": "none"}, "does not pool"),
        ({}, {"proj_type": "none"}, "pictures end in 24 numbers, texts in 8"),
    ],
)
def test_towers_without_patches_or_vectors(
    parts: Path, vision: dict[str, Any], text: dict[str, Any], message: str
) -> None:
    from modalities.clip_config import make_model

    _, tokenizer, config, preprocess = tiny("clip", parts)
    config["vision_cfg"].update(vision)
    config["text_cfg"].update(text)
    with pytest.raises(ValueError, match=message):
        OpenClip.from_model(make_model(config), tokenizer, config, preprocess)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size must be"),
        ({"size": [5, 10**7]}, "size must be"),
        ({"mean": [0.5]}, "mean must be"),
        ({"std": [0.5, 0.5, 0]}, "std must be"),
        ({"interpolation": "magic"}, "unknown interpolation"),
        ({"resize_mode": "magic"}, "unknown resize_mode"),
        ({"sise": 3}, "sise"),
    ],
)
def test_impossible_preprocessing(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipPictures(values)


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ({}, {"tokenizer_kwargs": {"trust_remote_code": True}}, "tokenizer_kwargs may have"),
        ({"timm_model_name": "hf-hub:someone/model"}, {}, "timm has no model"),
        ({"layers": 10**6}, {}, "layers is 1000000, at most"),
        ({"width": 10**9}, {}, "width is 1000000000, at most"),
        ({"norm_kwargs": [[]] * 20_000}, {}, "bytes as JSON"),
    ],
)
def test_configurations_that_reach_too_far(
    vision: dict[str, Any], text: dict[str, Any], message: str
) -> None:
    config = {
        "embed_dim": 8,
        "vision_cfg": {**CONFIGS["clip"]["vision_cfg"], **vision},
        "text_cfg": {**CONFIGS["clip"]["text_cfg"], **text},
    }
    with pytest.raises(ValueError, match=message):
        check_model_config(config)


def test_a_saved_encoder_that_was_tampered_with(parts: Path, tmp_path: Path) -> None:
    make("transformers", parts).save(tmp_path)
    facts = (tmp_path / "encoder.json").read_text()
    changed = json.loads(facts)
    changed["config"]["model"]["vision_cfg"]["width"] = 100_000
    (tmp_path / "encoder.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="do not belong together"):
        load_encoder(tmp_path)
    changed = json.loads(facts)
    changed["config"]["tokenizer"]["trust_remote_code"] = True
    (tmp_path / "encoder.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="unknown keys"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text(facts)
    (tmp_path / "text" / "config.json").unlink()
    with pytest.raises(ValueError, match="incomplete"):
        load_encoder(tmp_path)


def test_which_weights_must_be_said(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="laion2b_s34b_b79k"):
        OpenClip.from_pretrained("ViT-B-32")
    with pytest.raises(ValueError, match="open_clip has no model 'ViT-Q-9'"):
        OpenClip.from_pretrained("ViT-Q-9", pretrained="openai")
    with pytest.raises(ValueError, match=r"open_clip_config\.json is missing"):
        OpenClip.from_pretrained(tmp_path)
    write_open_clip("clip", parts, tmp_path / "clip")
    with pytest.raises(ValueError, match="brings its own weights"):
        OpenClip.from_pretrained(tmp_path / "clip", pretrained="openai")
