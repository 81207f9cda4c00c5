"""The ear that ships with the package: recordings into the space of pages and text.

`SpeechReader` hears English speech: one token a word, with its seconds, in the same contexts as
written text (`modalities.page.PageText`), so a spoken question finds a page and a written one a
recording. Words are those that are written down (`modalities.dictation`). Where what was written is
in doubt, the words as they are heard letter by letter (`modalities.hearing`) stand beside them, and
alone where it is not likely to have been said. Where most of what sounds is no speech, a few more
tokens say what the sound is like. Numbers are words to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities import dictation, lexicon, words
from modalities.agreement import Agreement
from modalities.dictation import Dictation, Written, spans
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
SILENCE = dictation.TAIL * RATE // FRAME  # frames of it that are read behind each window
WINDOW = MOST_FRAMES - SILENCE  # frames of a recording that are read together
RATE_OF_WORDS = 3  # a second, of quick speech: for estimates
SOUND_TOKENS = 2
LOUD = 0.1  # of the loudest frame's amplitude from which on something sounds
REST = 0.3  # seconds around a word that belong to it
NOTHING = 0.7  # probability of "no speech" that the decoder gives, above which ...
CLEAR = 0.75  # ... with letters less certain than this on average, a window has no words
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


@dataclass
class Window:
    """What is read together of a recording, from frame `start` on. Of it counts what lies in `own`,
    frames from `start` on; the rest is its neighbours'.

    spelt (T, SOUNDS): log probabilities of letters in all of it; speech: whether any is heard;
    written: None where no word is heard."""

    start: int
    own: slice
    spelt: Tensor
    speech: bool
    written: Written | None


@dataclass
class Impression:
    """What was heard in a recording. said: its words; instead: where those are in doubt, the words as
    they sound; sound: (0 or SOUND_TOKENS, DIM) of what is no speech."""

    said: Heard
    instead: Heard
    sound: Tensor


class SpeechReader(Encoder):
    """Recordings -> one for the recording (the first), one token a word, those that may have been said
    instead of them, and SOUND_TOKENS for a sound that is no speech.

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
        self.dictation = Dictation()
        self.sounds = Sounds()
        self.text = PageText() if text is None else text

    @classmethod
    def shipped(cls) -> Self:
        """With the weights that come with the package, in fp32, in eval mode. Its contexts are
        those of `PageText.shipped()`."""
        from safetensors.torch import load

        encoder = cls(PageText.shipped())
        folder = files("modalities") / "weights"
        state = unpack(load((folder / WEIGHTS).read_bytes()))
        written = unpack(load((folder / dictation.WEIGHTS).read_bytes()))
        state |= {f"dictation.{name}": tensor for name, tensor in written.items()}
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
        said = [_first(one.said, most) for one in found]
        instead = [
            _first(one.instead, most - len(own.vectors))
            for one, own in zip(found, said, strict=True)
        ]
        grid = self.text(_written([*said, *instead], batch.role))
        return self._joined(grid, said, instead, [one.sound for one in found], lengths)

    def listen(self, samples: Tensor) -> Impression:
        """What is heard in a recording (n,)."""
        whole = math.ceil(max(len(samples), LEAST) / FRAME) * FRAME
        samples = F.pad(samples.float(), (0, whole - len(samples)))
        windows = list(self.windows(samples))
        spelt = heard(torch.cat([window.spelt[window.own] for window in windows]))
        said, instead = _told(windows, spelt)
        count = whole // FRAME
        sounding = _sounding(samples, count)
        words_of = [spelt.seconds[_inside(spelt, window)] for window in windows if window.speech]
        spoken = sounding & _within(torch.cat([spelt.seconds[:0], *words_of]), count)
        if int(spoken.sum()) >= SPOKEN * int(sounding.sum()):
            return Impression(said, instead, samples.new_zeros(0, DIM))
        alone = [  # what sounds are like was learnt without silence behind them
            self.hearing.frames(samples[w.start * FRAME :][: len(w.spelt) * FRAME])[w.own]
            for w in windows
        ]
        return Impression(said, instead, self.sounds(torch.cat(alone)[sounding & ~spoken]))

    @torch.no_grad()
    def windows(self, samples: Tensor) -> Iterator[Window]:
        """A recording of whole frames (n,), of any length, in windows as long as each other that share
        OVERLAP frames or a few more, each overlap cut in its middle. Behind each is silence, which the
        dictation needs and none holds."""
        total = len(samples) // FRAME
        count = max(1, math.ceil((total - OVERLAP) / (WINDOW - OVERLAP)))
        size = math.ceil((total + (count - 1) * OVERLAP) / count)
        starts = [min(i * (size - OVERLAP), total - size) for i in range(count)]
        done = 0
        for start, later in zip(starts, [*starts[1:], None], strict=True):
            piece = samples[start * FRAME : (start + size) * FRAME]
            frames = self.hearing.frames(F.pad(piece, (0, SILENCE * FRAME)))
            known = torch.ones(1, size, dtype=torch.bool, device=frames.device)
            spelt = self.hearing.spell(frames[None, :size], known)[0]
            until = size if later is None else (later + start + size) // 2 - start
            own = slice(done - start, until)
            speech, written = self._write(frames, spelt)
            yield Window(start, own, spelt, speech, written)
            done = start + until

    def _write(self, frames: Tensor, spelt: Tensor) -> tuple[bool, Written | None]:
        """Whether there is speech in a window, and what is written of it: at first what is likeliest
        by itself, and where that is in doubt what agrees with the letters as well."""
        own = heard(spelt)
        if not len(own.vectors):
            return False, None
        if not self.dictation.quieted:
            silence = torch.zeros(MOST_FRAMES * FRAME, device=frames.device)
            self.dictation.quiet(self.hearing.frames(silence))
        seen = self.dictation.hear(frames)
        written = self.dictation.write(seen, len(spelt))
        if written.certain:
            return True, written
        clear = float((own.certainty * own.letters).sum() / own.letters.sum())
        if written.silent > NOTHING and clear < CLEAR:
            return False, None
        return True, self.dictation.write(seen, len(spelt), Agreement(spelt))

    def _joined(
        self,
        grid: TokenGrid,
        said: list[Heard],
        instead: list[Heard],
        sounds: list[Tensor],
        lengths: list[int],
    ) -> TokenGrid:
        """The words' tokens with their seconds, and the sounds' tokens behind them. grid: of all that
        was `said`, then of all that may have been instead, each with a token for the whole."""
        rows, seconds, pooled = [], [], []
        for i, (one, other, sound, length) in enumerate(
            zip(said, instead, sounds, lengths, strict=True)
        ):
            whole = torch.tensor([[0.0, length / RATE]])
            own = grid.tokens[i, : 1 + len(one.vectors)]
            beside = grid.tokens[len(said) + i, 1 : 1 + len(other.vectors)]
            rows.append(torch.cat([own, beside, sound.to(own)]))
            times = torch.cat([one.seconds, other.seconds]).cpu().clamp(max=length / RATE)
            seconds.append(torch.cat([whole, times, whole.expand(len(sound), 2)]))
            if grid.pooled is not None:
                both = [grid.pooled[i]]
                if len(other.vectors):
                    both.append(grid.pooled[len(said) + i])
                elif len(sound) and not len(one.vectors):
                    both = [sound.mean(0).to(both[0])]
                pooled.append(F.normalize(torch.stack(both).mean(0), dim=0))
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
        return TokenGrid(
            tokens,
            mask.to(tokens.device),
            tuple((1, len(row)) for row in rows),
            torch.stack(pooled) if pooled else None,
            seconds=times.to(tokens.device),
        )

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        """A guess from the length: RATE_OF_WORDS a second. Of files the header is read; raises
        MediaError as `prepare` does."""
        check_role(role)
        most = QueryContext.MAX_WORDS if role == "query" else MAX_WORDS
        return [1 + min(most, math.ceil(RATE_OF_WORDS * _seconds(item))) for item in raw]

    def labels(self, item: Any, role: Role) -> list[str]:
        """ "[recording]", then the words, "word 3" for a third one that was heard but not written
        down, and "sound 1" ..."""
        batch = self.prepare([item], role)
        with torch.inference_mode():
            found = self.listen(batch.inputs["samples"][0].to(self.device))
        most = QueryContext.MAX_WORDS if role == "query" else MAX_WORDS
        names = [*found.said.written, *found.instead.written][:most]
        spoken = [word or f"word {i}" for i, word in enumerate(names, 1)]
        return ["[recording]", *spoken, *(f"sound {i}" for i in range(1, len(found.sound) + 1))]


