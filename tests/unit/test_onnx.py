"""Text encoders as ONNX: the same tokens through onnxruntime, in a model that loads like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_text import bert, qwen2, wordpiece
from transformers import BertConfig, BertModel

from lateint.heads import make_head
from lateint.model import LateInteractionModel, load
from lateint.onnx import export
from modalities import check_encoder, load_encoder
from modalities.onnx import OnnxText, quantise
from modalities.text import TransformerText
from modalities.text_config import TextConfig

for needed in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(needed, reason="pip install 'lateint[onnx]'")

TEXTS = [
    "the loss goes up after warm-up",
    "who wrote this?",
    "",
    "...",
    "budget, 2024: " + "a " * 100,
    "Größe \x00 naïve",
]


def wide_bert() -> tuple[Any, Any]:
    """Wide enough that its weights are most of the file."""
    words = wordpiece()
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    form = BertConfig(
        vocab_size=len(words), intermediate_size=256, max_position_embeddings=64, **sizes
    )
    return BertModel(form), words


def model(backbone: Callable[[], Any] = wide_bert, **options: Any) -> LateInteractionModel:
    torch.manual_seed(1)
    values = {"dim": 8, "query_length": 16, "document_length": 32, **options}
    text = TransformerText(*backbone(), TextConfig(**values)).eval()
    heads = {"multi": make_head("multi", {"queries": "weighted"}), "single": make_head("single")}
    return LateInteractionModel({"text": text}, heads).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[LateInteractionModel, Path]:
    folder = tmp_path_factory.mktemp("onnx") / "model"
    original = model()
    export(original, folder)
    return original, folder


def test_the_same_tokens_from_a_folder(exported: tuple[LateInteractionModel, Path]) -> None:
    original, folder = exported
    again = load(folder)
    assert again.encoder("text").name == "onnx-text"
    for head in ("multi", "single"):
        for role in ("query", "document"):
            wanted = original.encode(TEXTS, role, head=head).tokens
            got = again.encode(TEXTS, role, head=head).tokens
            assert torch.equal(got.offsets, wanted.offsets)
            assert float((got.values - wanted.values).abs().max()) <= 1e-4
    assert again.query_labels("who wrote") == original.query_labels("who wrote")


@pytest.mark.parametrize("role", ["query", "document"])
def test_contract(exported: tuple[LateInteractionModel, Path], role: Any) -> None:
    check_encoder(load(exported[1]).encoder("text"), TEXTS, role=role)


def test_the_graph_alone_gives_unit_rows_and_what_stays_of_a_document(
    exported: tuple[LateInteractionModel, Path],
) -> None:
    import onnxruntime

    original, folder = exported
    assert b".py" not in (folder / "text" / "model.onnx").read_bytes()  # no traces of this machine
    session = onnxruntime.InferenceSession(
        str(folder / "text" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    batch = original.encoder("text").prepare(TEXTS, "document")
    ids, attend = batch.inputs["ids"].numpy(), batch.inputs["attend"].numpy()
    tokens, norms, stays = session.run(
        ["tokens", "norms", "document_mask"],
        {"input_ids": ids, "attention_mask": attend.astype(np.int64)},
    )
    np.testing.assert_allclose(np.linalg.norm(tokens[attend], axis=1), 1, atol=1e-5)
    wanted = original.encode_documents(TEXTS)
    np.testing.assert_allclose(tokens[stays], wanted.values.numpy(), atol=1e-4)
    assert stays.sum(1).tolist() == wanted.lengths.tolist()
    grid = original.grid(TEXTS, "document")
    np.testing.assert_allclose(
        norms[stays], grid.tokens[grid.mask].detach().norm(dim=1).numpy(), atol=1e-4
    )


def test_eight_bits_are_smaller_and_nearly_the_same(
    exported: tuple[LateInteractionModel, Path], tmp_path: Path
) -> None:
    original, folder = exported
    whole = load(folder).encoder("text")
    assert isinstance(whole, OnnxText) and whole.config()["int8"] is False
    made = quantise(whole, tmp_path / "int8.onnx")
    assert made.graph.stat().st_size < 0.5 * whole.graph.stat().st_size
    heads = {kind: original.head(kind) for kind in original.heads}
    LateInteractionModel({"text": made}, heads).save(tmp_path / "small")
    small = load(tmp_path / "small")
    assert small.encoder("text").config()["int8"] is True
    wanted, got = original.encode_documents(TEXTS), small.encode_documents(TEXTS)
    assert torch.equal(got.offsets, wanted.offsets)
    assert float((got.values * wanted.values).sum(1).min()) > 0.97
    assert not torch.equal(got.values, wanted.values)
    again = LateInteractionModel({"text": made}, heads).encode_documents(TEXTS)
    assert torch.equal(again.values, got.values)


@pytest.mark.slow
def test_a_decoder_with_a_pooled_vector(tmp_path: Path) -> None:
    original = model(qwen2, pooling="lasttoken", query_expansion=False, keep_only=("loss", "up"))
    again = export(original, tmp_path / "m")
    assert export(original, tmp_path / "m8", int8=True).encoder("text").config()["int8"] is True
    for head in ("multi", "single"):
        wanted = original.encode_documents(TEXTS[:3], head=head)
        got = again.encode_documents(TEXTS[:3], head=head)
        torch.testing.assert_close(got.values, wanted.values, atol=1e-4, rtol=0)


def test_another_graph_in_its_place_is_refused(
    exported: tuple[LateInteractionModel, Path], tmp_path: Path
) -> None:
    encoder = load(exported[1]).encoder("text")
    encoder.save(tmp_path / "e")
    graph = tmp_path / "e" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\x00")
    with pytest.raises(ValueError, match=r"digest differs|cannot be run"):
        load_encoder(tmp_path / "e")
    graph.write_bytes(b"no graph")
    with pytest.raises(ValueError, match="cannot be run"):
        load_encoder(tmp_path / "e")
    graph.unlink()
    with pytest.raises(ValueError, match="is missing"):
        load_encoder(tmp_path / "e")


def test_what_cannot_be_exported(shipped: LateInteractionModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only 'transformer-text'"):
        export(shipped, tmp_path / "m")
    prompted = TransformerText(
        *bert(), TextConfig(dim=16, document_length=32, pooling="cls", pool_prompt=False)
    )
    with pytest.raises(ValueError, match="pool_prompt"):
        export(LateInteractionModel({"text": prompted}), tmp_path / "m")
