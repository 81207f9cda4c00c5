"""TransformerText over tiny random backbones: markers, expansion, skiplist, invariance."""

from __future__ import annotations

import json
import string
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text import BACKBONES, bert, byte_level, llama, qwen2, roberta, wordpiece

from modalities import check_encoder, load_encoder
from modalities.text import TextConfig, TransformerText

TEXTS = [
    "the loss goes up after warm-up",
    "who wrote this?",
    "",
    "...",
    "budget, 2024: " + "a " * 100,
    "Größe \x00 \ud800 🦆 naïve",
]


def make(backbone: str = "bert", **options: Any) -> TransformerText:
    values = {"dim": 8, "query_length": 16, "document_length": 32, **options}
    torch.manual_seed(1)
    return TransformerText(*BACKBONES[backbone](), TextConfig(**values)).eval()


def ids_of(encoder: TransformerText, text: str, role: Any) -> list[str]:
    batch = encoder.prepare([text], role)
    return encoder.tokenizer.convert_ids_to_tokens(batch.inputs["ids"][0].tolist())


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("role", ["query", "document"])
def test_contract(backbone: str, role: Any) -> None:
    check_encoder(make(backbone), TEXTS, role=role)


@pytest.mark.parametrize("backbone", ["bert", "qwen2"])
@pytest.mark.parametrize(
    "options",
    [
        {"attend_to_expansion": True},
        {"query_expansion": False},
        {"query_marker": None, "document_marker": None},
        {"query_prompt": "search: ", "document_prompt": "text: ", "skiplist": ()},
        {
            "expansion_length": 9,
            "expand_left": True,
            "attend_to_expansion": True,
            "marker_place": 1,
            "skiplist_roles": ("query", "document"),
            "strip": True,
            "pooling": "lasttoken",
        },
        {
            "keep_only": ("a", "."),
            "dense": (
                {"in_features": 16, "out_features": 12, "bias": True, "activation": "GELU"},
                {"in_features": 12, "out_features": 8, "residual": True},
            ),
            "query_prompt": "up ",
            "pooling": "mean",
            "pool_prompt": False,
        },
        {"dim": 16, "dense": (), "pooling": "max", "pooled_dense": False},
    ],
)
def test_contract_with_options(backbone: str, options: dict[str, Any]) -> None:
    encoder = make(backbone, **options)
    check_encoder(encoder, TEXTS[:4], role="query")
    check_encoder(encoder, TEXTS[:4], role="document")


def test_marker_after_cls_and_expansion_with_mask() -> None:
    encoder = make()
    assert ids_of(encoder, "who wrote this", "query") == [
        *("[CLS]", "[Q] ", "who", "wrote", "this", "[SEP]"),
        *["[MASK]"] * 10,
    ]
    assert ids_of(encoder, "who wrote this", "document") == [
        *("[CLS]", "[D] ", "who", "wrote", "this", "[SEP]"),
    ]
    assert ids_of(make(query_expansion=False), "who", "query") == ["[CLS]", "[Q] ", "who", "[SEP]"]


def test_marker_after_bos_or_at_the_start_and_expansion_with_eos() -> None:
    assert ids_of(make("llama"), "loss", "query")[:4] == ["<s>", "[Q] ", "loss", "</s>"]
    assert ids_of(make("qwen2"), "loss", "query")[:3] == ["[Q] ", "loss", "</s>"]
    assert ids_of(make("roberta"), "loss", "query")[:4] == ["<s>", "[Q] ", "loss", "<mask>"]
    chosen = make("roberta", expansion_token="<pad>")
    assert ids_of(chosen, "loss", "query")[3] == "<pad>"


def test_marker_that_the_vocabulary_has_adds_nothing() -> None:
    backbone, tokenizer = bert()
    rows = backbone.get_input_embeddings().num_embeddings
    config = TextConfig(dim=8, document_length=32, query_marker="[UNK]", document_marker=None)
    encoder = TransformerText(backbone, tokenizer, config)
    assert encoder.backbone.get_input_embeddings().num_embeddings == rows
    assert ids_of(encoder, "who", "query")[1] == "[UNK]"
    assert ids_of(encoder, "who", "document") == ["[CLS]", "who", "[SEP]"]


def test_a_text_cannot_spell_a_marker_by_letter_case_alone() -> None:
    """Marker entries are matched exactly, not through the tokenizer's lower casing."""
    assert "[D] " not in ids_of(make(), "[d] loss", "document")[2:]


def test_truncation_keeps_the_closing_special_token() -> None:
    encoder = make()
    for role, length in (("query", 16), ("document", 32)):
        tokens = ids_of(encoder, "loss " * 500, role)
        assert len(tokens) == length
        assert tokens[-1] == "[SEP]"
        assert encoder.cost(["loss " * 500], role) == [length]  # type: ignore[arg-type]


