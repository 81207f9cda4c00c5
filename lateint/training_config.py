"""A training run as a TOML file: `lateint train config.toml`.

Tables become frozen dataclasses, strictly: an unknown key is an error that names the nearest known
one. Paths start at the file's folder. EXAMPLE, at the end, is a whole file with every table.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lateint.adapters import Lora
from lateint.card import Card
from lateint.config import MAX_CONFIG_BYTES, ConfigError, check_keys, from_json, nearest
from lateint.data.columns import Column, Columns

if TYPE_CHECKING:
    from lateint.data.sets import TrainingSet
    from lateint.losses import Loss
    from lateint.model import LateInteractionModel
    from lateint.objective import Goal
    from lateint.trainer import Trainer


@dataclass(frozen=True)
class ModelTable:
    """load: a folder or a name, as `lateint.load` takes it; or backbones with fresh projections, as
    `LateInteractionModel.from_backbones` takes them: text, image, audio, clip, dim, heads,
    pretrained and options. head_options: of heads, by kind ({multi = {queries = "learned"}}); a head
    that is named here is a fresh one; width, where it is wanted, is the model's."""

    load: str | None = None
    text: str | None = None
    image: str | None = None
    audio: str | None = None
    clip: str | None = None
    dim: int = 128
    heads: tuple[str, ...] = ("multi", "single")
    pretrained: bool = True
    text_options: dict[str, Any] = field(default_factory=dict)
    audio_options: dict[str, Any] = field(default_factory=dict)
    clip_options: dict[str, Any] = field(default_factory=dict)
    head_options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        backbones = any(one is not None for one in (self.text, self.image, self.audio, self.clip))
        if (self.load is None) != backbones:
            raise ValueError("wanted load, or backbones (text, image, audio, clip), not both")


@dataclass(frozen=True)
class DataTable:
    """path: a file or folder. kind: "table" (whatever `lateint.data.read` reads), "stream" (.jsonl,
    .parquet), "outline" and "sentences" (PDFs), "captions" (pictures or recordings of `modality`).
    columns: what they are for, else by position; scores, negatives, best_first: as of
    `lateint.data.Columns`. split: which qrels. name, licence, source: for the model card."""

    path: Path
    kind: Literal["table", "stream", "outline", "sentences", "captions"] = "table"
    columns: tuple[Column, ...] = ()
    scores: tuple[str, ...] = ()
    negatives: int | None = None
    best_first: bool = False
    split: str = "train"
    modality: str = "image"
    name: str = ""
    licence: str = ""
    source: str = ""


@dataclass(frozen=True)
class LossTable:
    """kind: a class of `lateint.losses`; options: its arguments. head; scorer, scorer_options: of
    `lateint.scorers`. dims, tokens, rule, weight: as of `lateint.objective.Objective`. filter:
    arguments of `lateint.losses.Filtered`, which leaves out likely positives."""

    kind: str = "InfoNCE"
    head: str = "multi"
    options: dict[str, Any] = field(default_factory=dict)
    scorer: str = "MaxSim"
    scorer_options: dict[str, Any] = field(default_factory=dict)
    dims: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    rule: str = "runs"
    weight: float = 1.0
    filter: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DistilTable:
    """One head learns from another: `lateint.objective.Distil`. kind, options: its loss."""

    teacher: str = "multi"
    student: str = "single"
    kind: str = "KL"
    options: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True)
class EvaluateTable:
    """A benchmark's folder (corpus, queries, qrels/<split>), ranked by each head while training.
    metrics: None: the usual ones. queries, documents: only so many, drawn."""

    path: Path
    name: str = ""
    split: str = "dev"
    heads: tuple[str, ...] = ("multi",)
    metrics: tuple[str, ...] | None = None
    queries: int | None = None
    documents: int | None = None


@dataclass(frozen=True)
class RunConfig:
    """A whole run. output: folder of checkpoints; the model that comes out is in output/model.
    arguments: of `lateint.TrainingArguments` (all of transformers' and ours). data: one table or
    several. eval_data: for an eval_loss. Where something is evaluated and `arguments` does not say
    when, it is after each epoch."""

    output: Path
    model: ModelTable
    data: tuple[DataTable, ...]
    loss: tuple[LossTable, ...] = (LossTable(),)
    distil: tuple[DistilTable, ...] = ()
    evaluate: tuple[EvaluateTable, ...] = ()
    eval_data: tuple[DataTable, ...] = ()
    lora: Lora | None = None
    card: Card = field(default_factory=Card)
    arguments: dict[str, Any] = field(default_factory=dict)


