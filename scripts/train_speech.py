"""Trains what hears speech and sounds: stages `speech` and `sounds` of train_mini.py.

    python scripts/train_mini.py speech --data DATA --out RUN

speech: frames of Whisper's encoder (kept by speech_data.py) to letters, with CTC over each
utterance. The encoder stays as it is.

sounds: the frames of some 200 named sounds to tokens that their names' query tokens find, with the
library's trainer and InfoNCE. The text tower stays as it is, so this comes after it: run it again
(a minute) whenever the text tower has changed. Writes the package's weights.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import sound_data
import speech_data
import torch
import whisper_weights
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from training_run import Run

import lateint
from lateint.data.columns import Example, Item, key_of
from lateint.data.sets import ExampleSet
from lateint.losses import InfoNCE
from lateint.objective import Objective
from modalities import dictation
from modalities.encoder import Batch, Encoder, Role
from modalities.grid import TokenGrid
from modalities.hearing import BLANK, LATIN, LEAST, RATE, SPACE, Hearing, log_mel
from modalities.layout import DIM
from modalities.lexicon import Lexicon
from modalities.packed import pack, unpack
from modalities.page import PageText
from modalities.speech import SOUND_TOKENS, Sounds, SpeechReader

WEIGHTS = Path(__file__).parent.parent / "modalities" / "weights" / "speech.safetensors"
SEED = 23
BATCH_FRAMES = 8_000  # of a step, padding included
LEARNING_RATE, STEPS = 1.5e-3, 1300
VIEWS = 2  # of a sound: as it is, and slower
EPOCHS = 40


@dataclass
class Utterances:
    """frames (N, 384) fp16 of all shards; of each utterance its span and its letters."""

    frames: list[Tensor]
    spans: list[tuple[int, int, int]]
    letters: list[Tensor]

    @classmethod
    def of(cls, shards: list[Path]) -> Utterances:
        made = cls([], [], [])
        for path in shards:
            stored = load_file(str(path))
            sizes = (stored["offsets"][1:] - stored["offsets"][:-1]).tolist()
            for (start, stop), own in zip(
                stored["spans"].tolist(), stored["letters"].split(sizes), strict=True
            ):
                repeats = int((own[1:] == own[:-1]).sum()) if len(own) else 0
                if len(own) and stop - start >= len(own) + repeats + 2:
                    made.spans.append((len(made.frames), start, stop))
                    made.letters.append(own.long())
            made.frames.append(stored["frames"])
        return made

    def batches(self, rng: random.Random) -> Iterator[list[int]]:
        """All utterances once, those of like length together, steps in random order."""
        size = [stop - start for _, start, stop in self.spans]
        order = sorted(range(len(size)), key=lambda i: size[i] * rng.uniform(0.85, 1.15))
        steps: list[list[int]] = [[]]
        longest = 0
        for i in order:
            longest = max(longest, size[i])
            if longest * (len(steps[-1]) + 1) > BATCH_FRAMES:
                steps.append([])
                longest = size[i]
            steps[-1].append(i)
        rng.shuffle(steps)
        yield from steps

    def batch(self, chosen: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """frames (B, T, 384), which are real (B, T), all letters in a row, how many of each."""
        cut = [self.frames[s][a:b].float() for s, a, b in (self.spans[i] for i in chosen)]
        frames = torch.nn.utils.rnn.pad_sequence(cut, batch_first=True)
        lengths = torch.tensor([len(x) for x in cut])
        mask = torch.arange(frames.shape[1])[None] < lengths[:, None]
        letters = [self.letters[i] for i in chosen]
        counts = torch.tensor([len(x) for x in letters])
        return frames, mask, torch.cat(letters), counts


def blurred(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Frames with stretches of time and of channels put out: made-up voices are too clear, and
    what can only be heard in one place is not learnt from them."""
    batch, length, width = frames.shape
    keep = torch.ones(batch, length, 1)
    for _ in range(2):
        start = torch.rand(batch, 1, generator=generator) * length
        size = torch.rand(batch, 1, generator=generator) * min(12, length / 8)
        at = torch.arange(length)[None]
        keep[((at >= start) & (at < start + size))[..., None]] = 0
    channels = (torch.rand(batch, 1, width, generator=generator) > 0.1).float() / 0.9
    noise = torch.randn(frames.shape, generator=generator) * 0.1 * frames.std()
    return (frames + noise) * keep * channels


