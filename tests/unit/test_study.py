"""The study's own parts: its encoder against the one it wraps, and manual pages out of roff."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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

    yield study_data, study_encoder
    for name in ("study_data", "study_encoder", "token_data"):
        sys.modules.pop(name, None)


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