def read_config(path: Path | str) -> RunConfig:
    """The run that a TOML file describes. Raises ConfigError: file, table and key."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, not a configuration")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        values = _toml().loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return from_json(RunConfig, values, str(path))


def build(config: RunConfig, folder: Path) -> Trainer:
    """The trainer of a run, ready to `train()`. folder: where its paths start.

    Raises ConfigError (wrong names or options), DataError, BenchmarkError.
    """
    from lateint.trainer import Trainer

    train = [
        _stream(one, folder) if one.kind == "stream" else _data(one, folder) for one in config.data
    ]
    streams = [one for one in config.data if one.kind == "stream"]
    if not train or (streams and len(train) > 1):
        raise ConfigError(f"data: wanted tables, or one stream alone, got {len(train)} tables")
    return Trainer(
        _model(config.model, folder),
        _arguments(config, folder),
        train[0] if streams else _named(train),
        _named([_data(one, folder) for one in config.eval_data]) or None,
        loss=goals(config),
        evaluator=_evaluators(config, folder) or None,
        lora=config.lora,
        card=config.card,
    )


def goals(config: RunConfig) -> list[Goal]:
    """The goals that a run's tables name. ConfigError: an unknown loss, scorer or option."""
    from lateint import losses, scorers
    from lateint.objective import Distil, Objective

    made: list[Goal] = []
    for number, table in enumerate(config.loss, start=1):
        where = f"loss {number}"
        loss = _made(losses, losses.Loss, table.kind, table.options, where)
        if table.filter:
            loss = _made(losses, losses.Loss, "Filtered", {"loss": loss, **table.filter}, where)
        scorer = _made(scorers, scorers.Scorer, table.scorer, table.scorer_options, where)
        made.append(
            Objective(
                loss,
                table.head,
                scorer,
                dims=table.dims or (None,),
                tokens=table.tokens or (None,),
                rule=table.rule,
                weight=table.weight,
            )
        )
    for number, row in enumerate(config.distil, start=1):
        taught: Loss = _made(losses, losses.Loss, row.kind, row.options, f"distil {number}")
        made.append(Distil(row.teacher, row.student, taught, weight=row.weight))
    return made


