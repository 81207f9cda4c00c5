"""TimmImage over tiny timm backbones with random weights: lattices, order, normalisation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modalities import check_encoder, load_encoder
from modalities.encoder import from_config
from modalities.image import ImageConfig, TimmImage
from modalities.media import MediaError
from modalities.timm_backbones import lattice


def make(name: str = "test_vit", **options: Any) -> TimmImage:
    torch.manual_seed(0)
    return TimmImage.from_timm(name, dim=8, **{"image_size": (64, 96), **options})


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(20, 30, 3), (64, 96, 3), (100, 7, 3), (1, 1, 3)]
    return [Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("test_vit", (4, 6)),  # class token
        ("test_vit3", (4, 6)),  # attention pool
        ("test_convnext", (2, 3)),
        ("test_efficientnet", (2, 3)),  # batch norm; pooled is timm's mean
        ("test_resnet", (2, 3)),
        ("test_mambaout", (2, 3)),  # channels last; pooled has another width
    ],
)
@pytest.mark.parametrize("role", ["query", "document"])
def test_contract(name: str, shape: tuple[int, int], role: Any) -> None:
    encoder = make(name)
    assert encoder.lattice == shape
    check_encoder(encoder, pictures(), role=role)


def test_the_backbones_own_size_is_the_default() -> None:
    assert make(image_size=None).settings.image_size == (160, 160)
    small = make("vit_tiny_patch16_224", image_size=(32, 48))
    assert small.lattice == (2, 3)
    assert small.labels(pictures()[0], "query") == ["r0c0", "r0c1", "r0c2", "r1c0", "r1c1", "r1c2"]
    assert small.cost(pictures(), "query") == [6, 6, 6, 6]


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_tokens_are_in_row_major_order(name: str) -> None:
    """What changes most when one corner of the picture changes is that corner's token."""
    encoder = make(name)
    rows, cols = encoder.lattice
    grey = Image.new("RGB", (96, 64), "grey")
    for row, col in ((0, 0), (0, cols - 1), (rows - 1, 0), (rows - 1, cols - 1), (1, 1)):
        marked = grey.copy()
        height, width = 64 // rows, 96 // cols
        noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        marked.paste(Image.fromarray(noise), (col * width, row * height))
        with torch.inference_mode():
            plain, changed = encoder(encoder.prepare([grey, marked], "document")).tokens
        assert int((plain - changed).norm(dim=1).argmax()) == row * cols + col


def test_vit_tokens_are_the_patches_without_the_class_token() -> None:
    encoder = make()
    batch = encoder.prepare(pictures()[:1], "document")
    assert batch.inputs["pixels"].dtype == torch.uint8
    with torch.inference_mode():
        mean = torch.tensor(encoder.settings.mean).view(3, 1, 1)
        std = torch.tensor(encoder.settings.std).view(3, 1, 1)
        features = encoder.backbone.forward_features(
            (batch.inputs["pixels"].float() / 255 - mean) / std
        )
        grid = encoder(batch)
        patches = encoder.projection(features[:, 1:])
    assert features.shape[1] == 1 + 24
    torch.testing.assert_close(grid.tokens, patches)
    assert grid.pooled is not None and grid.pooled.shape == (1, 8)


@pytest.mark.parametrize(("name", "channels_last"), [("test_convnext", 0), ("test_mambaout", 1)])
def test_feature_maps_are_read_row_by_row(name: str, channels_last: int) -> None:
    encoder = make(name)
    numbered = torch.arange(6.0).view(1, 1, 2, 3).expand(1, 5, 2, 3)  # (B, C, rows, cols)
    numbered = numbered.permute(0, 2, 3, 1) if channels_last else numbered
    patches, shape = lattice(encoder.backbone, numbered)
    assert shape == (2, 3)
    assert patches[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="without a lattice"):
        lattice(encoder.backbone, torch.zeros(1, 5))


