"""Dictation: frames of Whisper's encoder to written words, with their seconds. On a CPU.

Whisper tiny.en's decoder (MIT) writes what was said a piece of a word at a time. Three things are not
as OpenAI's program has them. Its decoder was trained on half a minute of sound, silence included, and
repeats itself without end where it gets less; but the silence need not be heard each time. Frames of
silence are made once, and the frames of a recording (with TAIL of silence that is really behind it)
are put before them: 1 % of the letters come out otherwise than with a whole half minute, at a tenth
of the time. Of the vocabulary only letters are kept, so that numbers are written as they are said, and
the weights are a third smaller. And where it is in doubt it writes a second time, held to the letters
that are heard (`modalities.agreement`): it no longer makes up or leaves out what it did not understand.

This module knows frames, pieces and words; nothing of vectors, contexts or retrieval.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.agreement import Agreement, letters
from modalities.hearing import AUDIO, FRAME, HEADS, LAYERS, MOST_FRAMES, RATE

WEIGHTS = "dictation.safetensors"
PIECES = "dictation.txt"  # package data: a piece of text a line, "_" for the space before a word
BEGIN, PLAIN, SILENT, END = range(4)  # the first embeddings: start, no timestamps, no speech, end
SPECIAL = 4
PLACES = 448  # pieces that the decoder can look back on
TAIL = 2  # seconds of silence behind a recording; less: it repeats itself, more: slower
QUICK = 8  # pieces a second, of the quickest speech
REPEATED = 2.4  # text that zlib makes so many times smaller goes round in circles
SURE = -0.4  # mean log probability of the pieces above which a text is taken as it is
DOUBTFUL = -1.5  # mean log probability of the pieces below which nothing is taken for written
BEAM = 4  # texts that are followed at a time where one is not sure; more: slower, hardly better
WIDE = 8  # pieces that each of them may go on with
HELD = (
    0.1  # share of the letters heard in a text's score; more: rather as it sounds than as English
)
LINGERS = 25  # frames that a word goes on behind where its last piece is heard most, at most
# Heads (layer, head) whose attention follows what is being said, as OpenAI publishes them.
FOLLOWING = ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4))

KeysValues = tuple[Tensor, Tensor]  # each (HEADS, n, AUDIO / HEADS), or of B texts (B, HEADS, ...)


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
        """A piece of each of B texts, x (B, AUDIO), after those `before` (each (B, HEADS, n,
        AUDIO / HEADS)) -> what comes of it, keys and values of all so far, and how much each head
        looks at each frame (HEADS, B, T)."""
        q, k, v = (
            part.unflatten(1, (HEADS, 1, -1)) for part in self.qkv(self.norm_own(x)).chunk(3, dim=1)
        )
        keys, values = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        own = F.scaled_dot_product_attention(q, keys, values)
        x = x + self.out(own.flatten(1))
        asked = _heads(self.query(self.norm_heard(x)))
        look = (asked @ heard[0].transpose(1, 2) * (AUDIO // HEADS) ** -0.5).softmax(-1)
        x = x + self.taken((look @ heard[1]).transpose(0, 1).flatten(1))
        x = x + self.fall(F.gelu(self.rise(self.norm_mlp(x))))
        return x, (keys, values), look


def _heads(x: Tensor) -> Tensor:  # (T, AUDIO) -> (HEADS, T, AUDIO / HEADS)
    return x.unflatten(1, (HEADS, -1)).transpose(0, 1)


@dataclass(frozen=True)
class Written:
    """What was written of one window. text; ends: (pieces,) where each piece ends in it; frames:
    (pieces,) where each was heard, rising; certainty: (pieces,) its probability; silent: the
    probability that there is no speech."""

    text: str
    ends: list[int]
    frames: list[int]
    certainty: list[float]
    silent: float

    @property
    def sure(self) -> float:
        """Mean log probability of the pieces."""
        logs = [math.log(max(chance, 1e-9)) for chance in self.certainty]
        return sum(logs) / len(logs) if logs else -math.inf

    @property
    def trusted(self) -> bool:
        """Whether some of it is likely to have been said."""
        packed = len(zlib.compress(self.text.encode("ascii")))
        return self.sure > DOUBTFUL and len(self.text) < REPEATED * packed

    @property
    def certain(self) -> bool:
        """Whether nothing else is likely to have been said."""
        return self.trusted and self.sure > SURE


@dataclass(frozen=True)
class Draft:
    """A text on its way: its pieces, the log probability of each, and how much each looks at each
    frame (T,)."""

    pieces: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()
    looks: tuple[Tensor, ...] = ()

    def longer(self, piece: int, chance: float, look: Tensor) -> Draft:
        return Draft((*self.pieces, piece), (*self.chances, chance), (*self.looks, look))


class Dictation(nn.Module):
    """Whisper tiny.en's decoder over the pieces that are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces = nn.Embedding(SPECIAL + len(pieces()), AUDIO)
        self.places = nn.Parameter(torch.randn(PLACES, AUDIO) * 0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(AUDIO)
        self._silence: list[KeysValues] = []
        self.register_load_state_dict_post_hook(_forget)

    def quiet(self, frames: Tensor) -> None:
        """Frames (MOST_FRAMES, AUDIO) of silence, which every recording is continued with."""
        self._silence = [block.hear(frames) for block in self._blocks()]

    @property
    def quieted(self) -> bool:
        """Whether `quiet` was called since weights were loaded, on the device and in the dtype that there
        are now. After training of the encoder or of this decoder in place call it again."""
        if not self._silence:
            return False
        known = self._silence[0][0]
        return known.device == self.places.device and known.dtype == self.places.dtype

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    @torch.no_grad()
    def hear(self, frames: Tensor) -> list[KeysValues]:
        """What each block looks at of frames (T, AUDIO) of a window, at most MOST_FRAMES, and of the
        silence that makes half a minute of it; after `quiet`."""
        if not self._silence:
            raise RuntimeError("dictation: hears nothing before `quiet` has given it silence")
        known = min(len(frames), MOST_FRAMES)
        heard = []
        for block, (keys, values) in zip(self._blocks(), self._silence, strict=True):
            own = block.hear(frames[:known])
            rest = keys[:, known:], values[:, known:]
            heard.append((torch.cat([own[0], rest[0]], 1), torch.cat([own[1], rest[1]], 1)))
        return heard

    @torch.no_grad()
    def write(
        self, heard: list[KeysValues], sounding: int, agreement: Agreement | None = None
    ) -> Written:
        """The text of a window that `hear` heard, whose first `sounding` frames are of the recording
        and the rest of silence behind it.

        agreement: with the letters in those frames: BEAM texts are followed at a time, and the one is
        written that is likely both by itself and by the letters. None: the likeliest piece each time.
        """
        empty = self.places.new_zeros(1, HEADS, 0, AUDIO // HEADS)
        before: list[KeysValues] = [(empty, empty)] * LAYERS
        silent = float(self._step([BEGIN], 0, before, heard)[0].softmax(1)[0, SILENT])
        drafts, steps, ended = [Draft()], [PLAIN], list[tuple[float, Draft]]()
        prefixes = None if agreement is None else agreement.start()
        for place in range(1, min(PLACES - 2, 8 + int(QUICK * sounding * FRAME / RATE)) + 1):
            logits, looks = self._step(steps, place, before, heard)
            logits[:, [BEGIN, PLAIN, SILENT]] = -torch.inf
            if place == 1:
                logits[:, END] = -torch.inf  # something is said, or it is not trusted
            likely = logits.log_softmax(1).topk(1 if agreement is None else WIDE)
            rows = [row for row in range(len(drafts)) for _ in range(likely.values.shape[1])]
            own, said = likely.values.flatten().tolist(), likely.indices.flatten().tolist()
            scores = torch.tensor(
                [sum(drafts[r].chances) + c for r, c in zip(rows, own, strict=True)]
            )
            if agreement is not None and prefixes is not None:
                texts = [[] if step == END else letters(pieces()[step - SPECIAL]) for step in said]
                longer = agreement.longer(prefixes, rows, texts)
                over = torch.tensor([step == END for step in said])
                agreed = torch.where(over, prefixes.whole[rows].cpu(), longer.begun.cpu())
                scores = (1 - HELD) * scores + HELD * agreed
            best = scores.topk(min(len(scores), 1 if agreement is None else BEAM)).indices.tolist()
            ended += [(float(scores[i]), drafts[rows[i]]) for i in best if said[i] == END]
            most = max((score for score, _ in ended), default=-math.inf)
            alive = [i for i in best if said[i] != END and float(scores[i]) > most]
            if not alive:
                break
            drafts = [
                drafts[rows[i]].longer(said[i] - SPECIAL, own[i], looks[rows[i]]) for i in alive
            ]
            steps, kept = [said[i] for i in alive], [rows[i] for i in alive]
            before[:] = [(keys[kept], values[kept]) for keys, values in before]
            prefixes = None if prefixes is None else longer.take(alive)
        chosen = max(ended, key=lambda one: one[0])[1] if ended else drafts[0]
        return _written(chosen, sounding, silent)

    def _step(
        self, steps: list[int], place: int, before: list[KeysValues], heard: list[KeysValues]
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, SPECIAL + pieces) of what comes after each of these pieces, and how much it looks
        at each frame (B, T). before: what came earlier, to which this is added."""
        x, seen = self.pieces.weight[steps] + self.places[place], []
        for i, block in enumerate(self._blocks()):
            x, before[i], look = block(x, before[i], heard[i])
            seen.append(look)
        logits = self.norm(x) @ self.pieces.weight.T
        follows = torch.stack([seen[layer][head] for layer, head in FOLLOWING]).mean(0)
        return logits, follows


def _forget(module: nn.Module, _: object) -> None:
    """Silence that was heard with weights from before."""
    assert isinstance(module, Dictation)
    module._silence = []


def _written(draft: Draft, sounding: int, silent: float) -> Written:
    own = [pieces()[i] for i in draft.pieces]
    ends = list(itertools.accumulate(len(piece) for piece in own))
    frames = [0] * len(own)
    if own and sounding:
        frames = _places(torch.stack(draft.looks)[:, :sounding])
    return Written("".join(own), ends, frames, [math.exp(c) for c in draft.chances], silent)


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