def _made(module: Any, base: type, name: str, options: Mapping[str, Any], where: str) -> Any:
    """An object of a class of `module` below `base`, from its arguments."""
    known = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and not inspect.isabstract(value)
    }
    if name not in known:
        raise ConfigError(
            f"{where}: unknown {base.__name__.lower()} {name!r}{nearest(name, known)}"
        )
    check_keys(options, inspect.signature(known[name]).parameters, f"{where}: {name}")
    try:
        return known[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {name}: {error}") from error


def _model(table: ModelTable, folder: Path) -> LateInteractionModel:
    from lateint.checkpoints import load
    from lateint.heads import make_head
    from lateint.model import LateInteractionModel

    def place(name: str) -> str:
        return str(folder / name) if (folder / name).is_dir() else name

    if table.load is not None:
        model = load(place(table.load))
    else:
        text, audio, clip = (
            None if name is None else place(name) for name in (table.text, table.audio, table.clip)
        )
        model = LateInteractionModel.from_backbones(
            text,
            table.image,
            audio,
            clip,
            heads=table.heads,
            dim=table.dim,
            pretrained=table.pretrained,
            text_options=table.text_options,
            audio_options=table.audio_options,
            clip_options=table.clip_options,
        )
    for kind, options in table.head_options.items():
        learns = options.get("queries") == "learned" or "budget" in options
        values = {"width": model.dim, **options} if learns else options
        model.heads[kind] = make_head(kind, values, "model: head_options")
    return model


def _arguments(config: RunConfig, folder: Path) -> Any:
    from lateint.training_arguments import TrainingArguments

    values = dict(config.arguments)
    known = [one.name for one in fields(TrainingArguments) if one.init and one.name != "output_dir"]
    check_keys(values, known, "arguments")
    if (config.evaluate or config.eval_data) and "eval_strategy" not in values:
        values["eval_strategy"] = "epoch"
    try:
        return TrainingArguments(str(folder / config.output), **values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"arguments: {error}") from error


def _columns(table: DataTable, names: list[str] | None) -> Columns | None:
    """Said, or (with the table's own names) by position; None: by position, nothing else said."""
    from lateint.data.columns import by_position

    if table.columns:
        return Columns(table.columns, table.scores, table.negatives, table.best_first)
    if table.scores or table.best_first:
        raise ConfigError(f"data {table.path}: scores and best_first go with columns")
    return None if names is None else by_position(names, negatives=table.negatives)


def _data(table: DataTable, folder: Path) -> TrainingSet:
    from lateint import data

    path = folder / table.path
    found: TrainingSet
    if table.kind == "captions":
        found = data.captions(path, table.modality)
    elif table.kind in ("outline", "sentences"):
        make = data.outline_pages if table.kind == "outline" else data.sentence_pages
        found = make(path, negatives=table.negatives or 0)
    elif table.kind == "table":
        found = data.read(path, _columns(table, None), split=table.split)
        if isinstance(found, data.TableSet) and table.negatives is not None and not table.columns:
            found.columns = _columns(table, [*found.columns.names]) or found.columns
    else:
        raise ConfigError(f"data {table.path}: a stream has no end and cannot be evaluated")
    return found.about(table.name or path.stem, table.licence, table.source)


def _stream(table: DataTable, folder: Path) -> Any:
    from lateint.data.stream import Stream

    path = folder / table.path
    stream = Stream(path, _columns(table, None), name=table.name or path.stem)
    stream.licence, stream.source_name = table.licence, table.source
    return stream


def _named(sets: list[TrainingSet]) -> dict[str, TrainingSet]:
    names = [one.name for one in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"data: two sets are called {twice[0]!r}: give them a name")
    return dict(zip(names, sets, strict=True))


def _evaluators(config: RunConfig, folder: Path) -> dict[str, Any]:
    from lateint.evaluation import InformationRetrieval, read_benchmark

    made = {}
    for table in config.evaluate:
        benchmark = read_benchmark(folder / table.path, table.split)
        benchmark = benchmark.subset(table.queries, table.documents)
        name = table.name or (benchmark.name if len(config.evaluate) > 1 else "")
        if name in made:
            raise ConfigError(f"evaluate: two benchmarks are called {name!r}: give them a name")
        made[name] = InformationRetrieval.of(benchmark, metrics=table.metrics, heads=table.heads)
    return made


def _toml() -> Any:
    for name in ("tomllib", "tomli"):  # Python 3.10 has no tomllib
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ImportError("TOML needs tomli: pip install 'lateint[train]'")


EXAMPLE = """\
output = "runs/birds"                # checkpoints; the finished model is in runs/birds/model

[model]                              # backbones with fresh projections ...
text = "ModernBERT-base"             # a folder beside this file, or a name on the hub
heads = ["multi", "single"]
dim = 128
text_options = { document_length = 256 }
# load = "my-model"                  # ... or a model to go on from
# head_options = { multi = { queries = "learned" } }   # a weight for each query token

[[data]]                             # as many as you like
path = "pairs.jsonl"                 # {"query": ..., "positive": ..., "negative": ...}, a line each
licence = "CC0-1.0"                  # for the model card

[[data]]
path = "scored.jsonl"
columns = [
  { name = "question", role = "query", prompt = "question: " },
  { name = "passages", role = "document" },     # a list, best first
]
scores = ["scores"]
negatives = 4

[[loss]]                             # the sum of all of them
kind = "InfoNCE"
head = "multi"
options = { temperature = 0.5 }

[[loss]]
kind = "InfoNCE"
head = "single"
options = { temperature = 0.02, learnable = true }
dims = [64, 128]

[[distil]]                           # the single vector learns from the many
options = { temperature = 1.0, student_temperature = 0.03 }
weight = 0.2

[[evaluate]]                         # corpus.jsonl, queries.jsonl, qrels/dev.tsv
path = "birds"
heads = ["multi", "single"]

[lora]                               # leave it out to train everything
rank = 16

[arguments]                          # all of transformers.TrainingArguments, and ours
num_train_epochs = 1
per_device_train_batch_size = 64
learning_rate = 1e-4
warmup_steps = 100
bf16 = true
budget_tokens = 16384
no_duplicates = true
learning_rates = { "projection" = 1e-3 }
freeze = ["embeddings"]

[card]
name = "Birds"
licence = "Apache-2.0"
language = ["en"]
"""
