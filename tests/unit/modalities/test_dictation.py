"""What writes speech down, apart from what it hears: places, spans, trust, silence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modalities import dictation, words
from modalities.agreement import Agreement, letters
from modalities.dictation import END, SPECIAL, Dictation, KeysValues, Written, pieces, spans
from modalities.hearing import AUDIO, BLANK, MOST_FRAMES, SOUNDS


def test_pieces_spell_anything_in_letters() -> None:
    assert len(set(pieces())) == len(pieces())
    assert {*"abcdefghijklmnopqrstuvwxyz", " a", ".", "'"} <= set(pieces())
    assert not any(character.isdigit() for piece in pieces() for character in piece)


def test_places_rise_and_follow_what_is_looked_at() -> None:
    looks = torch.full((4, 30), 0.01)
    for piece, frame in enumerate((3, 9, 9, 20)):
        looks[piece, frame] = 1
    assert dictation._places(looks) == [3, 9, 9, 20]
    looks[1, 25] = 1.5  # further on, but the ones behind it cannot be before it
    assert dictation._places(looks) == [3, 9, 9, 20]


def test_a_word_lasts_until_the_next_one_but_not_long() -> None:
    said = Written(
        " Rain, raingauge.", [5, 6, 11, 16, 17], [10, 12, 40, 44, 300], [1, 1, 0.5, 0.9, 1], 0
    )
    found = spans(said, words.split(said.text))
    assert found == [(10, 35, 1), (40, 44 + dictation.LINGERS, 0.5)]
    near = Written(said.text, said.ends, [10, 12, 14, 44, 300], said.certainty, 0)
    assert spans(near, words.split(near.text))[0] == (10, 14, 1)


@pytest.fixture(scope="module")
def net() -> Dictation:
    torch.manual_seed(0)
    return Dictation().eval()


def test_it_needs_silence_and_forgets_it_with_its_weights(net: Dictation) -> None:
    assert not net.quieted
    net.quiet(torch.zeros(MOST_FRAMES, AUDIO))
    assert net.quieted
    net.load_state_dict(net.state_dict())
    assert not net.quieted


def test_pieces_are_bounded_by_the_time_there_is(net: Dictation) -> None:
    """An untrained one never comes to an end by itself, and nobody trusts it."""
    net.quiet(torch.zeros(MOST_FRAMES, AUDIO))
    torch.manual_seed(1)
    short = net.write(net.hear(torch.randn(150, AUDIO)), 50)
    long = net.write(net.hear(torch.randn(400, AUDIO)), 300)
    assert 0 < len(short.ends) <= 16 and len(short.ends) < len(long.ends) <= 56
    assert not short.trusted
    assert max(short.frames) < 50 and len(short.frames) == len(short.certainty) == len(short.ends)
    assert short.text == "".join(pieces()[i] for i in _chosen(short))


def _chosen(written: Written) -> list[int]:
    starts = [0, *written.ends[:-1]]
    texts = [written.text[a:b] for a, b in zip(starts, written.ends, strict=True)]
    return [pieces().index(text) for text in texts]


def test_what_goes_round_in_circles_is_not_trusted(
    net: Dictation, monkeypatch: pytest.MonkeyPatch
) -> None:
    net.quiet(torch.zeros(MOST_FRAMES, AUDIO))
    again = pieces().index(" again")
    with torch.no_grad():
        weight = net.pieces.weight.clone()
        net.pieces.weight[SPECIAL + again] *= 0
        net.norm.weight.zero_()
        net.norm.bias.copy_(weight[0])
        net.pieces.weight[SPECIAL + again] = 40 * weight[0]  # it says nothing else
    said = net.write(net.hear(torch.randn(1000, AUDIO)), 900)
    assert said.text == " again" * len(said.ends) and min(said.certainty) > 0.9
    assert not said.trusted


def test_trust_falls_with_the_mean_probability() -> None:
    def of(chance: float) -> Written:
        return Written(" rain gauge", [5, 11], [1, 2], [1.0, chance], 0)

    kinds = [(of(c).certain, of(c).trusted) for c in (0.9, 0.3, 0.01)]
    assert kinds == [(True, True), (False, True), (False, False)]
    assert not Written("", [], [], [], 0.9).trusted


@torch.no_grad()
def test_the_letters_heard_decide_between_what_is_nearly_as_likely(
    net: Dictation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself the one, held to the sound the other, and not cut short."""
    cold, old, end = (SPECIAL + pieces().index(" cold"), SPECIAL + pieces().index(" old"), END)

    def step(
        steps: list[int], place: int, before: list[KeysValues], heard: list[KeysValues]
    ) -> tuple[Tensor, Tensor]:
        logits = torch.full((len(steps), SPECIAL + len(pieces())), -9.0)
        if place == 1:
            logits[:, [cold, old]] = torch.tensor([5.0, 4.8])
        else:
            logits[:, [cold, end]] = torch.tensor([4.0, 4.5])
        return logits, torch.ones(len(steps), 40)

    monkeypatch.setattr(net, "_step", step)
    spelt = torch.full((40, SOUNDS), -9.0)
    spelt[:, BLANK] = 0
    for frame, letter in enumerate(letters("old cold")):
        spelt[4 * frame + 2, letter] = 5
    nothing: list[KeysValues] = []
    assert net.write(nothing, 40).text == " cold"
    assert net.write(nothing, 40, Agreement(spelt.log_softmax(1))).text == " old cold"