def test_normalisation_is_timms() -> None:
    encoder = make("vit_tiny_patch16_224", image_size=(32, 32))
    cfg = encoder.backbone.pretrained_cfg
    assert encoder.settings.mean == tuple(cfg["mean"])
    assert encoder.settings.std == tuple(cfg["std"])
    assert encoder.settings.interpolation == cfg["interpolation"]


def test_paths_and_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    pictures()[0].save(path)
    encoder = make()
    by_path = encoder.prepare([path, str(path)], "document").inputs["pixels"]
    by_image = encoder.prepare([pictures()[0]], "document").inputs["pixels"]
    assert torch.equal(by_path[0], by_image[0]) and torch.equal(by_path[1], by_image[0])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MediaError, match=r"a\.png"):
        encoder.prepare([path], "document")
    with pytest.raises(TypeError, match="not int"):
        encoder.prepare([3], "document")
    with pytest.raises(ValueError, match="passage"):
        encoder.prepare([], "passage")  # type: ignore[arg-type]


def test_saved_weights_keep_their_dtype_and_size(tmp_path: Path) -> None:
    encoder = make("test_convnext", dtype=torch.bfloat16)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert isinstance(again, TimmImage)
    assert (again.dtype, again.lattice) == (torch.bfloat16, (2, 3))
    assert again.settings == encoder.settings
    grid = again(again.prepare(pictures(), "document"))
    assert grid.tokens.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["test_vitt", "hf-hub:someone/model", "local-dir:folder"])
def test_only_timms_own_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="timm has no model"):
        TimmImage.from_timm(name)
    make("test_convnext").save(tmp_path)
    facts = json.loads((tmp_path / "encoder.json").read_text())
    facts["config"]["backbone"] = name
    (tmp_path / "encoder.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="timm has no model"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim must be"),
        ({"image_size": [0, 5]}, "image_size must be"),
        ({"image_size": [10**9, 5]}, "image_size must be"),
        ({"mean": [0.5]}, "mean and std"),
        ({"std": [0.5, 0.5, 0]}, "mean and std"),
        ({"interpolation": "magic"}, "unknown interpolation"),
        ({"dtype": "nn"}, "unknown dtype"),
        ({"image_sise": [3, 3]}, "did you mean .*image_size"),
        ({"options": {"checkpoint_path": "a.pt"}}, "may not have 'checkpoint_path'"),
        ({"options": {"depth": 10**6}}, "depth is 1000000, at most"),
        ({"options": {"block_fn": print}}, "must be JSON values"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    values = {"backbone": "test_vit", "dim": 8, "image_size": [64, 64]}
    values |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(ValueError, match=message):
        from_config(ImageConfig, {**values, **changes})


def test_gradients_reach_the_backbone() -> None:
    encoder = make().train()
    encoder(encoder.prepare(pictures(), "document")).tokens.square().sum().backward()
    assert encoder.backbone.patch_embed.proj.weight.grad.abs().sum() > 0


def test_options_of_the_backbone_are_kept(tmp_path: Path) -> None:
    encoder = make("test_vit3", options={"global_pool": "avg"})
    assert encoder.backbone.attn_pool is None
    check_encoder(encoder, pictures()[:2])
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert isinstance(again, TimmImage) and again.settings == encoder.settings
    with pytest.raises(ValueError, match="cannot be made with"):
        make("test_vit", options={"no_such_argument": 1})


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [("efficientnet_lite0", (64, 96), 1280), ("vit_base_patch16_siglip_224", (32, 48), 768)],
)
def test_names_that_people_use(name: str, size: tuple[int, int], width: int) -> None:
    """EfficientNet-Lite0's last feature map, SigLIP's patches and its attention pool."""
    options = {"depth": 1} if "siglip" in name else {}
    encoder = make(name, image_size=size, options=options)
    assert encoder.lattice == (2, 3) and encoder.pools
    assert encoder.projection.in_features == width
    with torch.inference_mode():
        grid = encoder(encoder.prepare(pictures()[:1], "document"))
    assert grid.tokens.shape == (1, 6, 8) and grid.pooled is not None