def test_prompts_precede_the_text() -> None:
    encoder = make(query_prompt="who wrote ", document_prompt="budget ")
    assert ids_of(encoder, "this", "query")[2:5] == ["who", "wrote", "this"]
    assert ids_of(encoder, "this", "document")[2:4] == ["budget", "this"]


def test_skiplist_drops_document_tokens_and_closes_the_gap() -> None:
    plain, skipping = make(skiplist=()), make()
    skipping.load_state_dict(plain.state_dict())
    text = "who, wrote (this)?"
    labels = ["[CLS]", "[D] ", "who", "wrote", "this", "[SEP]"]
    assert skipping.labels(text, "document") == labels
    everything = plain.labels(text, "document")
    with torch.inference_mode():
        all_tokens = plain(plain.prepare([text], "document")).tokens[0]
        kept = skipping(skipping.prepare([text], "document"))
    # the backbone reads the punctuation: what stays is the same as without a skiplist
    stay = [i for i, label in enumerate(everything) if label not in string.punctuation]
    assert kept.shape == ((1, 6),)
    torch.testing.assert_close(kept.tokens[0], all_tokens[stay])
    assert "," in skipping.labels(text, "query"), "queries keep everything"


def test_nothing_but_skipped_tokens_stays_whole() -> None:
    encoder = make("qwen2", document_marker=None)
    assert encoder.labels("...", "document") == [".", ".", "."]
    assert encoder.labels("a...", "document") == ["a"]


def test_empty_text_without_special_tokens_has_one_token() -> None:
    encoder = make("qwen2", document_marker=None)
    assert encoder.labels("", "document") == ["</s>"]


def test_attention_to_expansion() -> None:
    """Unattended, expansion tokens change nothing before them; attended, they do."""
    results = {}
    for attend in (False, True):
        encoder = make(attend_to_expansion=attend)
        bare = make(query_expansion=False)
        bare.load_state_dict(encoder.state_dict())
        with torch.inference_mode():
            grid = encoder(encoder.prepare(["who wrote this"], "query"))
            short = bare(bare.prepare(["who wrote this"], "query"))
        assert grid.shape == ((1, 16),)
        results[attend] = float((grid.tokens[:, :6] - short.tokens).abs().max())
    assert results[False] < 1e-6
    assert results[True] > 1e-4


def test_batch_pads_to_its_longest_text_at_the_right() -> None:
    encoder = make(skiplist=())
    batch = encoder.prepare(["who", "who wrote this"], "document")
    assert batch.inputs["ids"].shape == (2, 6)
    assert batch.inputs["attend"].tolist() == [[True] * 4 + [False] * 2, [True] * 6]
    assert batch.shape == ((1, 4), (1, 6))


def test_labels_are_plain_words() -> None:
    assert make().labels("warmup [MASK]", "document") == [
        *("[CLS]", "[D] ", "warm", "up", "[MASK]", "[SEP]"),
    ]
    assert make("llama").labels("up loss", "document") == ["<s>", "[D] ", "up", "loss"]
    assert make("qwen2").labels("##", "document")[1:] == [], "punctuation is skipped"
    assert make("qwen2", skiplist=()).labels("##", "document")[1:] == ["#", "#"]


def test_hostile_text_gives_a_defined_result() -> None:
    encoder = make()
    start = time.perf_counter()
    megabyte = ["x" * 1_000_000, "loss " * 200_000, " " * 1_000_000, "\x00" * 1_000_000]
    grid = encoder(encoder.prepare(megabyte, "document"))
    grid.verify()
    assert max(cols for _, cols in grid.shape) <= 32
    assert time.perf_counter() - start < 5
    # a lone surrogate is read as U+FFFD, a split pair as the character it spells
    other = make("qwen2")
    assert ids_of(other, "\ud83e\udd86", "document") == ids_of(other, "🦆", "document")
    assert ids_of(other, "a\ud800b", "document") == ids_of(other, "a�b", "document")


@pytest.mark.parametrize("items", [[None], ["a", 3], [b"bytes"], "one text"])
def test_other_items_are_refused(items: Any) -> None:
    with pytest.raises(TypeError, match=r"not str|sequence of str"):
        make().prepare(items, "query")


def test_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="passage"):
        make().prepare(["a"], "passage")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_length": 3}, "no room"),
        ({"document_length": 65}, "more than the backbone reads: 64"),
        ({"document_length": 0}, "document_length must be"),
        ({"dim": 0}, "dim must be"),
        ({"skiplist": ".,"}, "not one string"),
        ({"dtype": "float31"}, "unknown dtype"),
        ({"expansion_token": "[NOPE]"}, "not in the vocabulary"),
    ],
)
def test_impossible_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_roberta_positions_begin_after_padding() -> None:
    """Of 42 positions two are taken by the padding index: 40 tokens fit, and are read."""
    check_encoder(make("roberta", document_length=40), ["x" * 90, "loss"])
    with pytest.raises(ValueError, match="reads: 40"):
        make("roberta", document_length=41)


