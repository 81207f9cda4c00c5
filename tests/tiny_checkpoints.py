"""Tiny random text backbones on the disk, and the checkpoint layouts around them, written by hand:
what the libraries themselves write is in tests/parity."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_text import MERGES, SIZES, SPECIALS, byte_level, wordpiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    Lfm2Config,
    Lfm2Model,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

QUERIES = ["who wrote this?", "", "loss", "Größe naïve 東京 дождь", "up " * 90, "the budget, 2024!"]
DOCUMENTS = [
    "the loss goes up after warm-up",
    "",
    "...!",
    "who wrote this? (nobody)",
    "budget, 2024: " + "a. " * 120,
    "Größe naïve 東京の雨 дождь 🦆",
    "of the rate",
]


def _specials(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens({"additional_special_tokens": ["[unused0]", "[unused1]"]})
    return tokenizer


def bert() -> tuple[Any, Any]:
    tokenizer = _specials(wordpiece(string.punctuation))
    return BertModel(
        BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SIZES)
    ), tokenizer


def modernbert() -> tuple[Any, Any]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = dict.fromkeys([*SPECIALS, *alphabet, *("".join(pair) for pair in MERGES)])
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = _specials(
        PreTrainedTokenizerFast(
            tokenizer_object=inner,
            model_max_length=64,
            **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "mask")},
        )
    )
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
        global_attn_every_n_layers=2,
        local_attention=8,
        **SIZES,
    )
    return ModernBertModel(config), tokenizer


def xlmr() -> tuple[Any, Any]:
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?()-:öïжд東"
    words = ["▁the", "▁loss", "▁who", "▁wrote", "▁this", "▁", "▁up", "▁."]
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(word, -2.0) for word in words] + [(letter, -5.0) for letter in letters]
    pieces += [("<mask>", 0.0)]
    inner = Tokenizer(models.Unigram(pieces, unk_id=3))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = _specials(
        PreTrainedTokenizerFast(
            tokenizer_object=inner,
            model_max_length=64,
            bos_token="<s>",
            eos_token="</s>",
            cls_token="<s>",
            sep_token="</s>",
            pad_token="<pad>",
            unk_token="<unk>",
            mask_token="<mask>",
        )
    )
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=66, pad_token_id=1, **SIZES
    )
    return XLMRobertaModel(config), tokenizer


def qwen3() -> tuple[Any, Any]:
    tokenizer = _specials(byte_level(pad=True))
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        num_key_value_heads=1,
        head_dim=8,
        **SIZES,
    )
    return Qwen3Model(config), tokenizer


def lfm2() -> tuple[Any, Any]:
    tokenizer = _specials(byte_level(bos=True, pad=True))
    config = Lfm2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        num_key_value_heads=1,
        layer_types=["conv", "full_attention"],
        **SIZES,
    )
    return Lfm2Model(config), tokenizer


BACKBONES = {"bert": bert, "modernbert": modernbert, "xlmr": xlmr, "qwen3": qwen3, "lfm2": lfm2}


def backbone(folder: Path, name: str, seed: int = 0) -> tuple[Any, Any]:
    """Saves a random backbone and its tokenizer; weights larger than usual, so that texts differ."""
    torch.manual_seed(seed)
    model, tokenizer = BACKBONES[name]()
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.ndim == 2:
                tensor.mul_(6)
    model.eval().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return model, tokenizer


def put(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def dense(folder: Path, sizes: tuple[int, int], **config: Any) -> dict[str, torch.Tensor]:
    """A Dense module's folder; its weights."""
    full = {
        "in_features": sizes[0],
        "out_features": sizes[1],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        **config,
    }
    put(folder / "config.json", full)
    weights = {"linear.weight": torch.randn(sizes[1], sizes[0])}
    if full["bias"]:
        weights["linear.bias"] = torch.randn(sizes[1])
    if full.get("use_residual") and sizes[0] != sizes[1]:
        weights["residual.weight"] = torch.randn(sizes[1], sizes[0])
    save_file(weights, str(folder / "model.safetensors"))
    return weights


def modules(folder: Path, rows: list[tuple[str, str]]) -> None:
    put(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": p, "type": t} for i, (t, p) in enumerate(rows)],
    )


