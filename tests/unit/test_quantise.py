"""Encoders in 8-bit integers: smaller, about the same tokens, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_text import wordpiece
from transformers import BertConfig, BertModel

from lateint.model import LateInteractionModel, load
from lateint.onnx import export
from modalities.text import TransformerText
from modalities.text_config import TextConfig

for needed in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(needed, reason="pip install 'lateint[onnx]'")

TEXTS = ["the loss goes up after warm-up", "who wrote this?", "", "budget, 2024: " + "a " * 40]


def test_a_model_in_eight_bits(tmp_path: Path) -> None:
    torch.manual_seed(3)
    words = wordpiece()
    form = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=64,
    )
    text = TransformerText(BertModel(form), words, TextConfig(dim=32, document_length=48)).eval()
    original = LateInteractionModel({"text": text}).eval()
    exact = export(original, tmp_path / "exact")
    small = export(original, tmp_path / "small", int8=True)
    size = {n: (tmp_path / n / "text" / "model.onnx").stat().st_size for n in ("exact", "small")}
    assert size["small"] < 0.5 * size["exact"]
    wanted = original.encode_documents(TEXTS)
    got = small.encode_documents(TEXTS)
    assert torch.equal(got.offsets, wanted.offsets)
    cosine = (got.values * wanted.values).sum(1)
    assert float(cosine.min()) > 0.97 and not torch.equal(got.values, wanted.values)
    again = load(tmp_path / "small")
    assert torch.equal(again.encode_documents(TEXTS).values, got.values)
    assert exact.encoder("text").config()["int8"] is False
    assert again.encoder("text").config()["int8"] is True
