"""Tiny transformers backbones and tokenizers with random weights, made on the spot: no hub."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
)

WORDS = [
    *("the", "loss", "goes", "up", "after", "warm", "##up", "##ing", "learn", "rate", "a", "of"),
    *("budget", "2024", "who", "wrote", "this"),
]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MERGES = [("l", "o"), ("s", "s"), ("lo", "ss"), ("Ġ", "loss"), ("u", "p"), ("Ġ", "up")]


def wordpiece(signs: str = ".,!?#'()-") -> PreTrainedTokenizerFast:
    """BERT's: lower case, [CLS] and [SEP], punctuation and letters besides a few words."""
    letters = [*"abcdefghijklmnopqrstuvwxyz", *signs]
    entries = dict.fromkeys(SPECIALS + WORDS + letters + [f"##{c}" for c in letters[:26]])
    vocabulary = {word: i for i, word in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def byte_level(*, bos: bool = False, mask: bool = False, pad: bool = False) -> Any:
    """As decoders have it: bytes and a few merges, and only the special tokens asked for."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = ["<s>", "<pad>", "</s>", "<mask>", *alphabet, *("".join(pair) for pair in MERGES)]
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "</s>"}
    if bos:
        special["bos_token"] = "<s>"
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
        )
    if mask:
        special["mask_token"] = "<mask>"
    if pad:
        special["pad_token"] = "<pad>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def bert() -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = wordpiece()
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **SIZES)
    return BertModel(config), tokenizer


def roberta() -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = byte_level(bos=True, mask=True, pad=True)
    config = RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=42, pad_token_id=1, **SIZES
    )
    return RobertaModel(config), tokenizer


def qwen2() -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = byte_level()
    config = Qwen2Config(
        vocab_size=len(tokenizer), max_position_embeddings=64, num_key_value_heads=1, **SIZES
    )
    return Qwen2Model(config), tokenizer


def llama() -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = byte_level(bos=True, pad=True)
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=64, num_key_value_heads=2, **SIZES
    )
    return LlamaModel(config), tokenizer


def t5() -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = byte_level(pad=True)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2
    )
    return T5EncoderModel(config), tokenizer


BACKBONES = {"bert": bert, "roberta": roberta, "qwen2": qwen2, "llama": llama, "t5": t5}
