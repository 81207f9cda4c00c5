"""The ear that ships with the package: recordings into the space of pages and text.

`SpeechReader` hears English speech without transcribing it: one token a word, with its seconds
(`modalities.hearing`), in the same contexts as written text (`modalities.page.PageText`), so a
spoken question finds a page and a written one a recording. Where most of what sounds is no speech,
a few more tokens say what the sound is like. It hears words in Latin letters; numbers as words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities import lexicon, words
from modalities.encoder import Batch, Encoder, Role, check_role
from modalities.grid import TokenGrid
from modalities.hearing import AUDIO, FRAME, LEAST, MOST_FRAMES, RATE, Heard, Hearing, heard
from modalities.layout import DIM, QueryContext
from modalities.media import Audio, as_audio, audio_facts, resample
from modalities.packed import unpack
from modalities.page import MAX_WORDS, UNITS, PageText, typed

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHTS = "speech.safetensors"
OVERLAP = 100  # frames (2 s) that neighbouring windows of a long recording share
RATE_OF_WORDS = 3  # a second, of quick speech: for estimates
SOUND_TOKENS = 2
LOUD = 0.1  # of the loudest frame's amplitude from which on something sounds
REST = 0.3  # seconds around a word that belong to it
SPOKEN = 0.5  # share of what sounds that is speech, from which on nothing else is looked for


class Sounds(nn.Module):
    """Frames to SOUND_TOKENS tokens for what a sound is like: attention over time, projected."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Linear(AUDIO, SOUND_TOKENS)
        self.out = nn.Linear(AUDIO, DIM)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (T, AUDIO) -> unit rows (SOUND_TOKENS, DIM)."""
        share = self.look(frames).softmax(0).T
        return F.normalize(self.out(share @ frames), dim=-1)


class SpeechReader(Encoder):
    """Recordings -> one for the recording (the first), one token a word, and SOUND_TOKENS for a
    sound that is no speech.

    Raw items: `media.Audio`, the path of a recording's file, or (samples, rate). As a query at most
    64 words count, and a token's length is its learned weight, as of a written query. The grid's
    `seconds` say from when to when each word is heard. A recording in which nothing is heard has
    the first token alone.
    """

    name = "speech"
    modality = "audio"
    dim = DIM

    def __init__(self, text: PageText | None = None) -> None:
        """text: whose contexts and lexicon words get; None: an untrained one."""
        super().__init__()
        self.hearing = Hearing()
        self.sounds = Sounds()
        self.text = PageText() if text is None else text

    @classmethod
    def shipped(cls) -> Self:
        """With the weights that come with the package, in fp32, in eval mode. Its contexts are
        those of `PageText.shipped()`."""
        from safetensors.torch import load

        encoder = cls(PageText.shipped())
        path = files("modalities") / "weights" / WEIGHTS
        state = unpack(load(path.read_bytes()))
        state |= {f"text.{name}": tensor for name, tensor in encoder.text.state_dict().items()}
        off = sorted(state.keys() ^ encoder.state_dict().keys())
        if off:
            raise ValueError(f"the package's {WEIGHTS} does not fit ({off[0]}): reinstall lateint")
        encoder.load_state_dict(state)
        return encoder.eval()

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.text.layout.lexicon.save(Path(folder) / lexicon.WEIGHTS)

    @classmethod
    def build(cls, config: dict[str, Any], folder: Path) -> Self:
        return cls(PageText.build(config, folder))

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        """samples (B, n) fp32 at 16 kHz, padded with silence, and length (B,): how many are real.

        Raises MediaError naming a file that cannot be read, TypeError for other items.
        """
        check_role(role)
        sounds = [torch.from_numpy(resample(as_audio(item), RATE)) for item in raw]
        length = torch.tensor([len(sound) for sound in sounds], dtype=torch.long)
        padded = (
            nn.utils.rnn.pad_sequence(sounds, batch_first=True) if sounds else torch.zeros(0, 0)
        )
        return Batch(inputs={"samples": padded, "length": length}, role=role)

    def forward(self, batch: Batch) -> TokenGrid:
        """Hears one recording after the other (so its tokens cannot depend on its neighbours), then
        puts all words into context at once."""
        lengths = batch.inputs["length"].tolist()
        found = [
            self.listen(samples[:length].to(self.device))
            for samples, length in zip(batch.inputs["samples"], lengths, strict=True)
        ]
        most = QueryContext.MAX_WORDS if batch.role == "query" else MAX_WORDS
        told = [one for one, _ in found]
        grid = self.text(_written(told, most, batch.role))
        return self._joined(grid, told, [rows for _, rows in found], lengths)

    def listen(self, samples: Tensor) -> tuple[Heard, Tensor]:
        """The words of a recording (n,), and tokens (0 or SOUND_TOKENS, DIM) of its sound."""
        spelt, frames = self.spell(samples)
        told = heard(spelt)
        sounding = _sounding(samples, len(frames))
        spoken = sounding & _within(told.seconds, len(frames))
        if not len(frames) or int(spoken.sum()) >= SPOKEN * int(sounding.sum()):
            return told, frames.new_zeros(0, DIM)
        return told, self.sounds(frames[sounding & ~spoken])

    def spell(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities (T, SOUNDS) and frames (T, AUDIO) of a recording of any length: read in
        windows that share OVERLAP frames, each overlap cut in its middle."""
        samples = F.pad(samples.float(), (0, max(0, LEAST - len(samples))))
        step, total = MOST_FRAMES - OVERLAP, math.ceil(len(samples) / FRAME)
        starts = [0]
        while starts[-1] + MOST_FRAMES < total:
            starts.append(min(starts[-1] + step, total - MOST_FRAMES))
        spelt, frames, done = [], [], 0
        for start, later in zip(starts, [*starts[1:], None], strict=True):
            piece = samples[start * FRAME : (start + MOST_FRAMES) * FRAME]
            own, own_frames = self.hearing.listen(piece)
            until = None if later is None else (later + start + MOST_FRAMES) // 2 - start
            spelt.append(own[done - start : until])
            frames.append(own_frames[done - start : until])
            done += len(spelt[-1])
        return torch.cat(spelt), torch.cat(frames)

    def _joined(
        self, grid: TokenGrid, told: list[Heard], sounds: list[Tensor], lengths: list[int]
    ) -> TokenGrid:
        """The words' tokens with their seconds, and the sounds' tokens behind them."""
        rows, seconds, pooled = [], [], []
        for i, (one, sound, length) in enumerate(zip(told, sounds, lengths, strict=True)):
            count = grid.shape[i][1]
            whole = torch.tensor([[0.0, length / RATE]])
            rows.append(torch.cat([grid.tokens[i, :count], sound.to(grid.tokens)]))
            times = one.seconds[: count - 1].cpu().clamp(max=length / RATE)
            seconds.append(torch.cat([whole, times, whole.expand(len(sound), 2)]))
            alone = len(sound) and count == 1
            pooled.append(F.normalize(sound.mean(0), dim=0).to(grid.tokens) if alone else None)
        if not rows:
            return TokenGrid(
                grid.tokens,
                grid.mask,
                (),
                grid.pooled,
                seconds=torch.zeros(0, grid.mask.shape[1], 2),
            )
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        sizes = torch.tensor([len(row) for row in rows])
        mask = torch.arange(tokens.shape[1])[None] < sizes[:, None]
        times = nn.utils.rnn.pad_sequence(seconds, batch_first=True)
        if grid.pooled is not None:
            merged = [
                own if only is None else only
                for own, only in zip(grid.pooled.unbind(0), pooled, strict=True)
            ]
        return TokenGrid(
            tokens,
            mask.to(tokens.device),
            tuple((1, len(row)) for row in rows),
            None if grid.pooled is None else torch.stack(merged),
            seconds=times.to(tokens.device),
        )

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """A guess from the length: RATE_OF_WORDS a second. Of files the header is read; raises
        MediaError as `prepare` does."""
        check_role(role)
        most = QueryContext.MAX_WORDS if role == "query" else MAX_WORDS
        return [1 + min(most, math.ceil(RATE_OF_WORDS * _seconds(item))) for item in raw]

    def labels(self, item: Any, role: Role) -> list[str]:
        """ "[recording]", then "word 1", "word 2" ..., "sound 1" ...: it spells nothing."""
        batch = self.prepare([item], role)
        with torch.inference_mode():
            told, sound = self.listen(batch.inputs["samples"][0].to(self.device))
        most = QueryContext.MAX_WORDS if role == "query" else MAX_WORDS
        count = min(most, len(told.vectors))
        spoken = [f"word {i}" for i in range(1, count + 1)]
        return ["[recording]", *spoken, *(f"sound {i}" for i in range(1, len(sound) + 1))]


