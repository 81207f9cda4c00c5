"""Text checkpoints against plain transformers, format by format: the reference reads the files and
the formats' own rules, not our code. The libraries themselves: test_text_peers.py."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import (
    DOCUMENTS,
    QUERIES,
    backbone,
    dense,
    hidden,
    modules,
    multi,
    put,
    pylate,
    stanford,
    unit,
)

import lateint
from lateint.model import LateInteractionModel

TOLERANCE = 1e-5


def compare(
    model: LateInteractionModel, expected: dict[str, list[torch.Tensor]], head: str = "multi"
) -> None:
    """expected: role -> rows of QUERIES or DOCUMENTS."""
    for role, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        found = model.encode(texts, role, head=head).tokens  # type: ignore[arg-type]
        for text, a, b in zip(texts, found, expected[role], strict=True):
            assert a.shape == b.shape, (role, text)
            torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)


def colbert_rows(
    model: Any,
    tokenizer: Any,
    weight: torch.Tensor,
    markers: dict[str, str],
    *,
    attend: bool = False,
    expand: bool = True,
    skipped: str = "",
) -> dict[str, list[torch.Tensor]]:
    """ColBERT's way: marker second, queries padded to 16 with masks, documents cut at 32."""
    skip = set(tokenizer.convert_tokens_to_ids(list(skipped)))
    expected: dict[str, list[torch.Tensor]] = {"query": [], "document": []}
    for role, texts, length in (("query", QUERIES, 16), ("document", DOCUMENTS, 32)):
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=length - 1)["input_ids"]
            ids = [*ids[:1], tokenizer.convert_tokens_to_ids(markers[role]), *ids[1:]]
            mask = [1] * len(ids)
            if role == "query" and expand:
                mask += [int(attend)] * (length - len(ids))
                ids = ids + [tokenizer.mask_token_id] * (length - len(ids))
            rows = unit(hidden(model, ids, mask) @ weight.T)
            keep = [role == "query" or i not in skip for i in ids]
            expected[role].append(rows[torch.tensor(keep)])
    return expected


MARKERS = {"query": "[unused0]", "document": "[unused1]"}


@pytest.mark.parametrize("name", ["bert", "modernbert"])
@pytest.mark.parametrize("attend,expand", [(False, True), (True, True), (False, False)])
def test_pylate(tmp_path: Path, name: str, attend: bool, expand: bool) -> None:
    model, tokenizer, weights = pylate(
        tmp_path, name, attend_to_expansion_tokens=attend, do_query_expansion=expand
    )
    expected = colbert_rows(
        model,
        tokenizer,
        weights["linear.weight"],
        MARKERS,
        attend=attend,
        expand=expand,
        skipped=".,!?",
    )
    compare(lateint.load(tmp_path), expected)


@pytest.mark.parametrize("name", ["bert", "xlmr"])
@pytest.mark.parametrize("punctuation", [True, False])
def test_stanford(tmp_path: Path, name: str, punctuation: bool) -> None:
    model, tokenizer, weight = stanford(tmp_path, name, mask_punctuation=punctuation)
    expected = colbert_rows(model, tokenizer, weight, MARKERS)
    if punctuation:
        pieces = [tokenizer(c, add_special_tokens=False)["input_ids"] for c in string.punctuation]
        signs = {ids[0] for ids in pieces}
        for i, text in enumerate(DOCUMENTS):
            ids = tokenizer(text, truncation=True, max_length=31)["input_ids"]
            stay = [n not in signs for n in (ids[0], -1, *ids[1:])]
            expected["document"][i] = expected["document"][i][torch.tensor(stay)]
        assert len(expected["document"][2]) < 7, "the text of punctuation alone lost some"
    compare(lateint.load(tmp_path), expected)


def test_sentence_transformers_prompts_min_expansion_and_layers(tmp_path: Path) -> None:
    model, tokenizer, (one, two) = multi(tmp_path, "modernbert")
    prompts = {"query": "[unused0] ", "document": "the "}
    expected: dict[str, list[torch.Tensor]] = {"query": [], "document": []}
    for role, texts, length in (("query", QUERIES, 20), ("document", DOCUMENTS, 32)):
        for text in texts:
            ids = tokenizer(prompts[role] + text, truncation=True, max_length=length)["input_ids"]
            if role == "query":
                ids = ids + [tokenizer.mask_token_id] * (10 - len(ids))
            x = hidden(model, ids, [1] * len(ids))
            x = torch.nn.functional.gelu(x @ one["linear.weight"].T + one["linear.bias"])
            x = unit(x @ two["linear.weight"].T + x @ two["residual.weight"].T)
            dot = tokenizer.convert_tokens_to_ids(".")
            expected[role].append(x[torch.tensor([i != dot for i in ids])])
    compare(lateint.load(tmp_path), expected)