def _told(windows: list[Window], spelt: Heard) -> tuple[Heard, Heard]:
    """Window by window the words that were written, or where that is not trusted those that were
    `spelt`; and those that were spelt where what was written is in doubt."""
    nothing = _some(spelt, torch.zeros_like(spelt.letters, dtype=torch.bool))
    said, instead = [nothing], [nothing]
    for window in windows:
        own = _some(spelt, _inside(spelt, window)) if window.speech else nothing
        if window.written is None or not window.written.trusted:
            said.append(own)
            continue
        said.append(_words(window, window.written, spelt))
        if not window.written.certain:
            instead.append(own)
    return _chained(said), _chained(instead)


def _words(window: Window, written: Written, like: Heard) -> Heard:
    """The words that were written and that count in this window; tensors as those of `like`."""
    first, last = window.start + window.own.start, window.start + window.own.stop
    found = list(words.split(written.text))
    kept = [
        (word, a + window.start, b + window.start, sure)
        for (word, _, _), (a, b, sure) in zip(found, spans(written, found), strict=True)
        if first <= window.start + a < last
    ]
    names = [word for word, *_ in kept]
    times = torch.tensor([[a, b] for _, a, b, _ in kept]).view(-1, 2)
    return Heard(
        words.vectors(names).to(like.vectors),
        times.to(like.seconds) * (FRAME / RATE),
        torch.tensor([len(name) for name in names]).to(like.letters),
        torch.tensor([sure for *_, sure in kept]).to(like.certainty),
        names,
    )


