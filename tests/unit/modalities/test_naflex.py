"""NaFlexImage over tiny NaFlex backbones: lattices of every picture's own, equal to timm's path."""

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
from modalities.image import TimmImage
from modalities.naflex import NaFlexConfig, NaFlexImage, image_encoder

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}
NAMES = [
    "naflexvit_base_patch16_siglip",  # attention pool
    "naflexvit_base_patch16_gap",  # mean of the real patches, register tokens
    "naflexvit_base_patch16_parfac_gap",  # factorised positions
]


def make(name: str = NAMES[0], **options: Any) -> NaFlexImage:
    torch.manual_seed(0)
    return NaFlexImage.from_timm(name, dim=8, **{"max_patches": 12, "options": TINY, **options})


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(20, 30, 3), (64, 64, 3), (100, 7, 3), (40, 400, 3), (1, 1, 3)]
    return [Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)) for size in sizes]


@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str) -> None:
    encoder = make(name)
    assert encoder.projection.in_features == 32
    check_encoder(encoder, pictures())
    check_encoder(encoder, pictures(), role="query")


def test_pictures_keep_their_shapes() -> None:
    encoder = make()
    batch = encoder.prepare(pictures(), "document")
    assert batch.shape == ((3, 4), (3, 3), (12, 1), (1, 10), (3, 3))
    assert encoder.cost(pictures(), "document") == [12, 9, 12, 10, 9]
    assert encoder.labels(pictures()[3], "query")[-1] == "r0c9"
    assert make(max_patches=100).lattice(400, 40) == (3, 30)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_timms(name: str, tmp_path: Path) -> None:
    """Against timm's own transform, one picture at a time, from files."""
    from timm.data import create_transform

    encoder = make(name)
    transform = create_transform(
        naflex=True,
        patch_size=16,
        max_seq_len=12,
        patchify=True,
        interpolation=encoder.settings.interpolation,
        mean=encoder.settings.mean,
        std=encoder.settings.std,
    )
    paths = []
    for i, picture in enumerate(pictures()):
        paths.append(tmp_path / f"{i}.png")
        picture.save(paths[-1])
    with torch.inference_mode():
        grid = encoder(encoder.prepare(paths, "document"))
        for i, path in enumerate(paths):
            inputs = {k: v[None] for k, v in transform(Image.open(path)).items()}
            features = encoder.backbone.forward_features(
                inputs["patches"],
                patch_coord=inputs["patch_coord"],
                patch_valid=inputs["patch_valid"],
            )
            pooled = encoder.projection(encoder.backbone(inputs)[0])
            own = features["patches"][0, encoder.backbone.num_prefix_tokens :]
            expected = encoder.projection(own)
            count = len(expected)
            assert grid.shape[i][0] * grid.shape[i][1] == count
            torch.testing.assert_close(grid.tokens[i, :count], expected, atol=1e-5, rtol=1e-4)
            assert grid.pooled is not None
            torch.testing.assert_close(grid.pooled[i], pooled, atol=1e-5, rtol=1e-4)


def test_saved_and_loaded(tmp_path: Path) -> None:
    encoder = make(dtype=torch.bfloat16)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert isinstance(again, NaFlexImage)
    assert again.settings == encoder.settings and again.dtype == torch.bfloat16
    facts = json.loads((tmp_path / "encoder.json").read_text())
    facts["config"]["backbone"] = "hf-hub:someone/model"
    (tmp_path / "encoder.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="timm has no model"):
        load_encoder(tmp_path)


def test_the_backbone_decides_which_encoder() -> None:
    assert isinstance(image_encoder(NAMES[0], dim=8, options=TINY, max_patches=4), NaFlexImage)
    assert isinstance(image_encoder("test_vit", dim=8), TimmImage)
    with pytest.raises(ValueError, match="timm has no model"):
        image_encoder("test_vitt")
    with pytest.raises(ValueError, match="of any shape"):
        NaFlexImage.from_timm("test_vit")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_patches": 0}, "max_patches must be"),
        ({"max_patches": 10**9}, "max_patches must be"),
        ({"dim": 0}, "dim must be"),
        ({"max_patchs": 3}, "did you mean .*max_patches"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    values = {"backbone": NAMES[0], "dim": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    with pytest.raises(ValueError, match=message):
        from_config(NaFlexConfig, {**values, **changes})


def test_gradients_reach_the_backbone() -> None:
    encoder = make().train()
    encoder(encoder.prepare(pictures(), "document")).tokens.square().sum().backward()
    assert encoder.backbone.embeds.proj.weight.grad.abs().sum() > 0
