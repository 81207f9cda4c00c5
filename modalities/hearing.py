"""Hearing: a recording's samples to one vector a word, with its seconds.

Whisper tiny.en's encoder turns sound into frames of 20 ms; a small convolutional head says for each
frame which letter is heard there, none, or the space between two words (trained with CTC). Nothing
is decoded: as the glyph reader does with pixels, the letters' probabilities are summed into the
word's vector (`modalities.words.sketch`), so doubt stays doubt.

This module knows samples, frames and letters; what surrounds a word, and retrieval, are for others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities import words

RATE = 16_000  # samples a second
HOP = 160  # samples from one column of the spectrogram to the next
FFT = 400
MELS = 80
FRAME = 2 * HOP  # samples of a frame: 20 ms
MOST_FRAMES = 1500  # of one window: 30 s, what the encoder was made for
LEAST = RATE  # samples: what is shorter is read with silence behind it
AUDIO = 384  # width of the encoder
HEADS = 6
LAYERS = 4

LATIN = "abcdefghijklmnopqrstuvwxyz"  # numbers are heard as words
SPACE, BLANK = len(LATIN), len(LATIN) + 1  # after the letters: between words, nothing new
SOUNDS = BLANK + 1
ENGLISH = "english.txt"  # package data: words, the most frequent first


@cache
def mel_filters() -> Tensor:
    """(FFT // 2 + 1, MELS) fp32: Slaney's mel scale (linear below 1 kHz, logarithmic above) in
    triangles of equal area up to 8 kHz, as Whisper's were made by librosa."""
    step = math.log(6.4) / 27
    most = 15 + math.log(RATE / 2 / 1000) / step
    mels = torch.linspace(0, most, MELS + 2, dtype=torch.float64)
    hertz = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp((mels - 15) * step))
    bins = torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64)[:, None]
    low, middle, high = hertz[:-2], hertz[1:-1], hertz[2:]
    rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
    with torch.inference_mode(False):
        filters: Tensor = torch.minimum(rise, fall).clamp(min=0) * (2 / (high - low))
        return filters.float()


def log_mel(samples: Tensor) -> Tensor:
    """Samples (n,) fp32 at RATE -> (MELS, n // HOP): log10 of the power, at most 8 below the
    loudest, shifted and scaled as Whisper has it."""
    window = torch.hann_window(FFT, device=samples.device)
    spectrum = torch.stft(samples, FFT, HOP, window=window, center=True, return_complex=True)
    power = spectrum[:, :-1].abs() ** 2
    mel = mel_filters().to(samples.device).T @ power
    log = mel.clamp(min=1e-10).log10()
    return (log.maximum(log.max() - 8) + 4) / 4


class Layer(nn.Module):
    """Attention over all frames and an MLP, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_seen, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.rise, self.fall = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C)
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_seen(x)).view(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.fall(F.gelu(self.rise(self.norm_mlp(x))))


class Whisper(nn.Module):
    """Whisper tiny.en's encoder (8.2 million parameters, MIT): spectrograms to frames.

    It reads as many frames as there are: padding to half a minute, which Whisper's decoder needs,
    would make a short question ten times as dear. The head was trained on windows of all lengths.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(MELS, AUDIO, 3, padding=1)
        self.conv2 = nn.Conv1d(AUDIO, AUDIO, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.randn(MOST_FRAMES, AUDIO) * 0.02)
        self.layers = nn.ModuleList(Layer(AUDIO, HEADS) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(AUDIO)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, MELS, n) -> (B, ceil(n / 2), AUDIO), at most MOST_FRAMES frames."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


WIDE = 256  # of the head
REACH = 11  # steps of 40 ms that a block's convolution sees
BLOCKS = 4
PRESENT = 0.3  # a frame with less than this of any letter or space says nothing new; lower: more
PAUSE = 0.6  # seconds between two letters from which on they are of two words
SLOW = 0.4  # seconds a letter beyond which a word is none: noises that last
SURE = 0.35  # mean certainty of a word's letters below which it is no word; lower: noise is heard