def spelling_loss(net: Hearing, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, float]]:
    """CTC, in nats a letter."""
    frames, mask, letters, counts = batch
    spelt = net.spell(frames, mask)
    lost = F.ctc_loss(
        spelt.transpose(0, 1), letters, mask.sum(1), counts, BLANK, "none", zero_infinity=True
    )
    loss = (lost / counts).mean()
    return loss, {"loss": loss.item()}


def train(shards: list[Path], out: Path, steps: int = STEPS, name: str = "hearing") -> Path:
    """The head; resumes. Returns the file of its averaged weights."""
    torch.manual_seed(SEED)
    net = Hearing()
    net.whisper = torch.nn.Identity()  # type: ignore[assignment]  # its frames are kept
    run = Run(out, net, LEARNING_RATE, steps, name=name, weight_decay=0.02)
    if run.step >= steps:
        return run.result
    data = Utterances.of(shards)
    print(f"{len(data.spans)} utterances", flush=True)
    net.train()
    epoch = run.step
    while run.step < steps:
        epoch += 1
        generator = torch.Generator().manual_seed(SEED + epoch)
        for chosen in data.batches(random.Random(SEED + epoch)):
            frames, *rest = data.batch(chosen)
            loss, facts = spelling_loss(net, (blurred(frames, generator), *rest))
            run.update(loss, facts, warm_up=60, clip=1.0, decay=0.99)
            if run.step >= steps:
                break
    return run.result


def greedy(spelt: Tensor) -> str:
    """What log probabilities (T, SOUNDS) say, as letters: only to look at."""
    best = spelt.argmax(1)
    best = best[torch.cat([torch.tensor([True]), best[1:] != best[:-1]])]
    return "".join(" " if c == SPACE else LATIN[c] for c in best.tolist() if c != BLANK)


def speech(args: argparse.Namespace) -> Path:
    """Stage `speech`."""
    folder = args.out / "speech"
    corpus = args.out / "corpus.json"
    shards = speech_data.make(args.data, folder / "windows", corpus, args.speech_shards)
    return train(shards, folder / "letters", args.speech_steps)


class StoredSounds(Encoder):
    """Sounds whose frames are in memory: raw items are (view, number)."""

    name, modality, dim = "stored-sounds", "audio", DIM

    def __init__(self, frames: list[list[Tensor]]) -> None:
        super().__init__()
        self.frames, self.sounds = frames, Sounds()

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        return Batch({"item": torch.tensor(raw, dtype=torch.long).view(-1, 2)}, role=role)

    def forward(self, batch: Batch) -> TokenGrid:
        items = batch.inputs["item"].tolist()
        tokens = [self.sounds(self._dimmed(self.frames[view][i].float())) for view, i in items]
        mask = torch.ones(len(tokens), SOUND_TOKENS, dtype=torch.bool)
        return TokenGrid(torch.stack(tokens), mask, ((1, SOUND_TOKENS),) * len(tokens))

    def _dimmed(self, frames: Tensor) -> Tensor:
        return F.dropout(frames, 0.3, self.training)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [SOUND_TOKENS] * len(raw)

    def labels(self, item: Any, role: Role) -> list[str]:
        return [f"sound {i}" for i in range(1, SOUND_TOKENS + 1)]


