"""sentence-transformers' checkpoints: what has no counterpart here is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import DOCUMENTS, QUERIES, backbone, modules, multi, put

import lateint
from lateint.config import ConfigError

POOLING = "HierarchicalTokenPooling"


def test_token_pooling_is_the_index_s(tmp_path: Path) -> None:
    multi(tmp_path / "plain", "bert")
    multi(tmp_path / "one", "bert", (POOLING, {"pool_factor": 1.0}))
    multi(tmp_path / "two", "bert", (POOLING, {"pool_factor": 2.0}))
    with pytest.raises(ConfigError, match=r"drop=.*pool_factor=2\.0 to Index\.create"):
        lateint.load(tmp_path / "two")
    plain = lateint.load(tmp_path / "plain").encode_documents(DOCUMENTS)
    one = lateint.load(tmp_path / "one").encode_documents(DOCUMENTS)
    two = lateint.load(tmp_path / "two", drop=(POOLING,)).encode_documents(DOCUMENTS)
    for other in (one, two):
        assert torch.equal(plain.offsets, other.offsets)


@pytest.mark.parametrize(
    "more,settings,match",
    [
        ([("Router", {})], {}, "'Router' has no counterpart"),
        ([("Dense", {})], {}, "wanted Dense modules, then one"),
        ([("MultiVectorMask", {})], {}, "wanted Dense modules, then one"),
        ([], {"transformer_task": "text-generation"}, "feature-extraction"),
        ([], {"processing_kwargs": {"text": {"max_length": 3}}}, "processing_kwargs"),
        ([], {"modality_config": {"message": {}}}, "plain text"),
        ([], {"query_expansion": {"strategy": "most", "length": 3}}, "strategy fixed or min"),
        ([], {"query_expansion": {"strategy": "min"}}, "strategy fixed or min"),
        ([], {"query_expansion": {"strategy": "min", "lenght": 3}}, "did you mean 'length'"),
        ([], {"query_expansion": [1]}, "must be an object"),
        ([], {"query_length": "20"}, "lengths must be numbers"),
        ([], {"max_seq_length": -2}, "max_seq_length"),
        (
            [],
            {"query_expansion": {"strategy": "fixed", "length": 9, "token": "none such"}},
            "not in the vocabulary",
        ),
    ],
)
def test_what_has_no_counterpart(
    tmp_path: Path, more: Any, settings: dict[str, Any], match: str
) -> None:
    multi(tmp_path, "bert", *more, **settings)
    with pytest.raises(ConfigError, match=match):
        lateint.load(tmp_path)


def test_tokens_must_be_normalised(tmp_path: Path) -> None:
    multi(tmp_path, "bert")
    put(tmp_path / "4_Normalize" / "config.json", {"module_input_name": "sentence_embedding"})
    with pytest.raises(ConfigError, match="tokens must be normalised"):
        lateint.load(tmp_path)


def test_keep_only(tmp_path: Path) -> None:
    """Documents keep these entries alone, queries everything."""
    _, tokenizer, _ = multi(tmp_path, "bert", query_expansion=None)
    ids = tokenizer.convert_tokens_to_ids(["loss", "[CLS]"])
    mask = {"skiplist_words": [], "keep_only_token_ids": ids}
    put(tmp_path / "3_MultiVectorMask" / "config.json", mask)
    encoder = lateint.load(tmp_path).encoder("text")
    assert encoder.labels("the loss of loss", "document") == ["[CLS]", "loss", "loss"]
    assert len(encoder.labels("the loss", "query")) > 3
    put(
        tmp_path / "3_MultiVectorMask" / "config.json",
        {"skiplist_words": [], "keep_only_token_ids": [10**9]},
    )
    with pytest.raises(ConfigError, match="keep_only_token_ids must be ids below"):
        lateint.load(tmp_path)


def test_lower_case(tmp_path: Path) -> None:
    """`do_lower_case` on a tokenizer that keeps case; the special entries stay as they are."""
    multi(tmp_path, "modernbert", do_lower_case=True)
    model = lateint.load(tmp_path)
    one, two = model.encode_documents(["WHO [MASK] WROTE", "who [MASK] wrote"])
    assert torch.equal(one, two)
    assert "[unused0]" in model.query_labels("WHO")
    model.save(tmp_path / "again")
    again = lateint.load(tmp_path / "again").encode_queries(["WHO"])
    assert torch.equal(again.values, model.encode_queries(["who"]).values)


def single(folder: Path, pooling: dict[str, Any], *more: tuple[str, str], **facts: Any) -> None:
    backbone(folder, "bert")
    put(folder / "1_Pooling" / "config.json", pooling)
    base = "sentence_transformers.models"
    modules(folder, [(f"{base}.Transformer", ""), (f"{base}.Pooling", "1_Pooling"), *more])
    put(folder / "config_sentence_transformers.json", facts)


@pytest.mark.parametrize(
    "pooling,more,facts,match",
    [
        ({"pooling_mode": ["cls", "mean"]}, [], {}, "pooling .*cls.*mean.* is not one of"),
        ({"pooling_mode": "best"}, [], {}, "'best' is not one of"),
        ({}, [("a.LSTM", "2_LSTM")], {}, "wanted Pooling, then Dense"),
        ({}, [("a.Normalize", "2_N"), ("a.Dense", "3_Dense")], {}, "wanted Pooling, then Dense"),
        ({}, [], {"similarity_fn_name": "dot"}, "vectors have length one"),
    ],
)
def test_single_vector_models_without_counterpart(
    tmp_path: Path, pooling: Any, more: Any, facts: Any, match: str
) -> None:
    single(tmp_path, pooling, *more, **facts)
    with pytest.raises(ConfigError, match=match):
        lateint.load(tmp_path)


def test_flags_of_older_releases(tmp_path: Path) -> None:
    single(tmp_path / "old", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    single(tmp_path / "new", {"pooling_mode": "cls"})
    old, new = (
        lateint.load(tmp_path / n).encode_queries(QUERIES, head="single") for n in ("old", "new")
    )
    assert torch.equal(old.values, new.values)


def test_a_prompt_left_out_of_the_mean(tmp_path: Path) -> None:
    prompts = {"query": "who wrote ", "document": ""}
    single(tmp_path / "out", {"include_prompt": False}, prompts=prompts)
    single(tmp_path / "in", {}, prompts=prompts)
    without, within = (lateint.load(tmp_path / n) for n in ("out", "in"))
    encoder = without.encoder("text")
    batch = encoder.prepare(["loss"], "query")
    # [CLS] and the prompt's two words out, the text and [SEP] in
    assert batch.inputs["pool"][0].tolist() == [False, False, False, True, True]
    one, two = (m.encode_queries(["loss"], head="single").values for m in (without, within))
    assert not torch.allclose(one, two)
    one, two = (m.encode_documents(["loss"], head="single").values for m in (without, within))
    assert torch.equal(one, two)