def test_tokenizer_without_anything_to_expand_with() -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="give expansion_token"):
        TransformerText(qwen2()[0], tokenizer, TextConfig(query_length=8, document_length=8))


def test_from_pretrained_reads_a_folder(tmp_path: Path) -> None:
    backbone, tokenizer = bert()
    backbone.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = TransformerText.from_pretrained(tmp_path, dim=4, document_length=20)
    assert (encoder.dim, encoder.settings.document_length, encoder.training) == (4, 20, False)
    stored = backbone.state_dict()["embeddings.word_embeddings.weight"]
    own = encoder.backbone.get_input_embeddings().weight
    assert torch.equal(own[: len(stored)], stored)
    assert len(own) == len(stored) + 2, "one row for each marker"
    with pytest.raises(ValueError, match=r"did you mean .*document_length"):
        TransformerText.from_pretrained(tmp_path, document_lenght=20)


def test_saved_weights_keep_their_dtype(tmp_path: Path) -> None:
    encoder = make("llama").to(torch.bfloat16)
    encoder.save(tmp_path)
    again = load_encoder(tmp_path)
    assert again.dtype == torch.bfloat16
    assert again(again.prepare(["loss"], "query")).tokens.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["backbone/config.json", "tokenizer/tokenizer_config.json"])
def test_saved_folder_must_be_whole(tmp_path: Path, name: str) -> None:
    make().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        load_encoder(tmp_path)


def test_weights_of_another_width_do_not_fit(tmp_path: Path) -> None:
    make().save(tmp_path)
    facts = json.loads((tmp_path / "encoder.json").read_text())
    facts["config"]["dim"] = 9
    (tmp_path / "encoder.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="does not fit 'transformer-text'"):
        load_encoder(tmp_path)


def test_every_parameter_is_trained() -> None:
    for backbone in (bert, llama, roberta):
        torch.manual_seed(0)
        config = TextConfig(dim=8, query_length=16, document_length=32)
        encoder = TransformerText(*backbone(), config).train()
        encoder(encoder.prepare(["who wrote this?"], "query")).tokens.sum().backward()
        idle = [name for name, p in encoder.named_parameters() if p.grad is None]
        assert idle == []


def test_special_tokens_are_not_told_by_the_padding_id() -> None:
    """A text that spells the padding token has it as a token like any other."""
    encoder = make()
    assert encoder.labels("who [PAD] wrote", "document")[2:5] == ["who", "[PAD]", "wrote"]
    assert (
        wordpiece().pad_token_id == encoder.prepare(["a", "a a"], "document").inputs["ids"][0, -1]
    )


def test_expansion_to_a_length_of_its_own_and_before_the_query() -> None:
    encoder = make(expansion_length=7)
    assert ids_of(encoder, "who", "query") == [*("[CLS]", "[Q] ", "who", "[SEP]"), *["[MASK]"] * 3]
    assert len(ids_of(encoder, "who wrote this " * 9, "query")) == 16, "cut at query_length only"
    left = make(expansion_length=6, expand_left=True, marker_place=1)
    # as PyLate does: padded first, then the marker goes second
    assert ids_of(left, "who", "query") == [
        *("[MASK]", "[Q] ", "[MASK]", "[CLS]", "who", "[SEP]"),
    ]


def test_a_marker_in_the_second_place_whatever_is_first() -> None:
    encoder = make("qwen2", marker_place=1, query_expansion=False)
    assert ids_of(encoder, "loss up", "query")[:2] == ["loss", "[Q] "]
    assert ids_of(encoder, "", "query") == ["[Q] "]


def test_white_space_is_taken_off_prompt_and_text() -> None:
    options = {"query_prompt": " up ", "query_marker": None, "query_expansion": False}
    assert ids_of(make("qwen2", strip=True, **options), "  ", "query") == ["up"]
    assert ids_of(make("qwen2", **options), "", "query")[-1] == "Ġ"


@pytest.mark.parametrize(
    "options,match",
    [
        ({"expansion_length": 17}, "expansion_length must be 1 to query_length"),
        ({"marker_place": 2}, "marker_place"),
        ({"skiplist_roles": ("page",)}, "skiplist_roles must be of"),
        ({"pooling": "best"}, "unknown pooling"),
        ({"dense": ()}, "the dense layers end in 16"),
        ({"dense": ({"in_features": 9, "out_features": 8},)}, "dense layer 0 wants width 9"),
        ({"dense": ({"in_features": 16, "out_features": 8, "activation": "Exec"},)}, "activation"),
        ({"pooling": "cls", "pooled_dense": False}, "pooled vector has width 16, tokens 8"),
    ],
)
def test_settings_that_do_not_fit(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make(**options)
