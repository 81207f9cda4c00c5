from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from modalities import words
from modalities.layout import LayoutContext, QueryContext, geometry
from modalities.lexicon import MEANING, PROBES, Lexicon, shipped

SPELT = ["window", "fenster", "fenetre", "gauge", "battery", "batterie", "the", "conference"]


def meanings() -> torch.Tensor:
    """window, fenster and fenetre mean one thing, battery and batterie another, `the` nothing."""
    rows = torch.nn.functional.normalize(
        torch.randn(4, MEANING, generator=torch.Generator().manual_seed(1)), dim=1
    )
    table = rows[[0, 0, 0, 1, 2, 2, 0, 3]]
    table[6] = 0
    return table


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon.make(SPELT, meanings(), groups=3)


def test_a_spelt_word_has_its_meaning_and_an_unknown_one_none(lexicon: Lexicon) -> None:
    known = lexicon(words.vectors(SPELT))
    assert float((known - meanings()).norm(dim=1).max()) < 0.05  # eight bits, and the attention
    assert float(lexicon(words.vectors(["xylophone", "e17", "42"])).norm(dim=1).max()) < 0.05
    assert float(lexicon(torch.zeros(2, 3, words.WIDTH)).abs().max()) < 0.01
    assert lexicon(torch.zeros(0, words.WIDTH)).shape == (0, MEANING)


def test_a_word_read_with_a_letter_wrong_means_nearly_the_same(lexicon: Lexicon) -> None:
    wrong = lexicon(words.vectors(["conferonce", "battary"]))
    right = lexicon(words.vectors(["conference", "battery"]))
    assert torch.nn.functional.cosine_similarity(wrong, right).min() > 0.95
    assert (wrong.norm(dim=1) > 0.6).all()


def test_groups_lose_nothing_against_looking_at_all_words() -> None:
    """Attention over all of the vocabulary in one matrix, by its definition."""
    from modalities.lexicon import NONE, SHARP

    spelt = [f"{a}{b}{c}" for a in ("pre", "con", "ex") for b in "aeiou" for c in ("t", "ng", "rm")]
    table = torch.randn(len(spelt), MEANING, generator=torch.Generator().manual_seed(2)) / 10
    lexicon = Lexicon.make(spelt, table, groups=PROBES)  # as many as are looked through
    asked = words.vectors(["preta", "conorm", "exu", *spelt[:5]])
    alike = torch.exp(SHARP * (asked @ words.vectors(lexicon.spelling).T - 1))
    wanted = (
        alike
        @ lexicon.meanings()
        / (alike.sum(1) + torch.tensor(SHARP * (NONE - 1)).exp())[:, None]
    )
    assert torch.allclose(lexicon(asked), wanted, atol=1e-5)


def test_every_word_finds_itself_among_many_groups() -> None:
    spelt = [f"{a}{b}{c}" for a in ("pre", "con", "ex") for b in "aeiou" for c in "bdfglmnprst"]
    table = torch.randn(len(spelt), MEANING, generator=torch.Generator().manual_seed(2))
    found = Lexicon.make(spelt, table, groups=40)(words.vectors(spelt))
    assert torch.nn.functional.cosine_similarity(found, table).min() > 0.7


def test_a_soft_word_lies_between_and_gradients_reach_it(lexicon: Lexicon) -> None:
    soft = (0.6 * words.vectors(["gauge"]) + 0.4 * words.vectors(["xxxxx"])).requires_grad_()
    meaning = lexicon(soft)
    (meaning @ meanings()[3]).sum().backward()
    assert soft.grad is not None and float(soft.grad.norm()) > 0


def test_save_and_load(lexicon: Lexicon, tmp_path: Path) -> None:
    lexicon.save(tmp_path / "l.safetensors")
    again = Lexicon.of_bytes((tmp_path / "l.safetensors").read_bytes(), "l.safetensors")
    assert again.spelling == lexicon.spelling and sorted(again.spelling) == sorted(SPELT)
    asked = words.vectors([*SPELT, "windows"])
    assert torch.equal(again(asked), lexicon(asked))
    Lexicon().save(tmp_path / "none.safetensors")
    assert not len(Lexicon.of_bytes((tmp_path / "none.safetensors").read_bytes(), "none"))
    with pytest.raises(ValueError, match="broken is no lexicon"):
        Lexicon.of_bytes(b"{}", "broken")
    with pytest.raises(ValueError, match="a word comes twice"):
        Lexicon.make(["a", "a"], torch.zeros(2, MEANING))
    with pytest.raises(ValueError, match="add up to the 1 words"):
        Lexicon(["a"], torch.zeros(1, MEANING, dtype=torch.int8), torch.ones(1), torch.tensor([2]))


def test_it_is_shared_and_no_part_of_the_weights(lexicon: Lexicon) -> None:
    context = LayoutContext(lexicon)
    assert deepcopy(context).lexicon is context.lexicon is lexicon
    assert not [name for name in context.state_dict() if "lexicon" in name]


def test_meanings_count_only_once_they_are_trained(lexicon: Lexicon) -> None:
    torch.manual_seed(0)
    layout, query = LayoutContext(lexicon).eval(), QueryContext(lexicon).eval()
    vectors = words.vectors(["window", "fenster", "gauge"])[None]
    mask = torch.ones(1, 3, dtype=torch.bool)
    place = geometry(
        torch.tensor([[0.1, 0.1, 0.2, 0.12], [0.3, 0.1, 0.4, 0.12], [0.1, 0.2, 0.2, 0.22]])
    )
    none = torch.zeros(1, 3, MEANING)
    with torch.no_grad():
        for context, rest in ((layout, (place[None], mask)), (query, (mask,))):
            assert torch.equal(
                context(vectors, *rest).tokens, context(vectors, *rest, meaning=none).tokens
            )
            torch.nn.init.orthogonal_(context.sense.weight)
            context.sense.weight *= 3
            near = torch.nn.functional.cosine_similarity
            tokens, bare = (context(vectors, *rest, meaning=m).tokens[0] for m in (None, none))
            assert near(tokens[1], tokens[2], dim=0) > near(bare[1], bare[2], dim=0) + 0.4


SAME = [
    ("window", "fenster", "fenetre", "ventana", "finestra"),
    ("keyboard", "tastatur", "clavier", "teclado", "tastiera"),
    ("network", "netzwerk", "reseau", "red", "rete"),
    ("install", "installieren", "installer", "instalar", "installare"),
    ("printer", "drucker", "imprimante", "impresora", "stampante"),
    ("image", "bild", "image", "imagen", "immagine"),
    ("water", "wasser", "eau", "agua", "acqua"),
    ("mountain", "berg", "montagne", "montana", "montagna"),
    ("tree", "baum", "arbre", "arbol", "albero"),
    ("password", "passwort", "passe", "contrasena", "password"),
]


def test_the_shipped_lexicon_finds_translations() -> None:
    lexicon = shipped()
    english = lexicon(words.vectors([row[0] for row in SAME]))
    right = torch.arange(len(SAME))
    for language in range(1, 5):
        other = [row[language] for row in SAME]
        cosine = torch.nn.functional.cosine_similarity(
            lexicon(words.vectors(other))[:, None], english[None], dim=2
        )
        assert (cosine.argmax(1) == right).all(), (language, cosine.argmax(1).tolist())


def test_in_the_shipped_lexicon_stop_words_mean_little() -> None:
    lengths = shipped()(words.vectors(["the", "of", "und", "der", "les", "elephant"])).norm(dim=1)
    assert lengths[:5].max() < 0.3 < 0.7 < lengths[5]