def pylate(folder: Path, name: str, **settings: Any) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A PyLate checkpoint with one Dense; backbone, tokenizer, Dense's weights."""
    model, tokenizer = backbone(folder, name)
    weights = dense(folder / "1_Dense", (16, 8), use_residual=False)
    modules(
        folder,
        [
            ("sentence_transformers.models.Transformer", ""),
            ("pylate.models.Dense.Dense", "1_Dense"),
        ],
    )
    put(folder / "sentence_bert_config.json", {"max_seq_length": 31, "do_lower_case": False})
    facts = {
        "model_type": "ColBERT",
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[unused0]",
        "document_prefix": "[unused1]",
        "query_length": 16,
        "document_length": 32,
        "attend_to_expansion_tokens": False,
        "skiplist_words": [".", ",", "!", "?"],
        "do_query_expansion": True,
    }
    put(folder / "config_sentence_transformers.json", {**facts, **settings})
    return model, tokenizer, weights


def multi(
    folder: Path, name: str, *more: tuple[str, dict[str, Any]], **settings: Any
) -> tuple[Any, Any, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """A MultiVectorEncoder with two Dense modules, "min" expansion and prompts. more: further
    modules (class, configuration); settings: of the Transformer."""
    model, tokenizer = backbone(folder, name)
    one = dense(
        folder / "1_Dense",
        (16, 24),
        bias=True,
        activation_function="torch.nn.modules.activation.GELU",
        module_input_name="token_embeddings",
        module_output_name="token_embeddings",
    )
    two = dense(
        folder / "2_Dense", (24, 8), use_residual=True, module_input_name="token_embeddings"
    )
    put(
        folder / "3_MultiVectorMask" / "config.json",
        {"skiplist_words": ["."], "skiplist_tasks": ["query", "document"]},
    )
    put(folder / "4_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    facts = {
        "transformer_task": "feature-extraction",
        "query_length": 20,
        "document_length": 32,
        "query_expansion": {"strategy": "min", "attend": True, "token": None, "length": 10},
    }
    put(folder / "sentence_bert_config.json", {**facts, **settings})
    extra = []
    for i, (kind, config) in enumerate(more, 5):
        put(folder / f"{i}_{kind}" / "config.json", config)
        extra.append((f"sentence_transformers.multi_vector_encoder.modules.{kind}", f"{i}_{kind}"))
    base = "sentence_transformers.base.modules"
    modules(
        folder,
        [
            (f"{base}.transformer.Transformer", ""),
            (f"{base}.dense.Dense", "1_Dense"),
            (f"{base}.dense.Dense", "2_Dense"),
            (
                "sentence_transformers.multi_vector_encoder.modules.MultiVectorMask",
                "3_MultiVectorMask",
            ),
            (f"{base}.normalize.Normalize", "4_Normalize"),
            *extra,
        ],
    )
    put(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "MultiVectorEncoder",
            "prompts": {"query": "[unused0] ", "document": "the "},
            "similarity_fn_name": "maxsim",
        },
    )
    return model, tokenizer, (one, two)


def stanford(folder: Path, name: str, **settings: Any) -> tuple[Any, Any, torch.Tensor]:
    """A Stanford checkpoint; backbone, tokenizer, its projection."""
    model, tokenizer = backbone(folder, name)
    stored = load_file(str(folder / "model.safetensors"))
    weights = {f"{model.base_model_prefix}.{key}": tensor for key, tensor in stored.items()}
    weights["linear.weight"] = torch.randn(8, 16)
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    put(folder / "config.json", {**config, "architectures": ["HF_ColBERT"]})
    facts = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_maxlen": 16,
        "doc_maxlen": 32,
        "attend_to_mask_tokens": False,
        "mask_punctuation": True,
        "dim": 8,
        "nbits": 2,
    }
    put(folder / "artifact.metadata", {**facts, **settings})
    return model, tokenizer, weights["linear.weight"]


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def hidden(model: Any, ids: list[int], attend: list[int]) -> torch.Tensor:
    """(L, H) of one text, by plain transformers."""
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([ids]), attention_mask=torch.tensor([attend]))
    return out.last_hidden_state[0]
