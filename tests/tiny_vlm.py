"""Tiny page models with random weights, made with transformers itself: no hub.

`transformers_model(kind)` gives a `*ForRetrieval` model and its processor, as their own
`save_pretrained` writes them; `backbone(kind)` what a family of colpali-engine stands on.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.tiny_text import MERGES

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}
VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
QWEN = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
QWEN += ["<|video_pad|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
SPLIT = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
SPLIT += ["<|im_start|>", "<|begin_of_text|>"]
SPLIT += [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
NEO = ["<query>", "<doc>", "<img>", "<mask>", "<row>"]
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def words(specials: list[str], pad: str = "<|endoftext|>", **named: Any) -> Any:
    """A byte-level tokenizer with these special tokens; `named`: attributes (bos_token ...)."""
    first = ["<pad>", "<bos>", "<eos>", "<|endoftext|>", *specials]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = dict.fromkeys([*first, *alphabet, *("".join(pair) for pair in MERGES)])
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(entries)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(dict.fromkeys(first)))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, **named)


def shaken(model: Any, seed: int = 0) -> Any:
    """Random numbers in every weight, biases and those that start at zero too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 or not bool((weight == 1).all()):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.15)
    return model.eval()


def backbone(kind: str, tokenizer: Any) -> Any:
    """The configuration of a backbone that goes with a tokenizer."""
    import transformers as t

    size = len(tokenizer)
    ids = tokenizer.convert_tokens_to_ids
    if kind == "paligemma":
        vision = {**VISION, "image_size": 28, "patch_size": 7, "vision_use_head": False}
        return t.PaliGemmaConfig(
            text_config={**TEXT, "model_type": "gemma", "vocab_size": size + 8},
            vision_config={**vision, "model_type": "siglip_vision_model", "projection_dim": 32},
            image_token_index=ids("<image>"),
            projection_dim=32,
            hidden_size=32,
        )
    if kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        config = {"qwen2_vl": t.Qwen2VLConfig, "qwen2_5_vl": t.Qwen2_5_VLConfig}.get(
            kind, t.Qwen3VLConfig
        )
        return config(
            text_config={**TEXT, "vocab_size": size, "rope_parameters": ROPE},
            vision_config=qwen_vision(kind),
            image_token_id=ids("<|image_pad|>"),
            video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"),
            vision_end_token_id=ids("<|vision_end|>"),
        )
    vision = {**VISION, "image_size": 32, "patch_size": 8}
    if kind == "modernvbert":
        text = {**TEXT, "vocab_size": size, "global_attn_every_n_layers": 2, "local_attention": 32}
        text |= {"pad_token_id": ids("<pad>"), "deterministic_flash_attn": False}
        return t.ModernVBertConfig(
            text_config=t.ModernBertConfig(**text),
            vision_config=t.SiglipVisionConfig(**vision, vision_use_head=False),
            image_token_id=ids("<image>"),
            pixel_shuffle_factor=2,
        )
    if kind in ("idefics3", "smolvlm"):
        config = t.Idefics3Config if kind == "idefics3" else t.SmolVLMConfig
        return config(
            text_config=t.LlamaConfig(**TEXT, vocab_size=size, pad_token_id=0),
            vision_config=vision,
            image_token_id=ids("<image>"),
            scale_factor=2,
        )
    if kind == "qwen2_5_omni_thinker":
        named = {"image": "<|image_pad|>", "audio": "<|AUDIO|>", "video": "<|video_pad|>"}
        hears = {"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2}
        hears |= {"encoder_ffn_dim": 24, "d_model": 16, "output_dim": 32, "n_window": 20}
        return t.Qwen2_5OmniThinkerConfig(
            text_config={**TEXT, "vocab_size": size, "rope_parameters": ROPE},
            vision_config=qwen_vision("qwen2_5_vl"),
            audio_config={**hears, "max_source_positions": 100},
            **{f"{medium}_token_index": ids(token) for medium, token in named.items()},
            audio_start_token_id=ids("<|audio_bos|>"),
            audio_end_token_id=ids("<|audio_eos|>"),
            vision_start_token_id=ids("<|vision_start|>"),
            vision_end_token_id=ids("<|vision_end|>"),
        )
    raise KeyError(kind)


def qwen_vision(kind: str) -> dict[str, Any]:
    if kind == "qwen2_vl":
        return {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    sizes = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24}
    sizes |= {"out_hidden_size": 32}
    if kind == "qwen2_5_vl":
        return {**sizes, "fullatt_block_indexes": [1]}
    return {**sizes, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}


def qwen_pictures(kind: str) -> Any:
    """At most 16 x 16 patches, so that tests are short."""
    import transformers as t

    patch = 16 if kind == "qwen3_vl" else 14
    side = 2 * patch
    return t.Qwen2VLImageProcessor(
        patch_size=patch, size={"shortest_edge": side**2 * 2, "longest_edge": side**2 * 12}
    )


def split_pictures(kind: str = "idefics3") -> Any:
    import transformers as t

    make = t.SmolVLMImageProcessor if kind == "smolvlm" else t.Idefics3ImageProcessor
    # bicubic: what Lanczos is depends on torchvision's version
    return make(size={"longest_edge": 96}, max_image_size={"longest_edge": 32}, resample=3)


def transformers_model(kind: str, dim: int = 16) -> tuple[Any, Any]:
    """A `*ForRetrieval` model in eval mode and its processor."""
    import transformers as t

    if kind == "colpali":
        tokenizer = words(["<image>"], pad="<pad>", bos_token="<bos>", eos_token="<eos>")
        pictures = t.SiglipImageProcessor(size={"height": 28, "width": 28})
        pictures.image_seq_length = 16
        processor = t.ColPaliProcessor(pictures, tokenizer)
        form = t.ColPaliConfig(vlm_config=backbone("paligemma", tokenizer), embedding_dim=dim)
        return shaken(t.ColPaliForRetrieval(form)), processor
    if kind == "colqwen2":
        tokenizer = words(QWEN)
        processor = t.ColQwen2Processor(qwen_pictures("qwen2_vl"), tokenizer)
        form = t.ColQwen2Config(vlm_config=backbone("qwen2_vl", tokenizer), embedding_dim=dim)
        return shaken(t.ColQwen2ForRetrieval(form)), processor
    if kind == "colmodernvbert":
        tokenizer = words(SPLIT, pad="<pad>")
        processor = t.ColModernVBertProcessor(split_pictures(), tokenizer, image_seq_len=4)
        form = t.ColModernVBertConfig(
            vlm_config=backbone("modernvbert", tokenizer), embedding_dim=dim
        )
        return shaken(t.ColModernVBertForRetrieval(form)), processor
    if kind == "neomme":
        tokenizer = words(
            NEO,
            pad="<pad>",
            mask_token="<mask>",
            extra_special_tokens={
                "image_token": "<img>",
                "document_token": "<doc>",
                "query_token": "<query>",
                "row_token": "<row>",
            },
        )
        pictures = t.NeoMMEImageProcessor(patch_size=4, max_side=40)
        processor = t.NeoMMEProcessor(pictures, tokenizer, chat_template=NEO_TEMPLATE)
        ids = tokenizer.convert_tokens_to_ids
        form = t.NeoMMEConfig(
            **{**TEXT, "head_dim": 16},
            vocab_size=len(tokenizer),
            embedding_rank=16,
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=8,
            patch_size=4,
            embedding_dim=dim,
            pad_token_id=0,
            document_token_id=ids("<doc>"),
            image_token_id=ids("<img>"),
        )
        return shaken(t.NeoMMEForRetrieval(form)), processor
    raise KeyError(kind)


ENGINE = {
    "ColPali": "paligemma",
    "ColQwen2": "qwen2_vl",
    "ColQwen2_5": "qwen2_5_vl",
    "ColQwen3": "qwen3_vl",
    "ColIdefics3": "idefics3",
    "ColModernVBert": "modernvbert",
}
"""Class of colpali-engine -> type of its backbone."""


def engine_parts(kind: str) -> dict[str, Any]:
    """What the processor of a family of colpali-engine is made of."""
    import transformers as t

    if kind == "paligemma":
        pictures = t.SiglipImageProcessor(size={"height": 28, "width": 28})
        pictures.image_seq_length = 16
        tokenizer = words(["<image>"], pad="<pad>", bos_token="<bos>", eos_token="<eos>")
        return {"image_processor": pictures, "tokenizer": tokenizer}
    if kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        film = t.Qwen3VLVideoProcessor() if kind == "qwen3_vl" else t.Qwen2VLVideoProcessor()
        pictures = qwen_pictures(kind)
        return {"image_processor": pictures, "tokenizer": words(QWEN), "video_processor": film}
    if kind == "qwen2_5_omni_thinker":
        special = {
            "image_token": "<|image_pad|>",
            "audio_token": "<|AUDIO|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
            "audio_bos_token": "<|audio_bos|>",
            "audio_eos_token": "<|audio_eos|>",
        }
        return {
            "image_processor": qwen_pictures(kind),
            "video_processor": t.Qwen2VLVideoProcessor(),
            "feature_extractor": t.WhisperFeatureExtractor(feature_size=16, chunk_length=2),
            "tokenizer": words(QWEN, extra_special_tokens=special),
            "chat_template": OMNI_TEMPLATE,
        }
    tokenizer = words(SPLIT, pad="<pad>")
    return {"image_processor": split_pictures(kind), "tokenizer": tokenizer, "image_seq_len": 4}


NEO_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<query>' if task == 'query' else '<doc>' }}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{{ '<img>' if part['type'] == 'image' else part['text'] }}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if task == 'query' -%}{{ '<mask>' * 8 }}{%- endif -%}"
    "{%- endfor -%}"
)

OMNI_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part['type'] == 'audio' -%}{{ '<|audio_bos|><|AUDIO|><|audio_eos|>' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{{ '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)


def engine_encoder(family: str, dim: int = 16, *, kind: str = "", **options: Any) -> Any:
    """A VisionLanguage of one of colpali-engine's families, random, in eval mode. kind: type of
    the backbone where the family has several."""
    import transformers as t

    from modalities.vlm import VisionLanguage, VisionLanguageConfig
    from modalities.vlm_families import FAMILIES

    row = FAMILIES[family]
    kind = kind or row.backbones[0]
    parts = engine_parts(kind)
    processor = getattr(t, row.processor)(**parts)
    model = shaken(t.AutoModel.from_config(backbone(kind, parts["tokenizer"])))
    config = VisionLanguageConfig(family, dim, **options)
    return shaken(VisionLanguage(model, processor, config), seed=1)