def _inside(spelt: Heard, window: Window) -> Tensor:
    """(N,) bool: which words' middles count in this window."""
    middle = spelt.seconds.mean(1) * (RATE / FRAME) - window.start
    return (middle >= window.own.start) & (middle < window.own.stop)


def _some(one: Heard, kept: Tensor) -> Heard:
    names = [name for name, stays in zip(one.written, kept.tolist(), strict=True) if stays]
    return Heard(
        one.vectors[kept], one.seconds[kept], one.letters[kept], one.certainty[kept], names
    )


def _first(one: Heard, most: int) -> Heard:
    return _some(one, torch.arange(len(one.letters), device=one.letters.device) < most)


def _chained(parts: list[Heard]) -> Heard:
    return Heard(
        torch.cat([part.vectors for part in parts]),
        torch.cat([part.seconds for part in parts]),
        torch.cat([part.letters for part in parts]),
        torch.cat([part.certainty for part in parts]),
        [name for part in parts for name in part.written],
    )


def _written(told: list[Heard], role: Role) -> Batch:
    """What was heard as `PageText` has what was written: words of as many letters, typed."""
    vectors = [one.vectors.cpu() for one in told]
    inputs = {
        "count": torch.tensor([len(v) for v in vectors], dtype=torch.long),
        "vectors": torch.cat([torch.zeros(0, words.WIDTH), *vectors]),
    }
    if role == "document":
        lines = [" ".join("x" * n for n in one.letters.tolist()) for one in told]
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
    edge = seconds + seconds.new_tensor([-REST, REST])
    first, last = (edge * (RATE / FRAME) - 0.5).unbind(1)
    change = torch.zeros(frames + 1, device=seconds.device)
    one = torch.ones_like(first)
    change.index_add_(0, (first.floor().long() + 1).clamp(0, frames), one)
    change.index_add_(0, last.ceil().long().clamp(0, frames), -one)
    return change.cumsum(0)[:frames] > 0.5


def _seconds(item: Any) -> float:
    """Length of a raw item; of a file its header is read."""
    if isinstance(item, Audio):
        return item.seconds
    return as_audio(item).seconds if isinstance(item, tuple) else audio_facts(item).seconds
