"""OpenClip against open_clip's own encode_image and encode_text, from files on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import CONFIGS, tiny, write_open_clip, write_parts
from torch import Tensor
from torch.nn import functional as F

from modalities.clip import OpenClip

TEXTS = [
    *(
        "a dog!",
        "",
        "!",
        "!!a",
        "two dogs run over a field of wet grass",
        "日本語 - Ünïcödé <b>&amp;",
    ),
    *("a&nbsp;b\n\tc", "dog " * 100, "x" * 300, "the <end_of_text> stands in the middle", "0 0 0"),
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of odd sizes and shapes, as files."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate([(50, 80), (161, 97), (33, 300), (64, 64), (9, 5)]):
        small = rng.integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        paths.append(folder / f"{i}.png")
        image.save(paths[-1])
    return paths


def theirs(model: Any, preprocess: dict[str, Any], files: list[Path]) -> Tensor:
    """Pixels as open_clip's own transform gives them."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    transform = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
    return torch.stack([transform(Image.open(path)) for path in files])


def without_norm(call: Any, x: Tensor) -> Tensor:
    """CoCa normalises unless told otherwise, CLIP does not unless told."""
    return call(x, normalize=False)


@pytest.mark.parametrize("kind", CONFIGS)
def test_pooled_vectors_are_open_clips(kind: str, parts: Path, files: list[Path]) -> None:
    model, tokenizer, config, preprocess = tiny(kind, parts)
    encoder = OpenClip.from_model(model, tokenizer, config, preprocess)
    with torch.inference_mode():
        images = without_norm(model.encode_image, theirs(model, preprocess, files))
        texts = without_norm(model.encode_text, tokenizer(TEXTS))
        for items, expected in ((files, images), (TEXTS, texts)):
            together = encoder(encoder.prepare(items, "query")).pooled
            torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-5)
            for i, item in enumerate(items):
                alone = encoder(encoder.prepare([item], "document")).pooled
                torch.testing.assert_close(alone[0], expected[i], atol=1e-5, rtol=1e-5)


def patches_by_their_parts(kind: str, model: Any, pixels: Tensor) -> Tensor:
    """(B, N, E): open_clip's own modules, asked about one patch at a time."""
    visual = model.visual
    if kind == "resnet":
        x = visual.forward_intermediates(pixels, indices=1)["image_intermediates"][-1]
        pool = visual.attnpool
        places = x.flatten(2).permute(2, 0, 1) + pool.positional_embedding[1:, None]
        out = []
        for place in places:  # the pool's own attention, which may look at this place only
            row, _ = F.multi_head_attention_forward(
                query=place[None], key=place[None], value=place[None],
                embed_dim_to_check=place.shape[-1], num_heads=pool.num_heads,
                q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight,
                v_proj_weight=pool.v_proj.weight, in_proj_weight=None,
                in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
                bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0,
                out_proj_weight=pool.c_proj.weight, out_proj_bias=pool.c_proj.bias,
                use_separate_proj_weight=True, training=False, need_weights=False,
            )  # fmt: skip
            out.append(row[0])
        return torch.stack(out, dim=1)
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        features = trunk.forward_features(pixels)
        if features.dim() == 4:
            last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"
            features = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
            one = (lambda f: f[:, None, None]) if last else (lambda f: f[:, :, None, None])
            rows = [visual.head(trunk.forward_head(one(f))) for f in features.unbind(1)]
            return torch.stack(rows, dim=1)
        rows = []
        for f in features[:, trunk.num_prefix_tokens :].unbind(1):
            pooled = trunk.attn_pool(f[:, None]) if trunk.attn_pool is not None else f
            rows.append(visual.head(trunk.head(trunk.fc_norm(pooled))))
        return torch.stack(rows, dim=1)
    x = visual.transformer(visual._embeds(pixels))[:, 1:]
    if visual.attn_pool is not None:
        rows = [visual.attn_pool(f[:, None])[:, 0] for f in x.unbind(1)]
        x = torch.stack(rows, dim=1)
    return visual.ln_post(x) @ visual.proj


@pytest.mark.parametrize("kind", CONFIGS)
def test_tokens_are_the_towers_own_projected(kind: str, parts: Path, files: list[Path]) -> None:
    model, tokenizer, config, preprocess = tiny(kind, parts)
    encoder = OpenClip.from_model(model, tokenizer, config, preprocess)
    with torch.inference_mode():
        grid = encoder(encoder.prepare(files, "document"))
        batch = encoder.prepare(files, "document")
        expected = patches_by_their_parts(kind, model, theirs(model, preprocess, files))
        for i, (rows, cols) in enumerate(grid.shape):
            kept = batch.inputs["keep"][i, : rows * cols]
            own = grid.tokens[i, : rows * cols]
            torch.testing.assert_close(own, expected[i, kept], atol=1e-5, rtol=1e-4)
        ids = tokenizer(TEXTS)
        if hasattr(model, "text") and hasattr(model.text, "proj"):  # a tower of transformers
            hidden = model.text.transformer(
                input_ids=ids, attention_mask=(ids != model.text.config.pad_token_id).long()
            ).last_hidden_state
            words = model.text.proj(hidden)
        else:
            tower = getattr(model, "text", model)
            options = {"normalize": False} if tower is model else {}
            hidden = tower.forward_intermediates(
                text=ids, text_indices=1, normalize_intermediates=True, **options
            ) if tower is model else tower.forward_intermediates(
                ids, indices=1, normalize_intermediates=True, output_fmt="NLC"
            )  # fmt: skip
            last = hidden["text_intermediates"][-1]
            project = tower.text_projection
            words = project(last) if isinstance(project, torch.nn.Linear) else last @ project
        batch = encoder.prepare(TEXTS, "query")
        grid = encoder(batch)
        for i, (_, count) in enumerate(grid.shape):
            kept = batch.inputs["keep"][i, :count]
            torch.testing.assert_close(grid.tokens[i, :count], words[i, kept], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "siglip", "coca", "transformers"])
def test_folders_of_open_clip_open(
    kind: str, parts: Path, files: list[Path], tmp_path: Path
) -> None:
    """Written by open_clip's own writer, loaded by our path and by theirs: the same vectors."""
    import open_clip

    write_open_clip(kind, parts, tmp_path / "saved")
    source = f"local-dir:{tmp_path / 'saved'}"
    model, transform = open_clip.create_model_from_pretrained(source)
    model.eval()
    tokenizer = open_clip.get_tokenizer(source)
    encoder = OpenClip.from_pretrained(tmp_path / "saved")
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.open(path)) for path in files])
        images = without_norm(model.encode_image, pixels)
        texts = without_norm(model.encode_text, tokenizer(TEXTS))
        for items, expected in ((files, images), (TEXTS, texts)):
            pooled = encoder(encoder.prepare(items, "query")).pooled
            torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