def _written(told: list[Heard], most: int, role: Role) -> Batch:
    """What was heard as `PageText` has what was written: words of as many letters, typed."""
    vectors = [one.vectors[:most].cpu() for one in told]
    inputs = {
        "count": torch.tensor([len(v) for v in vectors], dtype=torch.long),
        "vectors": torch.cat([torch.zeros(0, words.WIDTH), *vectors]),
    }
    if role == "document":
        lines = [" ".join("x" * n for n in one.letters[:most].tolist()) for one in told]
        boxes = torch.cat([torch.zeros(0, 4), *(typed(line) for line in lines)])
        inputs["boxes"] = (boxes * UNITS).round().int()
    return Batch(inputs=inputs, role=role)


def _sounding(samples: Tensor, frames: int) -> Tensor:
    """(frames,) bool: whether there is sound in a frame, against the loudest one."""
    if not frames:
        return torch.zeros(0, dtype=torch.bool, device=samples.device)
    power = F.pad(samples.float(), (0, max(0, frames * FRAME - len(samples))))[: frames * FRAME]
    level = power.view(frames, FRAME).square().mean(1).sqrt()
    return (level > LOUD * level.max()) & (level > 1e-4)


def _within(seconds: Tensor, frames: int) -> Tensor:
    """(frames,) bool: whether a frame lies in one of these stretches (N, 2), or near it."""
    middle = (torch.arange(frames, device=seconds.device) + 0.5) * (FRAME / RATE)
    after = middle[:, None] > seconds[:, 0] - REST
    return (after & (middle[:, None] < seconds[:, 1] + REST)).any(1)


def _seconds(item: Any) -> float:
    """Length of a raw item; of a file its header is read."""
    if isinstance(item, Audio):
        return item.seconds
    return as_audio(item).seconds if isinstance(item, tuple) else audio_facts(item).seconds
