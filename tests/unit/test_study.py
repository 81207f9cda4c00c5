"""The study's own parts: its encoder against the one it wraps, manual pages out of roff, corpora of
pages and translations, its tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_text
import torch

from modalities.text import TextConfig, TransformerText

TEXTS = ["the loss goes up", "warm up, after the budget (2024)!", "who wrote this?", "a"]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    scripts = Path(__file__).resolve().parents[2] / "scripts"
    monkeypatch.syspath_prepend(str(scripts))
    import study_data
    import study_encoder

    before = set(sys.modules)
    yield study_data, study_encoder
    for name in ("study_data", "study_encoder", "token_data", *set(sys.modules) - before):
        if Path(getattr(sys.modules.get(name), "__file__", None) or "/").parent == scripts:
            sys.modules.pop(name)


def tiny() -> TransformerText:
    config = TextConfig(dim=8, query_length=12, document_length=24, query_expansion=False)
    torch.manual_seed(1)
    return TransformerText(*tiny_text.bert(), config).eval()


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("role", ["query", "document"])
def test_frozen_layers_change_nothing(study: Any, tmp_path: Path, frozen: int, role: Any) -> None:
    _, encoders = study
    plain = tiny()
    store = encoders.Store(tmp_path / "hidden", 16)
    split = encoders.UpperText(tiny(), frozen, store).eval()
    assert split.remember(TEXTS[:3], role) == 3
    assert split.remember(TEXTS[:3], role) == 0
    with torch.inference_mode():
        wanted = plain(plain.prepare(TEXTS, role))
        found = split(split.prepare(TEXTS, role))
        again = encoders.UpperText(tiny(), frozen, encoders.Store(tmp_path / "hidden", 16)).eval()
        reopened = again(again.prepare(TEXTS, role))
    assert torch.equal(found.mask, wanted.mask) and found.shape == wanted.shape
    assert torch.allclose(found.tokens, wanted.tokens, atol=5e-3)  # the store holds float16
    assert torch.equal(reopened.tokens, found.tokens)
    learned = {name.split(".")[0] for name, p in split.named_parameters() if p.requires_grad}
    assert learned == {"upper", "projection"}


def test_neighbours_change_nothing(study: Any, tmp_path: Path) -> None:
    _, encoders = study
    split = encoders.UpperText(tiny(), 1, encoders.Store(tmp_path / "hidden", 16)).eval()
    split.remember(TEXTS, "document")
    with torch.inference_mode():
        together = split(split.prepare(TEXTS, "document"))
        for i, text in enumerate(TEXTS):
            alone = split(split.prepare([text], "document"))
            rows = together.tokens[i, : alone.tokens.shape[1]]
            assert torch.allclose(alone.tokens[0], rows, atol=1e-5)
        assert len(split(split.prepare([], "document"))) == 0


MAN = r"""'\" t
.de Sp
.if t .sp .5v
..
.TH GREP 1
.SH NAME
grep, egrep \- print lines that match \fBpatterns\fP
.SH DESCRIPTION
.B grep
searches for
.IR PATTERNS
in each
.BR FILE .
.\" a comment
It\(cqs a \*(L"line\*(R" tool \(em fast\-ish.
.SH OPTIONS
none
"""

MDOC = r""".Dd January 1, 2020
.Dt TRUE 1
.Sh NAME
.Nm true
.Nd do nothing, successfully
.Sh DESCRIPTION
The
.Nm true
utility always returns.
"""


def test_roff_becomes_words(study: Any) -> None:
    data, _ = study
    assert data.plain_sections(MAN) == {
        "NAME": "grep, egrep - print lines that match patterns",
        "DESCRIPTION": 'grep searches for PATTERNS in each FILE. It\'s a "line" tool - fast-ish.',
        "OPTIONS": "none",
    }
    assert data.plain_sections(MDOC) == {
        "NAME": "true - do nothing, successfully",
        "DESCRIPTION": "The true utility always returns.",
    }


def test_a_page_that_says_too_little_is_no_pair(study: Any) -> None:
    data, _ = study
    assert data.page_pair("grep.1", MAN) is None
    longer = MAN.replace("fast\\-ish.", "that does " + "this and that " * 10)
    pair = data.page_pair("grep.1", longer)
    assert pair.name == "grep.1" and pair.query == "print lines that match patterns"
    assert pair.document.startswith("grep searches for PATTERNS in each FILE.")
    assert data.page_pair("grep.1", longer.replace(r"\- print", "print")) is None


def test_long_documents_hide_the_same_answers(study: Any) -> None:
    data, _ = study
    pairs = [data.Pair(f"p{i}", f"what is {i}", f"number {i} " * 6) for i in range(40)]
    sizes = data.Sizes(queries=3, long_documents=8)
    short, long = (data.long_corpus(pairs, pieces, sizes) for pieces in (1, 4))
    assert short.queries == long.queries and short.qrels == long.qrels
    assert list(short.documents) == list(long.documents)
    for name, text in short.documents.items():
        assert text in long.documents[name]
        assert len(long.documents[name].split()) == 4 * len(text.split())


def entry(package: str, digest: str, language: str, short: str, long: str) -> str:
    return (
        f"Package: {package}\nDescription-md5: {digest}\n"
        f"Description-{language}: {short}\n {long}\n .\n {long}\n"
    )


def test_translations_belong_to_the_same_english_text(study: Any, tmp_path: Path) -> None:
    import study_corpora

    english, german = (
        "a small tool that counts the red kites",
        "ein Werkzeug, das rote Milane zählt",
    )
    (tmp_path / "x_Translation-en").write_text(
        "\n".join(
            [
                entry("kite", "1a", "en", "counts kites", english),
                entry("kite-doc", "1b", "en", "counts kites", english),  # the same question again
                entry("gull", "2a", "en", "follows ships", english),
                entry("owl", "3a", "en", "hunts at night", english),
            ]
        )
    )
    (tmp_path / "x_Translation-de").write_text(
        "\n".join(
            [
                entry("kite", "1a", "de", "zählt Milane", german),
                entry("kite-doc", "1b", "de", "zählt Milane", german),
                entry("gull", "2b", "de", "folgt Schiffen", german),  # of an older text
                entry("owl", "3a", "de", "hunts at night", english),  # not translated
            ]
        )
    )
    tables = {one: dict(study_corpora.translations(tmp_path, one)) for one in ("en", "de")}
    assert tables["de"]["kite", "1a"] == ("zählt Milane", f"{german} {german}")
    assert study_corpora.shared(tables) == [("kite", "1a")]


def test_pages_are_asked_for_by_titles_of_two_words(study: Any) -> None:
    import study_corpora
    from layout_data import Corpus

    source = Corpus(
        vocabulary=["red", "kite", "gull"],
        ids=np.array([0, 1, 2, 2, 0], np.int32),
        offsets=np.array([0, 2, 4, 5], np.int64),
        document=np.array([0, 0, 1], np.int32),
        names=["a.pdf#page=1", "a.pdf#page=2", "b.pdf#page=1"],
        queries=[("Red Kites", [0]), ("Gulls", [1]), ("Red and Grey", [0, 2])],
    )
    found = study_corpora.some_pages(source, 3)
    assert found.documents == {"0/a.pdf#page=1": "red kite", "1/b.pdf#page=1": "red"}
    assert found.queries == {"q0": "Red Kites", "q1": "Red and Grey"}
    assert found.qrels["q1"] == {"0/a.pdf#page=1": 1, "1/b.pdf#page=1": 1}
    assert study_corpora.some_pages(source, 1).qrels in ({}, {"q0": {"0/a.pdf#page=1": 1}})


def test_tables_of_the_study(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import study_tables as tables

    def seed(values: list[float]) -> dict[str, dict[str, float]]:
        return {m: {f"q{i}": v for i, v in enumerate(values)} for m in tables.METRICS}

    good, bad = [1.0] * 19 + [0.5], [0.5] * 19 + [1.0]
    systems = {"multi": {"0": seed(good), "1": seed(good)}, "single": {"0": seed(bad)}}
    rows = tables.summary(systems)
    assert list(rows) == ["multi", "single"]
    assert rows["multi"]["nDCG@10"] == 0.975 and rows["multi"]["by_seed"] == [0.975, 0.975]
    assert rows["multi"]["sd"] == 0 and rows["single"]["sd"] is None
    (one,) = tables.comparisons(systems)
    assert (one["a"], one["b"]) == ("multi", "single") and (one["better"], one["worse"]) == (19, 1)
    assert one["difference"] == pytest.approx(0.45) and one["p_holm"] < 0.01
    curve = tables.by_pairs(
        "packages",
        {"multi 8": {"0": seed(bad)}, "multi 16": {"0": seed(good)}, "single 8": {"0": seed(bad)}},
        [8, 16],
    )
    assert curve["systems"] == {"multi 16": 0.975, "multi 8": 0.525, "single 8": 0.525}
    pairs = {(test["a"], test["b"]): test["p_holm"] for test in curve["comparisons"]}
    assert pairs["multi 16", "multi 8"] < 0.01 and pairs["multi 8", "single 8"] == 1
    assert "multi 16 - multi 8: +0.4500" in capsys.readouterr().out
