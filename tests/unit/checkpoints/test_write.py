"""Writers: what is written opens here again with the same tokens; what cannot be told is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import BACKBONES, DOCUMENTS, QUERIES, pylate
from toy_model import toy_model

import lateint
from lateint.checkpoints import save
from lateint.config import ConfigError
from lateint.heads import MultiVectorConfig, MultiVectorHead
from lateint.model import LateInteractionModel
from modalities.text import TextConfig, TransformerText


def make(backbone: str = "bert", heads: Any = ("multi", "single"), **options: Any) -> Any:
    values = {"dim": 8, "query_length": 16, "document_length": 32, **options}
    torch.manual_seed(0)
    encoder = TransformerText(*BACKBONES[backbone](), TextConfig(**values))
    return LateInteractionModel({"text": encoder}, heads).eval()


def same(one: LateInteractionModel, two: LateInteractionModel, head: str = "multi") -> None:
    for role, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        a, b = (m.encode(texts, role, head=head).tokens for m in (one, two))  # type: ignore[arg-type]
        assert torch.equal(a.offsets, b.offsets)
        torch.testing.assert_close(a.values, b.values, rtol=0, atol=1e-6)


FOLDERS = ("pylate", "sentence-transformers", "stanford")


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("attend", [True, False])
def test_round_trip(tmp_path: Path, layout: str, attend: bool) -> None:
    model = make(attend_to_expansion=attend)
    save(model, tmp_path / "m", layout)
    assert lateint.checkpoints.sniff(tmp_path / "m").name == layout
    same(model, lateint.load(tmp_path / "m"))


@pytest.mark.parametrize("layout", FOLDERS[:2])
@pytest.mark.parametrize(
    "options",
    [
        {"query_marker": None, "document_marker": None, "query_expansion": False, "skiplist": ()},
        {"query_prompt": "who ", "document_prompt": "the "},
        {
            "dense": (
                {"in_features": 16, "out_features": 12, "bias": True, "activation": "GELU"},
                {"in_features": 12, "out_features": 8, "residual": True},
            )
        },
        {"dense": (), "dim": 16},
    ],
)
def test_round_trip_of_options(tmp_path: Path, layout: str, options: dict[str, Any]) -> None:
    model = make(**options)
    save(model, tmp_path / "m", layout)
    same(model, lateint.load(tmp_path / "m"))


@pytest.mark.parametrize("backbone", ["xlmr", "lfm2", "modernbert"])
def test_round_trip_of_backbones(tmp_path: Path, backbone: str) -> None:
    model = make(backbone)
    for layout in FOLDERS[:2]:
        save(model, tmp_path / layout, layout)
        same(model, lateint.load(tmp_path / layout))


def test_what_only_sentence_transformers_has(tmp_path: Path) -> None:
    model = make(
        expansion_length=10,
        skiplist=(".", "a"),
        skiplist_roles=("query", "document"),
        expansion_token="[SEP]",
    )
    save(model, tmp_path / "m", "sentence-transformers")
    same(model, lateint.load(tmp_path / "m"))
    with pytest.raises(ConfigError) as raised:
        save(model, tmp_path / "p", "pylate")
    for part in ("expansion to 10 of 16", "'[SEP]'", "skiplist for queries"):
        assert part in str(raised.value)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("way", ["cls", "mean", "lasttoken"])
def test_single_vector_models(tmp_path: Path, way: str) -> None:
    plain = {"query_marker": None, "document_marker": None, "query_expansion": False}
    model = make(heads=("single",), pooling=way, skiplist=(), **plain)
    save(model, tmp_path / "m", "sentence-transformers")
    assert lateint.checkpoints.sniff(tmp_path / "m").name == "sentence-transformers-single"
    same(model, lateint.load(tmp_path / "m"), "single")
    with pytest.raises(ConfigError, match=r"TextConfig\.pooling is None"):
        save(make(heads=("single",), **plain), tmp_path / "n", "sentence-transformers")


@pytest.mark.parametrize(
    "options,named",
    [
        ({"query_prompt": "who "}, "prompts"),
        ({"query_expansion": False}, "queries without expansion"),
        ({"document_marker": None}, "texts without markers"),
        ({"skiplist": (".",)}, "a skiplist other than all punctuation"),
        ({"dense": (), "dim": 16}, "dense layers other than one matrix"),
        ({"keep_only": ("a",)}, "keep_only"),
        ({"expansion_token": "[SEP]"}, "another token than the mask"),
        ({"expand_left": True}, "expansion before the query"),
    ],
)
def test_stanford_names_what_it_cannot_express(
    tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=f"'stanford' cannot express: .*{named}"):
        save(make(**options), tmp_path / "m", "stanford")
    assert not (tmp_path / "m").exists()


def test_a_marker_that_a_prompt_cannot_spell(tmp_path: Path) -> None:
    """PyLate puts it behind the first token even where that is a word; a prompt stands before it."""
    pylate(tmp_path / "m", "qwen3", skiplist_words=[])
    model = lateint.load(tmp_path / "m")
    with pytest.raises(ConfigError, match="marker and prompt"):
        save(model, tmp_path / "n", "sentence-transformers")
    assert not (tmp_path / "n").exists()
    save(model, tmp_path / "p", "pylate")
    same(model, lateint.load(tmp_path / "p"))
    with pytest.raises(ConfigError, match="a marker at the start"):
        save(make("qwen3"), tmp_path / "q", "pylate")


@pytest.mark.parametrize("layout", FOLDERS)
def test_models_that_are_no_text_model(tmp_path: Path, layout: str) -> None:
    with pytest.raises(ConfigError, match="holds one transformers text encoder"):
        save(toy_model(), tmp_path / "m", layout)
    head = MultiVectorHead(MultiVectorConfig(dim=4))
    with pytest.raises(ConfigError, match="unit rows of the whole width"):
        save(make(heads={"multi": head}), tmp_path / "m", layout)