@torch.inference_mode()
def sound_frames(data: Path, kept: Path) -> list[list[Tensor]]:
    """Frames (T, AUDIO) fp16 of each view of each of `sound_data.sounds`; kept in a file."""
    found = sound_data.sounds(data)
    if not kept.exists():
        encoder, noise = whisper_weights.encoder(data), np.random.default_rng(SEED)
        stored = {}
        for i, sound in enumerate(found):
            for view in range(VIEWS):
                samples = sound.samples()
                if view:
                    places = np.arange(0, len(samples) - 1, 0.87)
                    samples = np.interp(places, np.arange(len(samples)), samples)
                    samples = samples + noise.standard_normal(len(samples)) * 0.002
                padded = np.pad(samples, (0, max(0, LEAST - len(samples)))).astype(np.float32)
                frames = encoder(log_mel(torch.from_numpy(padded))[None])[0]
                stored[f"{view}.{i}"] = frames[: max(1, len(samples) * 50 // RATE)].half().clone()
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(stored, str(kept))
    stored = load_file(str(kept))
    return [[stored[f"{view}.{i}"] for i in range(len(found))] for view in range(VIEWS)]


def train_sounds(data: Path, out: Path) -> Sounds:
    """The head for sounds, from names that are not held out; each step has no name twice."""
    torch.manual_seed(SEED)
    found = sound_data.sounds(data)
    encoder = StoredSounds(sound_frames(data, out / "frames.safetensors"))
    rng = random.Random(SEED)
    by_name: dict[str, list[int]] = {}
    for i, sound in enumerate(found):
        if not sound.held:
            by_name.setdefault(sound.name, []).append(i)
    steps = []
    for _ in range(EPOCHS):
        names = list(by_name)
        rng.shuffle(names)
        for name in names[: len(names) // 2 * 2]:
            chosen = (rng.randrange(VIEWS), rng.choice(by_name[name]))
            query = Item(name, "text", key_of("text", name))
            steps.append(Example(query, (Item(chosen, "audio", key_of("sound", name)),)))
    text = PageText.shipped()
    heads = {"multi": lateint.heads.make_head("multi", {"queries": "weighted"})}
    model = lateint.LateInteractionModel({"text": text, "audio": encoder}, heads)
    arguments = lateint.TrainingArguments(
        str(out / "run"), per_device_train_batch_size=len(by_name) // 2, num_train_epochs=1,
        learning_rate=3e-3, lr_scheduler_type="cosine", warmup_steps=10, weight_decay=0.1,
        max_grad_norm=1.0, train_sampling_strategy="sequential", dataloader_drop_last=True,
        freeze=["text"], logging_steps=20, save_strategy="no", seed=SEED, use_cpu=True,
        report_to=[], disable_tqdm=True,
    )  # fmt: skip
    objective = Objective(InfoNCE(0.3, learnable=True), "multi")
    trainer = lateint.Trainer(model, arguments, ExampleSet(steps, "sounds"), loss=[objective])
    trainer.train()
    return encoder.sounds.eval()


def hearing(data: Path, letters: Path) -> Hearing:
    """Whisper's encoder with the head for letters."""
    net = Hearing()
    state = load_file(str(letters))
    state |= {f"whisper.{k}": v for k, v in whisper_weights.encoder(data).state_dict().items()}
    net.load_state_dict(state)
    return net.eval()


def ear(data: Path, letters: Path) -> SpeechReader:
    """What hears words: a head for letters with the dictation that ships, contexts untrained."""
    reader = SpeechReader(PageText(Lexicon()))
    reader.hearing = hearing(data, letters)
    reader.dictation.load_state_dict(
        unpack(load((files("modalities") / "weights" / dictation.WEIGHTS).read_bytes()))
    )
    return reader.eval()


def write(data: Path, letters: Path, sounds: nn.Module, target: Path = WEIGHTS) -> None:
    """The package's weights: hearing.* and sounds.*, matrices as int8."""
    stored = {f"hearing.{k}": v for k, v in hearing(data, letters).state_dict().items()}
    stored |= {f"sounds.{k}": v for k, v in sounds.state_dict().items()}
    save_file(pack(stored), str(target))
    print(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB", flush=True)


def sounds(args: argparse.Namespace) -> Path:
    """Stage `sounds`, after `speech`: trains the head for sounds and writes all weights."""
    letters = speech(args)
    write(args.data, letters, train_sounds(args.data, args.out / "speech" / "sounds"))
    return WEIGHTS
