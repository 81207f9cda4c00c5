from __future__ import annotations

import numpy as np
import pytest

from lateint.explain import Traces, matches, words_at
from modalities.pdf import Word


def test_shares_add_up_to_the_score_and_come_best_first() -> None:
    scores = np.array([[0.5, 0.1], [0.2, 0.9], [0.3, 0.4]], np.float32)
    boxes = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32)
    found = matches(scores, ["[query]", "rain", "gauge"], Traces(boxes, ("a", "b")))
    assert [(m.word, m.found) for m in found] == [("rain", "b"), ("gauge", "b")]
    assert sum(m.score for m in found) + 0.5 == pytest.approx(scores.max(1).sum())
    assert found[0].box == (0.5, 0.5, 1.0, 1.0)


def test_pieces_of_a_word_are_one_match_where_its_strongest_piece_is() -> None:
    scores = np.array([[0.2, 0.3, 0.1], [0.1, 0.1, 0.9], [0.4, 0.1, 0.1]], np.float32)
    (first, second) = matches(scores, ["calib", "##rate", "now"], Traces(labels=("x", "y", "z")))
    assert (first.word, first.found, second.word) == ("calibrate", "z", "now")
    assert first.score == pytest.approx(1.2)


def test_nothing_is_said_where_labels_and_tokens_do_not_go_together() -> None:
    assert matches(np.ones((1, 4), np.float32), ["two", "words"], Traces()) == ()
    (match,) = matches(np.ones((1, 4), np.float32), ["word"], Traces(labels=("other", "count")))
    assert (match.box, match.found) == (None, "")


def test_a_token_for_the_whole_page_has_no_place() -> None:
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    assert matches(np.ones((1, 1), np.float32), ["word"], Traces(boxes))[0].box is None


def test_traces_survive_the_ledger() -> None:
    boxes = np.random.default_rng(0).random((50, 4), np.float32)
    traces = Traces(boxes, tuple("wörd 字 \ud800" for _ in range(50)))
    again = Traces.from_bytes(traces.to_bytes())
    assert again.labels == traces.labels
    assert again.boxes is not None and np.abs(again.boxes - boxes).max() < 1e-5
    assert Traces.from_bytes(Traces().to_bytes()) == Traces()


def test_the_page_s_own_words_at_a_box() -> None:
    layer = [Word("rain", (0.1, 0.1, 0.2, 0.12)), Word("warm-up", (0.3, 0.1, 0.5, 0.12))]
    boxes = np.array(
        [
            [0.1, 0.1, 0.2, 0.12],  # just the word
            [0.3, 0.1, 0.4, 0.12],  # half of a word
            [0.0, 0.0, 0.55, 0.2],  # a patch with both
            [0.19, 0.1, 0.4, 0.3],  # a corner of each
            [0.6, 0.6, 0.7, 0.7],
            [0, 0, 1, 1],
        ],
        np.float32,
    )
    assert words_at(boxes, layer) == ("rain", "warm-up", "rain warm-up", "warm-up", "", "")
    assert words_at(boxes, []) == ("",) * 6
