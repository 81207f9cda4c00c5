"""Agreement: how well a text that is being written agrees with letters that are heard.

CTC's prefix scores: the probability that what is said begins with these letters, summed over all ways
to lay them along the frames. A decoder that writes what it expects to be said rather than what is said
is held to the sound by them, as in joint CTC and attention decoding (Watanabe et al., 2017).

This module knows log probabilities of letters and numbers of letters; who writes is for others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.hearing import BLANK, LATIN, SPACE

NEVER = -1e30  # log of 0; finite, as a difference of two infinities is no number


def letters(text: str) -> list[int]:
    """Classes of a text's characters: what is no Latin letter stands between words."""
    return [LATIN.find(c) if c in LATIN else SPACE for c in text.lower()]


@dataclass
class Prefixes:
    """N beginnings of what may be said. Log probabilities, fp64, that frames up to t have said just
    that and that t says its last letter (N, T), or nothing new (N, T); last: (N,) its last letter,
    -1 where there is none; spaced: whether a word has ended and none begun since; begun: (N,) log
    probability that what is said in all begins so."""

    letter: Tensor
    blank: Tensor
    last: Tensor
    spaced: list[bool]
    begun: Tensor

    @property
    def whole(self) -> Tensor:
        """(N,) log probability that this is all that is said."""
        return torch.logaddexp(self.letter[:, -1], self.blank[:, -1])

    def take(self, rows: Sequence[int]) -> Prefixes:
        at = torch.tensor(rows, device=self.last.device)
        spaced = [self.spaced[row] for row in rows]
        return Prefixes(self.letter[at], self.blank[at], self.last[at], spaced, self.begun[at])


class Agreement:
    """Scores of texts against log probabilities (T, SOUNDS), T at least 1, of letters heard."""

    def __init__(self, spelt: Tensor) -> None:
        # on the CPU, as not every device has doubles
        self.spelt = spelt.cpu().double().T.contiguous()  # (SOUNDS, T)
        self.before = F.pad(self.spelt.cumsum(1), (1, 0))  # sums of all earlier frames, (.., T + 1)

    def start(self) -> Prefixes:
        """Nothing is written yet."""
        blank = self.before[BLANK, 1:][None]
        none = torch.tensor([-1], device=blank.device)
        return Prefixes(torch.full_like(blank, NEVER), blank, none, [False], blank.new_zeros(1))

    def longer(
        self, prefixes: Prefixes, rows: Sequence[int], texts: Sequence[list[int]]
    ) -> Prefixes:
        """Each of these rows with a text (of `letters`) behind it. Several spaces count as one, and
        none at the beginning or the end."""
        found = prefixes.take(rows)
        added: list[list[int]] = []
        for row, text in enumerate(texts):
            any_yet, spaced = int(found.last[row]) >= 0, found.spaced[row]
            own: list[int] = []
            for letter in text:
                if letter == SPACE:
                    spaced = True
                    continue
                own += [SPACE, letter] if spaced and any_yet else [letter]
                any_yet, spaced = True, False
            found.spaced[row] = spaced
            added.append(own)
        for place in range(max(map(len, added), default=0)):
            going = [row for row, own in enumerate(added) if len(own) > place]
            at = torch.tensor(going, device=found.last.device)
            self._add(found, at, torch.tensor([added[row][place] for row in going]).to(at))
        return found

    def _add(self, prefixes: Prefixes, at: Tensor, letter: Tensor) -> None:
        """One letter (n,) behind the rows `at` (n,), in place."""
        spoken, blank, last = prefixes.letter[at], prefixes.blank[at], prefixes.last[at]
        again = (last == letter)[:, None]  # a letter twice needs something between
        ready = torch.logaddexp(blank, spoken.masked_fill(again, NEVER))
        ready = F.pad(ready[:, :-1], (1, 0), value=NEVER)
        ready[:, 0] = torch.where(last < 0, 0.0, NEVER)
        now, before = self.spelt[letter], self.before[letter]
        # a letter begins at some frame and lasts: the recursion over t, in closed form
        spoken = before[:, 1:] + torch.logcumsumexp(ready - before[:, :-1], 1)
        silent = self.before[BLANK]
        ended = F.pad(spoken[:, :-1], (1, 0), value=NEVER)
        prefixes.letter[at] = spoken
        prefixes.blank[at] = silent[1:] + torch.logcumsumexp(ended - silent[:-1], 1)
        prefixes.last[at] = letter
        prefixes.begun[at] = torch.logsumexp(ready + now, 1)
