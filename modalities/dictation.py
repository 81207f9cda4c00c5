"""Dictation: frames of Whisper's encoder to written words, with their seconds. Greedy, on a CPU.

Whisper tiny.en's decoder (MIT) writes what was said a piece of a word at a time. Two things are not
as OpenAI's program has them. Its decoder was trained on half a minute of sound, silence included, and
repeats itself without end where it gets less; but the silence need not be heard each time. Frames of
silence are made once, and the frames of a recording (with TAIL of silence that is really behind it)
are put before them: 1 % of the letters come out otherwise than with a whole half minute, at a tenth
of the time. And of the vocabulary only letters are kept, so that numbers are written as they are
said, and the weights are a third smaller.

This module knows frames, pieces and words; nothing of vectors, contexts or retrieval.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.hearing import AUDIO, FRAME, HEADS, LAYERS, MOST_FRAMES, RATE

WEIGHTS = "dictation.safetensors"
PIECES = "dictation.txt"  # package data: a piece of text a line, "_" for the space before a word
BEGIN, PLAIN, SILENT, END = range(4)  # the first embeddings: start, no timestamps, no speech, end
SPECIAL = 4
PLACES = 448  # pieces that the decoder can look back on
TAIL = 2  # seconds of silence behind a recording; less: it repeats itself, more: slower
QUICK = 8  # pieces a second, of the quickest speech
REPEATED = 2.4  # text that zlib makes so many times smaller goes round in circles
DOUBTFUL = -1.0  # mean log probability of the pieces below which nothing is taken for written
NOTHING = 0.6  # probability of "no speech" from which on doubtful text is taken for none
LINGERS = 25  # frames that a word goes on behind where its last piece is heard most, at most
# Heads (layer, head) whose attention follows what is being said, as OpenAI publishes them.
FOLLOWING = ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4))

KeysValues = tuple[Tensor, Tensor]  # each (HEADS, n, AUDIO / HEADS)


@cache
def pieces() -> tuple[str, ...]:
    """What embedding SPECIAL + i stands for, i from 0: letters, apostrophes and stops."""
    text = (files("modalities") / "weights" / PIECES).read_text("ascii")
    return tuple(line.replace("_", " ") for line in text.split("\n") if line)


class Block(nn.Module):
    """Attention over the pieces so far, over the frames, and an MLP, each after a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_own, self.norm_heard, self.norm_mlp = (nn.LayerNorm(AUDIO) for _ in range(3))
        self.qkv, self.out = nn.Linear(AUDIO, 3 * AUDIO), nn.Linear(AUDIO, AUDIO)
        self.query, self.taken = nn.Linear(AUDIO, AUDIO), nn.Linear(AUDIO, AUDIO)
        self.heard = nn.Linear(AUDIO, 2 * AUDIO)
        self.rise, self.fall = nn.Linear(AUDIO, 4 * AUDIO), nn.Linear(4 * AUDIO, AUDIO)

    def hear(self, frames: Tensor) -> KeysValues:
        """Keys and values of frames (T, AUDIO)."""
        keys, values = self.heard(frames).chunk(2, dim=1)
        return _heads(keys), _heads(values)

    def forward(
        self, x: Tensor, before: KeysValues, heard: KeysValues
    ) -> tuple[Tensor, KeysValues, Tensor]:
        """One piece x (1, AUDIO) after those `before` -> what comes of it, keys and values of all
        so far, and how much each head looks at each frame (HEADS, T)."""
        q, k, v = (_heads(part) for part in self.qkv(self.norm_own(x)).chunk(3, dim=1))
        keys, values = torch.cat([before[0], k], 1), torch.cat([before[1], v], 1)
        own = F.scaled_dot_product_attention(q, keys, values)
        x = x + self.out(own.transpose(0, 1).reshape(1, AUDIO))
        asked = _heads(self.query(self.norm_heard(x)))
        look = (asked @ heard[0].transpose(1, 2) * (AUDIO // HEADS) ** -0.5).softmax(-1)
        x = x + self.taken((look @ heard[1]).transpose(0, 1).reshape(1, AUDIO))
        x = x + self.fall(F.gelu(self.rise(self.norm_mlp(x))))
        return x, (keys, values), look[:, 0]


def _heads(x: Tensor) -> Tensor:  # (T, AUDIO) -> (HEADS, T, AUDIO / HEADS)
    return x.unflatten(1, (HEADS, -1)).transpose(0, 1)


@dataclass(frozen=True)
class Written:
    """What was written of one window. text; ends: (pieces,) where each piece ends in it; frames:
    (pieces,) where each was heard, rising; certainty: (pieces,) its probability; trusted: whether it
    is likely to have been said."""

    text: str
    ends: list[int]
    frames: list[int]
    certainty: list[float]
    trusted: bool


class Dictation(nn.Module):
    """Whisper tiny.en's decoder over the pieces that are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces = nn.Embedding(SPECIAL + len(pieces()), AUDIO)
        self.places = nn.Parameter(torch.randn(PLACES, AUDIO) * 0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(AUDIO)
        self._silence: list[KeysValues] = []
        self.register_load_state_dict_post_hook(lambda *_: self._silence.clear())

    def quiet(self, frames: Tensor) -> None:
        """Frames (MOST_FRAMES, AUDIO) of silence, which every recording is continued with."""
        self._silence = [block.hear(frames) for block in self._blocks()]

    @property
    def quieted(self) -> bool:
        """Whether `quiet` was called, with weights and on the device that there are now."""
        return bool(self._silence) and self._silence[0][0].device == self.places.device

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    @torch.no_grad()
    def write(self, frames: Tensor, sounding: int) -> Written:
        """Frames (T, AUDIO) of a window, at most MOST_FRAMES, of which the first `sounding` are of
        the recording and the rest of silence behind it; after `quiet`."""
        known = min(len(frames), MOST_FRAMES)
        heard = []
        for block, (keys, values) in zip(self._blocks(), self._silence, strict=True):
            own = block.hear(frames[:known])
            rest = keys[:, known:], values[:, known:]
            heard.append((torch.cat([own[0], rest[0]], 1), torch.cat([own[1], rest[1]], 1)))
        empty = frames.new_zeros(HEADS, 0, AUDIO // HEADS)
        before: list[KeysValues] = [(empty, empty)] * LAYERS
        most = min(PLACES - 2, 8 + int(QUICK * sounding * FRAME / RATE))
        chosen: list[int] = []
        chances: list[float] = []
        looks: list[Tensor] = []
        step, silent = BEGIN, 0.0
        for place in range(most + 1):
            x = self.pieces.weight[step : step + 1] + self.places[place]
            seen = []
            for i, block in enumerate(self._blocks()):
                x, before[i], look = block(x, before[i], heard[i])
                seen.append(look)
            logits = (self.norm(x) @ self.pieces.weight.T)[0]
            if place == 0:
                silent = float(logits.softmax(0)[SILENT])
                step = PLAIN
                continue
            logits[[BEGIN, PLAIN, SILENT]] = -torch.inf
            if place == 1:
                logits[END] = -torch.inf  # something is said, or it is not trusted
            step = int(logits.argmax())
            chances.append(float(logits.log_softmax(0)[step]))
            if step == END:
                break
            chosen.append(step - SPECIAL)
            looks.append(torch.stack([seen[layer][head] for layer, head in FOLLOWING]).mean(0))
        own_text = [pieces()[i] for i in chosen]
        text, ends = "".join(own_text), list[int]()
        for piece in own_text:
            ends.append((ends[-1] if ends else 0) + len(piece))
        packed = len(zlib.compress(text.encode("ascii")))
        sure = sum(chances[: len(chosen)]) / len(chosen) if chosen else -torch.inf
        trusted = sure > DOUBTFUL and len(text) < REPEATED * packed
        trusted = trusted and not (silent > NOTHING and sure < DOUBTFUL / 2)
        at = _places(torch.stack(looks)[:, :sounding]) if looks and sounding else [0] * len(chosen)
        certainty = [float(torch.tensor(c).exp()) for c in chances[: len(chosen)]]
        return Written(text, ends, at, certainty, trusted)


def _places(looks: Tensor) -> list[int]:
    """Where each piece is heard: of rising frames those that are looked at most in all.

    looks (N, T): how much each piece looks at each frame."""
    looks = looks / looks.sum(1, keepdim=True).clamp(min=1e-6)
    best, came = torch.zeros_like(looks[0]), []
    for look in looks:
        reached, at = best.cummax(0)
        came.append(at)
        best = reached + look
    place = int(best.argmax())
    places = []
    for at in reversed(came):
        places.append(place)
        place = int(at[place])
    return places[::-1]


def spans(written: Written, places: Iterable[tuple[str, int, int]]) -> list[tuple[int, int, float]]:
    """(first frame, end, certainty) of words that stand at (word, start, end) of the text: from their
    first piece to the next word's, but at most LINGERS behind their last; the least sure piece of a
    word counts."""
    found: list[tuple[int, int, float]] = []
    for _, start, end in places:
        first = next(i for i, stop in enumerate(written.ends) if stop > start)
        last = next(i for i, stop in enumerate(written.ends) if stop >= end)
        begin = written.frames[first]
        if found:
            before, until, sure = found[-1]
            found[-1] = before, max(before + 1, min(until, begin)), sure
        until = written.frames[last] + LINGERS
        found.append((begin, until, min(written.certainty[first : last + 1])))
    return found