POOLS: dict[str, Any] = {
    "cls": lambda x: x[0],
    "lasttoken": lambda x: x[-1],
    "mean": lambda x: x.mean(0),
    "max": lambda x: x.amax(0),
    "mean_sqrt_len_tokens": lambda x: x.sum(0) / len(x) ** 0.5,
    "weightedmean": lambda x: (
        (x * torch.arange(1, len(x) + 1)[:, None]).sum(0) / sum(range(1, len(x) + 1))
    ),
}


@pytest.mark.parametrize("way", POOLS)
@pytest.mark.parametrize("name", ["bert", "lfm2"])
def test_single_vector_models(tmp_path: Path, way: str, name: str) -> None:
    model, tokenizer = backbone(tmp_path, name)
    put(tmp_path / "1_Pooling" / "config.json", {"embedding_dimension": 16, "pooling_mode": way})
    weights = dense(
        tmp_path / "2_Dense",
        (16, 8),
        bias=True,
        activation_function="torch.nn.modules.activation.Tanh",
    )
    rows = [
        ("sentence_transformers.models.Transformer", ""),
        ("sentence_transformers.models.Pooling", "1_Pooling"),
        ("sentence_transformers.models.Dense", "2_Dense"),
        ("sentence_transformers.models.Normalize", "3_Normalize"),
    ]
    modules(tmp_path, rows)
    expected = {}
    for role, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        expected[role] = []
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=64)["input_ids"]
            if not ids:
                ids = [tokenizer.eos_token_id]
            x = POOLS[way](hidden(model, ids, [1] * len(ids)))
            x = torch.tanh(x @ weights["linear.weight"].T + weights["linear.bias"])
            expected[role].append(unit(x)[None])
    compare(lateint.load(tmp_path), expected, "single")


@pytest.mark.parametrize("name", ["xlmr", "bert"])
def test_bge_m3(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = backbone(tmp_path, name)
    torch.manual_seed(3)
    linear = torch.nn.Linear(16, 16)
    torch.save(linear.state_dict(), tmp_path / "colbert_linear.pt")
    torch.save(torch.nn.Linear(16, 1).state_dict(), tmp_path / "sparse_linear.pt")
    loaded = lateint.load(tmp_path)
    assert "sparse_linear.pt" in caplog.text
    multi: dict[str, list[torch.Tensor]] = {"query": [], "document": []}
    single: dict[str, list[torch.Tensor]] = {"query": [], "document": []}
    for role, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=64)
            x = hidden(model, ids["input_ids"], ids["attention_mask"])
            with torch.inference_mode():
                multi[role].append(unit(linear(x[1:])))
            single[role].append(unit(x[:1]))
    compare(loaded, multi)
    compare(loaded, single, "single")


def test_a_model_is_the_same_after_its_own_save(tmp_path: Path) -> None:
    """Every new field survives our own format."""
    for i, name in enumerate(("bert", "qwen3")):
        theirs = tmp_path / f"theirs{i}"
        pylate(theirs, name)
        model = lateint.load(theirs)
        model.save(tmp_path / f"ours{i}")
        again = lateint.load(tmp_path / f"ours{i}")
        for role, texts in (("query", QUERIES), ("document", DOCUMENTS)):
            one, two = (m.encode(texts, role).tokens for m in (model, again))  # type: ignore[arg-type]
            assert torch.equal(one.values, two.values)
            assert torch.equal(one.offsets, two.offsets)


def test_sharded_and_torch_weights(tmp_path: Path) -> None:
    """The backbone in several files, the Dense in a .bin: the same tokens."""
    model, _, weights = pylate(tmp_path / "one", "bert")
    before = lateint.load(tmp_path / "one").encode_documents(DOCUMENTS)
    pylate(tmp_path / "two", "bert")
    (tmp_path / "two" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "two", max_shard_size="4KB")
    assert (tmp_path / "two" / "model.safetensors.index.json").is_file()
    (tmp_path / "two" / "1_Dense" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "two" / "1_Dense" / "pytorch_model.bin")
    after = lateint.load(tmp_path / "two").encode_documents(DOCUMENTS)
    assert torch.equal(before.values, after.values)


def test_dtype_option(tmp_path: Path) -> None:
    pylate(tmp_path, "bert")
    model = lateint.load(tmp_path, dtype="bfloat16")
    assert model.encoder("text").dtype == torch.bfloat16
    assert model.encode_queries(["loss"]).values.dtype == torch.float32
    save_file({"x": torch.zeros(1)}, str(tmp_path / "other.safetensors"))  # other files are let be
    lateint.load(tmp_path)