class Near(nn.Module):
    """Neighbours in time (depthwise convolution) and an MLP, each after a norm."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.norm_near, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.near = nn.Conv1d(width, width, reach, padding=reach // 2, groups=width)
        self.rise, self.fall = nn.Linear(width, 5 * width // 2), nn.Linear(5 * width // 2, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # (B, T, C), (B, T, 1)
        beside = (self.norm_near(x) * mask).transpose(1, 2)
        x = x + F.gelu(self.near(beside)).transpose(1, 2)
        return x + self.fall(F.gelu(self.rise(self.norm_mlp(x))))


@dataclass
class Heard:
    """What was heard in one recording, in time.

    vectors: (N, WIDTH) unit rows, one a word; seconds: (N, 2) from when to when; letters: (N,) how
    many of each word were heard; certainty: (N,) mean probability of its letters, 0..1; written:
    the words, folded, where they were written down (`modalities.dictation`), else "" for each.
    """

    vectors: Tensor
    seconds: Tensor
    letters: Tensor
    certainty: Tensor
    written: list[str]


class Hearing(nn.Module):
    """Frames of the encoder to letters: 1.7 million parameters at 25 steps a second, each of which
    answers for two frames (at 25 letters a second CTC would run out of places)."""

    def __init__(self) -> None:
        super().__init__()
        self.whisper = Whisper()
        self.enter = nn.Conv1d(AUDIO, WIDE, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Near(WIDE, REACH) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDE)
        self.out = nn.Linear(WIDE, 2 * SOUNDS)

    def frames(self, samples: Tensor) -> Tensor:
        """Samples (n,) at RATE, at most 30 s -> (T, AUDIO), a frame each 20 ms."""
        dtype = next(self.whisper.parameters()).dtype
        found: Tensor = self.whisper(log_mel(samples)[None].to(dtype))[0]
        return found

    def spell(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frames (B, T, AUDIO) and which are real (B, T) -> log probabilities (B, T, SOUNDS) of
        the letters, SPACE and BLANK."""
        length = frames.shape[1]
        odd = length % 2
        frames = F.pad(frames * mask[..., None], (0, 0, 0, odd))
        mask = F.pad(mask, (0, odd))[:, ::2, None].to(frames.dtype)
        x = self.enter(frames.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x, mask)
        logits = self.out(self.norm(x)).unflatten(2, (2, SOUNDS)).flatten(1, 2)
        return logits[:, :length].float().log_softmax(-1)

    @torch.no_grad()
    def listen(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities (T, SOUNDS) and frames (T, AUDIO) of at most 30 s of samples."""
        frames = self.frames(samples)
        mask = torch.ones(1, len(frames), dtype=torch.bool, device=frames.device)
        return self.spell(frames[None], mask)[0], frames


def units(spelt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """CTC's peaks: of log probabilities (T, SOUNDS) the runs of frames that say the same thing.

    Returns shares (U, BLANK) of the letters and SPACE (rows sum to 1), weight (U,) how probable it
    is that anything is there, and the first and last frame (U, 2) of each run.
    """
    chance = spelt.exp()
    said, there = chance[:, :BLANK], 1 - chance[:, BLANK]
    best = said.argmax(1)
    present = there > PRESENT
    fresh = present.clone()
    fresh[1:] &= ~present[:-1] | (best[1:] != best[:-1])
    run = fresh.long().cumsum(0) - 1
    count = int(fresh.sum())
    kept = torch.nonzero(present)[:, 0]
    owner = run[kept]
    shares = said.new_zeros(count, BLANK).index_add_(0, owner, said[kept])
    weight = said.new_zeros(count).scatter_reduce_(0, owner, there[kept], "amax")
    first = torch.nonzero(fresh)[:, 0]
    last = first.clone().scatter_reduce_(0, owner, kept, "amax")
    return F.normalize(shares, p=1, dim=1), weight, torch.stack([first, last], 1)


def heard(spelt: Tensor) -> Heard:
    """The words in log probabilities (T, SOUNDS) of consecutive frames."""
    shares, weight, spans = units(spelt)
    space = shares.argmax(1) == SPACE
    far = spans[1:, 0] - spans[:-1, 1] > PAUSE * RATE / FRAME
    ends = space.clone()
    ends[1:] |= far
    word = ends.long().cumsum(0)[~space]
    shares, weight, spans = shares[~space, :SPACE], weight[~space], spans[~space]
    if not len(word):
        none = spelt.new_zeros(0)
        return Heard(none.view(0, words.WIDTH), none.view(0, 2), none.long(), none, [])
    _, word, letters = word.unique_consecutive(return_inverse=True, return_counts=True)
    here = spelt.new_zeros(len(word), words.CLASSES)
    here[:, words.codes(LATIN)] = F.normalize(shares, p=1, dim=1)
    before, after = (_beside(here, weight, word, step) for step in (1, -1))

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(letters), *values.shape[1:]).index_add_(0, word, values)

    book = words.codebook().to(spelt.device)
    vectors = total(weight[:, None] * words.sketch(book, before, here, after))
    certainty = total(weight * here.amax(1)) / letters
    first = spans.new_full((len(letters),), len(spelt))
    first = first.scatter_reduce(0, word, spans[:, 0], "amin")
    last = torch.zeros_like(first).scatter_reduce(0, word, spans[:, 1] + 1, "amax")
    said = shares.argmax(1).split(letters.tolist())
    slow = (last - first) * (FRAME / RATE) > SLOW * letters
    sure = (certainty > SURE) & ~slow
    first, last, letters, certainty = first[sure], last[sure], letters[sure], certainty[sure]
    unit = F.normalize(vectors[sure], dim=1)
    seconds = torch.stack([first, last], 1).float() * (FRAME / RATE)
    kept = [one for one, stays in zip(said, sure.tolist(), strict=True) if stays]
    unit = expected(spelt, unit, first, last, kept)
    return Heard(unit, seconds, letters, certainty, [""] * len(unit))


LIKELY = 48  # words of the vocabulary that a heard one may be, those spelt most like it
STRANGE = (
    4.0  # nats against a word's being none of the vocabulary's; larger: more is taken for known
)
PRIOR = 0.6  # how much a word's frequency counts against its sound
TRUST = 0.6  # how much the sound counts: frames are no independent witnesses, as CTC takes them


@cache
def vocabulary() -> tuple[Tensor, Tensor, Tensor]:
    """English words, the most frequent first (package data): their letters (V, most) padded with
    BLANK, how many (V,), and their vectors (V, WIDTH)."""
    text = (files("modalities") / "weights" / ENGLISH).read_text("ascii")
    spelling = text.split()
    with torch.inference_mode(False):
        letters = [torch.tensor([LATIN.index(c) for c in word]) for word in spelling]
        padded = nn.utils.rnn.pad_sequence(letters, batch_first=True, padding_value=BLANK)
        return padded, torch.tensor([len(x) for x in letters]), words.vectors(spelling)


def expected(
    spelt: Tensor, unit: Tensor, first: Tensor, last: Tensor, said: list[Tensor]
) -> Tensor:
    """Vectors (N, WIDTH) of heard words, in expectation over what they may be: each of the LIKELY
    words of the vocabulary that are spelt most like it, weighed by how well its letters explain the
    frames (CTC) and by how frequent it is, or none of them, with the vector `unit` as it sounds.

    English is not spelt as it sounds: this is how "coferens" comes to lie near "conference".
    spelt: (T, SOUNDS); first, last: (N,) frames of each word; said: its letters as they sound.
    """
    if not len(unit):
        return unit
    padded, sizes, vectors = (x.to(spelt.device) for x in vocabulary())
    count = len(unit)
    likely = (unit @ vectors.T).topk(min(LIKELY, len(vectors))).indices  # (N, K)
    most = max(padded.shape[1], max(len(one) for one in said))
    own = torch.stack([F.pad(one, (0, most - len(one)), value=BLANK) for one in said])
    targets = F.pad(padded[likely], (0, most - padded.shape[1]), value=BLANK)
    targets = torch.cat([targets, own[:, None]], 1)  # (N, K + 1, most): the last as it sounds
    lengths = torch.tensor([len(one) for one in said], device=spelt.device)
    lengths = torch.cat([sizes[likely], lengths[:, None]], 1)
    begin, end = (first - 1).clamp(min=0), (last + 1).clamp(max=len(spelt))
    at = begin[:, None] + torch.arange(int((end - begin).max()), device=spelt.device)
    frames = spelt[at.clamp(max=len(spelt) - 1)]  # (N, T', SOUNDS)
    choices = targets.shape[1]
    lost = F.ctc_loss(
        frames.repeat_interleave(choices, 0).transpose(0, 1),
        targets.flatten(0, 1),
        (end - begin).repeat_interleave(choices),
        lengths.flatten(),
        BLANK,
        "none",
    ).view(count, choices)
    rank = torch.log(likely.float() + 10)
    rare = torch.cat([PRIOR * rank, rank.new_full((count, 1), PRIOR * 9 + STRANGE)], 1)
    share = (-TRUST * lost - rare).softmax(1)
    mixed = torch.cat([vectors[likely], unit[:, None]], 1)
    return F.normalize((share[..., None] * mixed).sum(1), dim=1)


def _beside(here: Tensor, weight: Tensor, word: Tensor, step: int) -> Tensor:
    """(U, NEIGHBOURS) probabilities of the letter before (step 1) or after (-1) each letter. Where
    a neighbour may not be there, with the rest of its weight the one beyond it is the neighbour."""
    edge = F.one_hot(torch.tensor(words.BOUNDARY), words.NEIGHBOURS).to(here)
    wide = F.pad(here, (0, words.NEIGHBOURS - here.shape[1]))

    def shifted(by: int) -> Tensor:
        near = wide.roll(by, 0)
        same = word.roll(by, 0) == word
        index = torch.arange(len(word), device=word.device) - by
        same &= (index >= 0) & (index < len(word))
        return torch.where(same[:, None], near, edge)

    sure = weight.roll(step, 0)[:, None]
    return sure * shifted(step) + (1 - sure) * shifted(2 * step)
