"""Tiny open_clip models of every kind with random weights, made by open_clip: no hub, no tags."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from tiny_text import bert, wordpiece
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
WORDS = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2}
SHORT = {"context_length": 16, "vocab_size": 96, "width": 32, "heads": 2, "layers": 2}
HF = {"hf_model_name": "text", "hf_tokenizer_name": "text", "context_length": 20}


def timm(name: str, pool: str, proj: str | None) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": 160}


CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": WORDS},
    "wide": {"embed_dim": 24, "vision_cfg": {**VIT, "image_size": [32, 48]}, "text_cfg": WORDS},
    "clipa": {
        "embed_dim": 24,
        "vision_cfg": {**VIT, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {
            **SHORT,
            "hf_tokenizer_name": "words",
            "tokenizer_kwargs": {"strip_sep_token": True},
            "pool_type": "last",
            "no_causal_mask": True,
        },
    },
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64},
        "text_cfg": WORDS,
    },
    "siglip": {
        "embed_dim": 96,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": timm("test_vit3", "map", "none"),
        "text_cfg": {
            **SHORT,
            "hf_tokenizer_name": "pieces",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
        },
    },
    "eva": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": timm("test_vit", "token", None),
        "text_cfg": WORDS,
    },
    "convnext": {
        "embed_dim": 24,
        "vision_cfg": timm("test_convnext", "", "linear"),
        "text_cfg": WORDS,
    },
    "mobile": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": timm("test_efficientnet", "avg", None),
        "text_cfg": {**WORDS, "no_causal_mask": True},
    },
    "rotary": {
        "embed_dim": 64,
        "vision_cfg": timm("test_efficientnet", "rot_attn", ""),
        "text_cfg": WORDS,
    },
    "channels-last": {
        "embed_dim": 24,
        "vision_cfg": timm("test_mambaout", "avg", None),
        "text_cfg": WORDS,
    },
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": {
            **VIT, "attentional_pool": True, "output_tokens": True,
            "attn_pooler_queries": 5, "attn_pooler_heads": 2,
        },
        "text_cfg": {**WORDS, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**WORDS, "context_length": 76},
    },
    "transformers": {
        "embed_dim": 24,
        "vision_cfg": VIT,
        "text_cfg": {**HF, "hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"},
    },
    "transformers-cls": {
        "embed_dim": 16,
        "vision_cfg": VIT,
        "text_cfg": {**HF, "hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"},
    },
}  # fmt: skip


def pieces() -> PreTrainedTokenizerFast:
    """As SigLIP's: the text, then an end token which is the padding too; no start token."""
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789")
    vocabulary = {entry: i for i, entry in enumerate(["<unk>", "</s>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>"
    )


def write_parts(folder: Path) -> None:
    """The tokenizers and the text backbone that the configurations name."""
    backbone, words = bert()
    backbone.config.save_pretrained(folder / "text")
    words.save_pretrained(folder / "text")
    wordpiece().save_pretrained(folder / "words")
    pieces().save_pretrained(folder / "pieces")


def tiny(kind: str, folder: Path) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """(model, tokenizer, configuration, preprocessing), as open_clip makes them; `folder` is where
    `write_parts` wrote."""
    import open_clip
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.tokenizer import HFTokenizer

    from modalities.clip_config import make_model

    config = deepcopy(CONFIGS[kind])
    text = config["text_cfg"]
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if key in text:
            text[key] = str(folder / text[key])
    torch.manual_seed(0)
    model = make_model(config).eval()
    with torch.no_grad():  # away from the zeros that some layers begin with
        if hasattr(model, "text_decoder"):  # open_clip leaves it as the memory happened to be
            model.text_decoder.text_projection.normal_(std=0.02)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    size = config["vision_cfg"]["image_size"]
    preprocess = {
        "size": size if isinstance(size, int) else tuple(size),
        "mean": (0.48, 0.46, 0.41),
        "std": (0.27, 0.26, 0.28),
        "interpolation": "bilinear" if kind == "eva" else "bicubic",
        "resize_mode": {"siglip": "squash", "eva": "longest"}.get(kind, "shortest"),
    }
    set_model_preprocess_cfg(model, preprocess)
    if "hf_tokenizer_name" in text:
        options = text.get("tokenizer_kwargs", {})
        tokenizer: Any = HFTokenizer(
            text["hf_tokenizer_name"], context_length=text["context_length"], **options
        )
    else:
        tokenizer = open_clip.SimpleTokenizer(context_length=text["context_length"])
    return model, tokenizer, config, preprocess


def write_open_clip(kind: str, parts: Path, folder: Path) -> tuple[Any, Any]:
    """The model as open_clip's own writer puts it on the disk (with safetensors); returns what it
    was written from."""
    import json

    from open_clip.push_to_hf_hub import save_for_hf

    model, tokenizer, config, _ = tiny(kind, parts)
    if hasattr(tokenizer, "save_pretrained"):
        save_for_hf(model, tokenizer, config, str(folder), safe_serialization=True)
    else:  # CLIP's own tokenizer has no files
        folder.mkdir(parents=True, exist_ok=True)
        from open_clip.push_to_hf_hub import save_config_for_hf
        from safetensors.torch import save_file

        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        save_config_for_hf(model, folder / "open_clip_config.json", config)
    assert json.loads((folder / "open_clip_config.json").read_text())["model_cfg"] == config
    return model, tokenizer
