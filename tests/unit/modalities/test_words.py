from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modalities import words


def test_vectors_are_the_same_on_every_machine() -> None:
    """The weights that ship were trained on just these numbers."""
    rain, gauge = words.vectors(["rain", "gauge7"])
    assert words.codebook().flatten()[:8].tolist() == PINNED_CODES
    assert rain[:5].tolist() == pytest.approx(PINNED_RAIN, abs=1e-6)
    assert gauge[-5:].tolist() == pytest.approx(PINNED_GAUGE7, abs=1e-6)


def test_letters_that_came_later_move_no_older_word() -> None:
    """The four numbers were written down before Cyrillic and Greek had codes."""
    assert words.vectors(["zwyrtinska", "水b"])[:, 100:102].flatten().tolist() == pytest.approx(
        PINNED_OLDER, abs=1e-6
    )
    book = words.codebook()
    assert book.shape == (6, words.NEIGHBOURS, words.WIDTH)
    flat = book.transpose(0, 1).flatten(1)
    overlap = (flat @ flat.T / flat.shape[1]).fill_diagonal_(0).abs().max()
    assert overlap < 0.15  # no two letters share codes


PINNED_OLDER = [0.094483, -0.040493, -0.029814, 0.089443]
PINNED_CODES = [-1, 1, -1, 1, 1, 1, 1, -1]
PINNED_RAIN = [-0.113344, 0.022669, 0.022669, 0.068006, -0.045338]
PINNED_GAUGE7 = [0.01631, 0.01631, -0.065241, -0.097862, -0.048931]


def test_vectors_are_unit_rows_and_depend_on_nothing_but_the_word() -> None:
    together = words.vectors(["rain", "a", "4711", "x" * 40])
    assert together.shape == (4, words.WIDTH) and together.dtype == torch.float32
    assert torch.allclose(together.norm(dim=1), torch.ones(4), atol=1e-6)
    alone = torch.cat([words.vectors([w]) for w in ("rain", "a", "4711", "x" * 40)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert words.vectors([]).shape == (0, words.WIDTH)
    again = words.vectors(["rain"])
    again += 1  # callers may write to what they are given
    assert torch.equal(words.vectors(["rain"]), together[:1])


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("calibration", "calibratoin"),
        ("temperature", "temprature"),
        ("kestrel", "kestrels"),
        ("zwyrtinska", "zwyrtinski"),
        ("e17", "e18"),
    ],
)
def test_a_word_is_nearer_to_its_misspelling_than_to_other_words(word: str, near: str) -> None:
    others = ["battery", "mounting", "orchard", "library", "settings", "rain", "b92", "zebra"]
    vectors = words.vectors([word, near, *others])
    cosine = (vectors @ vectors[0]).tolist()
    assert cosine[1] > 0.35
    assert cosine[1] > max(cosine[2:]) + 0.15


def test_order_of_letters_counts() -> None:
    a, b, c = words.vectors(["listen", "silent", "listens"])
    assert float(a @ b) < 0.5 < float(a @ c)


@pytest.mark.parametrize(
    ("character", "folded"),
    [
        ("E", "e"),
        ("É", "e"),
        ("ü", "u"),
        ("ß", "ss"),
        ("Æ", "ae"),
        ("Ø", "o"),
        ("ﬁ", "fi"),
        ("ł", "l"),
        ("Þ", "th"),
        ("İ", "i"),
        ("７", "7"),
        ("²", "2"),
        ("\u0301", ""),
        ("-", ""),
        ("水", "水"),
        ("Я", "я"),
        ("й", "и"),
        ("Ω", "w"),
    ],
)
def test_fold(character: str, folded: str) -> None:
    assert words.fold(character) == folded


def test_split_gives_folded_words_and_their_places() -> None:
    text = "Die GRÖẞTE warm-up_Rate, 42 %: naïve ﬁsh!"
    found = list(words.split(text))
    assert [w for w, _, _ in found] == [
        "die",
        "grosste",
        "warm",
        "up",
        "rate",
        "42",
        "naive",
        "fish",
    ]
    assert [text[start:end] for _, start, end in found] == [
        *("Die", "GRÖẞTE", "warm", "up", "Rate", "42", "naïve", "ﬁsh"),
    ]


@pytest.mark.parametrize("text", ["天气站", "기상", "مرحبا", "...", "_ - !", "", " \n", "🐦🐦"])
def test_split_leaves_out_what_has_no_letter_it_knows(text: str) -> None:
    assert list(words.split(text)) == []


def test_other_scripts_beside_latin_letters() -> None:
    assert [w for w, _, _ in words.split("K9 天气 station2 הt")] == ["k9", "station2", "הt"]
    assert words.codes("הt") == [words.OTHER, words.LETTERS.index("t")]
    assert float(words.vectors(["הt"]).norm()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Метеостанция", "meteoctahция"),
        ("ВОДА вода", "boдa boдa"),
        ("Ёжик, їжак і Її", "eжиk iжak i ii"),
        ("Љубав; Ђорђе", "льyбab hophe"),
        ("Καλημέρα ΚΑΛΗΜΕΡΑ", "kaλnμepa kaλnμepa"),
        ("ΟΔΟΣ οδός", "oδoσ oδoσ"),
        ("ΔT 5 µm", "δt 5 μm"),
    ],
)
def test_cyrillic_and_greek_are_folded_by_look(text: str, folded: str) -> None:
    assert [w for w, _, _ in words.split(text)] == folded.split()
    assert words.OTHER not in words.codes(folded.replace(" ", ""))


def test_letters_drawn_alike_have_one_code() -> None:
    latin, cyrillic = words.vectors(
        ["".join(words.fold(c) for c in w) for w in ("COBETA", "СОВЕТА")]
    )
    assert torch.equal(latin, cyrillic)


def test_very_long_runs_are_cut() -> None:
    ((word, start, end),) = words.split("x" * 100_000)
    assert (len(word), start, end) == (words.MAX_LETTERS, 0, 100_000)


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_words_that_have_vectors(text: str) -> None:
    found = list(words.split(text))
    for word, start, end in found:
        assert 0 <= start < end <= len(text) and 0 < len(word) <= words.MAX_LETTERS
    vectors = words.vectors([w for w, _, _ in found])
    assert torch.isfinite(vectors).all() and len(vectors) == len(found)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(found)), atol=1e-5)


def test_sketch_is_an_expectation_over_doubt() -> None:
    """Half sure of two characters gives the mean of the two words' sums."""
    book = words.codebook()

    def total(middle: torch.Tensor) -> torch.Tensor:
        here = torch.zeros(3, words.NEIGHBOURS)
        here[0, 2] = here[2, 19] = 1  # c, then the middle, then t
        here[1] = middle
        edge = torch.zeros(1, words.NEIGHBOURS)
        edge[0, words.BOUNDARY] = 1
        before, after = torch.cat([edge, here[:-1]]), torch.cat([here[1:], edge])
        return words.sketch(book, before, here[:, : words.CLASSES], after).sum(0)

    a, u = (torch.nn.functional.one_hot(torch.tensor(i), words.NEIGHBOURS).float() for i in (0, 20))
    mean = (total(a) + total(u)) / 2
    assert np.allclose(total((a + u) / 2), mean, atol=1e-4)
    assert torch.allclose(
        torch.nn.functional.normalize(total(a), dim=0), words.vectors(["cat"])[0], atol=1e-5
    )
