"""One vector or many? One backbone, the same data, both heads, beside BM25 and the hybrid.

    python scripts/study_single_vs_multi.py .data             # everything; goes on where it stopped
    python scripts/study_single_vs_multi.py .data --quick     # all stages in a minute, numbers mean nothing

The claims that it looks at: that many vectors beat one (a) on the kind of data they were trained on,
(b) on another kind, (c) more so where documents are much longer than in training, and (d) by more
than the luck of a seed. What it does:

    backbone    all-MiniLM-L6-v2; its two upper layers and a projection to 128 numbers are trained,
                the lower four are frozen (and run once for each text, see study_encoder.py). It was
                made as a single-vector model on a billion pairs, which favours the single vector.
    training    short -> long descriptions of Debian packages, InfoNCE with in-batch negatives: one
                run for the single vector, one for many (MaxSim), one for both heads together; the
                same pairs, steps, batch, rates and temperature; seeds of projection and order. And
                with a quarter and four times as many pairs, each seen once.
    tests       packages whose source is not in training; manual pages (NAME line -> DESCRIPTION);
                descriptions hidden in documents of 1, 2, 4 and 8 of them (up to 8 times as long
                as training saw any), the questions the same; pages of manuals asked for with
                outline titles; descriptions in another language than the question's
    systems     each head, BM25 (SQLite FTS5), each head fused with it by reciprocal ranks; the
                backbone as it comes, pooled to one vector and with a vector for each token

Stages: prepare (texts and hidden states), models (trains and tests, a model at a time: DATA/study/
models, curves, tests), report (scripts/results/study_single_vs_multi.jsonl, and a table on stdout).
`--part 1/2` takes every second model, so that two processes can share the work after `--stage
prepare`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors.torch import load_file, save_file
from study_corpora import families
from study_data import QUICK, Material, Pair, Sizes, material, more_pairs, write_json
from study_encoder import Store, UpperText
from study_tables import METRICS, SHELF, by_pairs, comparisons, curve, said, shown, summary
from token_data import weights

from lateint.evaluation import Benchmark, Encoding, InformationRetrieval, evaluate
from lateint.evaluation.metrics import per_query
from lateint.losses import InfoNCE
from lateint.model import LateInteractionModel
from lateint.objective import Objective
from lateint.scorers import MaxSim
from modalities.text import TransformerText

NAME = "study_single_vs_multi"
FROZEN, DIM, WIDTH = 4, 128, 384
LENGTH = 64  # tokens of a document in training
TEMPERATURE = 0.05
NOTHING: dict[str, Any] = {"cpu_seconds": 0, "corpora": {}}  # of a model that was not tested yet
FEW = ("packages", "manual pages", "long 4")  # tests of models with more or fewer pairs
BOTH = ("multi", "single")
SETUPS = {SHELF: BOTH, "single": ("single",), "multi": ("multi",), "joint": BOTH}  # and their heads


@dataclass(frozen=True)
class Unit:
    """A model. pairs: of training, None: as many as the plan says."""

    setup: str
    seed: int
    pairs: int | None = None

    @property
    def name(self) -> str:
        return f"{self.setup}{'' if self.pairs is None else f'@{self.pairs}'}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """seeds, joint: of each head alone, and of both together. pairs: of training, beside the usual
    number. batch: pairs of a step; each is seen once. evaluate: looks at the development set."""

    sizes: Sizes = field(default_factory=Sizes)
    seeds: tuple[int, ...] = (0, 1, 2)
    joint: tuple[int, ...] = (0, 1)
    pairs: tuple[int, ...] = (960, 15360)
    batch: int = 64
    evaluate: int = 3
    rate: float = 1e-4
    projection_rate: float = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder for downloads and results")
    parser.add_argument("--man", type=Path, default=Path("/usr/share/man"), help="manual pages")
    parser.add_argument("--quick", action="store_true", help="tiny, in a folder of its own")
    parser.add_argument("--stage", choices=("prepare", "models", "report"), help="only this one")
    parser.add_argument("--part", default="1/1", help="of the models, as 1/2")
    parser.add_argument("--only", nargs="+", default=[], help="models by name, as multi-0")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    plan = Plan()
    if arguments.quick:
        plan = Plan(QUICK, seeds=(0,), joint=(0,), pairs=(48,), batch=16, evaluate=2)
    study = Study(
        arguments.data, arguments.man, plan, "study-quick" if arguments.quick else "study"
    )
    if arguments.stage in (None, "prepare"):
        study.prepare()
    if arguments.stage in (None, "models"):
        part, _, parts = arguments.part.partition("/")
        for unit in study.units()[int(part) - 1 :: int(parts)]:
            if not arguments.only or unit.name in arguments.only:
                study.model(unit)
    if arguments.stage in (None, "report"):
        study.report(record=not arguments.quick)


class Study:
    def __init__(self, data: Path, man: Path, plan: Plan, name: str) -> None:
        self.plan = plan
        self.folder = data / name
        for part in ("models", "curves", "tests"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.weights = weights(data)
        self.texts: Material = material(data, man, plan.sizes, self.folder / "material.json")
        self.texts.tests.update(families(data, plan.sizes, self.folder / "families.json"))
        most = max(plan.sizes.train, *plan.pairs)
        self.pairs: list[Pair] = more_pairs(data, most, self.folder / "pairs.json")
        if self.pairs[: len(self.texts.train)] != self.texts.train:
            raise SystemExit(
                f"{self.folder}: other descriptions than before; begin in a new folder"
            )
        self.store = Store(self.folder / "hidden", WIDTH)

    def units(self) -> list[Unit]:
        """In an order that gives a first picture early."""
        plan = self.plan
        alone = [Unit(setup, seed) for seed in plan.seeds for setup in ("multi", "single")]
        together = [Unit("joint", seed) for seed in plan.joint]
        return [Unit(SHELF, 0), *alone, *together, *self.curve_units()]

    def curve_units(self) -> list[Unit]:
        """Those with more or fewer pairs."""
        seed = self.plan.seeds[0]
        return [Unit(head, seed, n) for n in self.plan.pairs for head in ("multi", "single")]

    def corpora(self, unit: Unit) -> dict[str, Benchmark]:
        """The tests of a model."""
        tests = self.texts.tests
        return tests if unit.pairs is None else {k: v for k, v in tests.items() if k in FEW}

    def prepare(self) -> None:
        """Runs the frozen layers over every text."""
        encoder = self.make(Unit(SHELF, 0)).encoder("text")
        assert isinstance(encoder, UpperText)
        for corpus in (self.texts.dev, *self.texts.tests.values()):
            started = time.process_time()
            read(encoder, corpus)
            encoder.remember(corpus.queries.values(), "query")
            encoder.remember(corpus.documents.values(), "document")
            say(f"{corpus.name}: hidden states, {time.process_time() - started:.0f} s")
        read(encoder, self.texts.dev)
        encoder.remember([pair.query for pair in self.pairs], "query")
        encoder.remember([pair.document for pair in self.pairs], "document")

    def model(self, unit: Unit) -> None:
        """Trains a model and tests it, on what it was not tested on before."""
        path = self.folder / "tests" / f"{unit.name}.json"
        kept = self._kept("tests", unit) or deepcopy(NOTHING)
        todo = {k: v for k, v in self.corpora(unit).items() if k not in kept["corpora"]}
        if not todo:
            return
        started = time.process_time()
        model = self.make(unit)
        if unit.setup != SHELF:
            self._train(model, unit)
        encoder = model.encoder("text")
        assert isinstance(encoder, UpperText)
        for name, corpus in todo.items():
            read(encoder, corpus)
            report = evaluate(
                model,
                corpus,
                heads=SETUPS[unit.setup],
                baselines=("bm25", "hybrid") if unit.setup == SHELF else ("hybrid",),
                metrics=METRICS,
                encoding=Encoding(batch_tokens=4096),
                permutations=1,
            )
            kept["corpora"][name] = {
                row.system: per_query(corpus.qrels, report.runs[row.system], METRICS)
                for row in report.rows
            }
            shown = ", ".join(f"{row.system} {row.metrics['nDCG@10']:.3f}" for row in report.rows)
            say(f"{unit.name}, {name}: nDCG@10 {shown}")
            now = time.process_time()
            kept["cpu_seconds"] += round(now - started)
            started = now
            write_json(path, kept)

    def _train(self, model: LateInteractionModel, unit: Unit) -> None:
        from lateint.trainer import Trainer
        from lateint.training_arguments import TrainingArguments

        path = self.folder / "models" / f"{unit.name}.safetensors"
        if path.exists():
            model.load_state_dict(load_file(path))
            return
        plan, heads = self.plan, SETUPS[unit.setup]
        goals = [Objective(InfoNCE(TEMPERATURE), head, MaxSim(mean=True)) for head in heads]
        pairs = self.pairs[: unit.pairs or plan.sizes.train]
        steps = len(pairs) // plan.batch
        arguments = TrainingArguments(
            output_dir=str(self.folder / "trainer" / unit.name),
            per_device_train_batch_size=plan.batch,
            max_steps=steps,
            learning_rate=plan.rate,
            learning_rates={r"\.projection\.": plan.projection_rate},
            lr_scheduler_type="cosine",
            warmup_steps=max(1, steps // 10),
            logging_steps=max(1, steps // 20),
            eval_strategy="steps",
            eval_steps=max(1, steps // plan.evaluate),
            eval_on_start=True,
            save_strategy="no",
            report_to=[],
            seed=unit.seed,
            use_cpu=True,
            disable_tqdm=True,
            no_duplicates=True,
        )
        rows = [{"query": pair.query, "document": pair.document} for pair in pairs]
        evaluator = InformationRetrieval.of(
            self.texts.dev, metrics=["nDCG@10"], heads=heads, name="dev"
        )
        trainer = Trainer(model, arguments, rows, loss=goals, evaluator=evaluator)
        trainer.train()
        write_json(self.folder / "curves" / f"{unit.name}.json", trainer.state.log_history)
        state = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file(state, path)

    def make(self, unit: Unit) -> LateInteractionModel:
        """The backbone with a fresh projection; off the shelf: with none (the identity)."""
        shelf = unit.setup == SHELF
        torch.manual_seed(unit.seed)
        text = TransformerText.from_pretrained(
            self.weights,
            dim=WIDTH if shelf else DIM,
            query_length=32,
            document_length=LENGTH,
            query_marker=None,
            document_marker=None,
            query_expansion=False,
        )
        if shelf:
            torch.nn.init.eye_(text.projection.weight)
        else:
            torch.nn.init.orthogonal_(text.projection.weight)
        return LateInteractionModel({"text": UpperText(text, FROZEN, self.store)}).eval()

    def report(self, record: bool) -> None:
        """Tables of what is there: means and deviations over seeds, tests over queries."""
        usual = [unit for unit in self.units() if unit.pairs is None]
        lines: list[dict[str, Any]] = []
        for corpus, systems in self.values(usual).items():
            table = summary(systems)
            line = {
                "table": "scores",
                "corpus": corpus,
                "documents": len(self.texts.tests[corpus].documents),
                "queries": len(self.texts.tests[corpus].asked()),
                "systems": table,
                "comparisons": comparisons(systems),
            }
            lines.append(line)
            print(f"\n{corpus}: {line['documents']} documents, {line['queries']} queries")
            print(shown(table), *map(said, line["comparisons"]), sep="\n")
        if any(self._kept("tests", unit) for unit in self.curve_units()):
            lines.append({"table": "pairs", "corpora": self._by_pairs()})
        curves = {unit.name: curve(self._kept("curves", unit) or []) for unit in self.units()}
        lines.append({"table": "curves", "runs": {k: v for k, v in curves.items() if v}})
        spent = {
            unit.name: kept["cpu_seconds"]
            for unit in self.units()
            if (kept := self._kept("tests", unit))
        }
        steps = self.plan.sizes.train // self.plan.batch
        facts = {"steps": steps, "length": LENGTH, "frozen": FROZEN, "cpu_seconds": spent}
        lines.append({"table": "plan", **asdict(self.plan), **facts})
        if record:
            import results

            for line in lines:
                results.record(NAME, **line)

    def values(self, units: list[Unit]) -> dict[str, dict[str, dict[str, Any]]]:
        """corpus -> system -> seed -> metric -> query -> value, of the models that are there."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for unit in units:
            for corpus, systems in (self._kept("tests", unit) or {"corpora": {}})[
                "corpora"
            ].items():
                for system, metrics in systems.items():
                    plain = system == "BM25" or unit.setup in ("multi", "single")
                    name = system if plain else f"{unit.setup} {system}"
                    found.setdefault(corpus, {}).setdefault(name, {})[str(unit.seed)] = metrics
        return {name: found[name] for name in self.texts.tests if name in found}

    def _by_pairs(self) -> dict[str, Any]:
        """corpus -> what `by_pairs` says of the first seed's models."""
        usual = self.plan.sizes.train
        counts = sorted({*self.plan.pairs, usual})
        systems: dict[str, dict[str, Any]] = {}
        for head in ("multi", "single"):
            for count in counts:
                unit = Unit(head, self.plan.seeds[0], None if count == usual else count)
                for corpus, found in (self._kept("tests", unit) or NOTHING)["corpora"].items():
                    if corpus in FEW:
                        systems.setdefault(corpus, {})[f"{head} {count}"] = {"0": found[head]}
        return {name: by_pairs(name, some, counts) for name, some in systems.items()}

    def _kept(self, part: str, unit: Unit) -> Any:
        path = self.folder / part / f"{unit.name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read(encoder: UpperText, corpus: Benchmark) -> None:
    """Lets an encoder read as much of a document as this corpus has: LENGTH a piece."""
    kind, _, number = corpus.name.partition(" ")
    pieces = 8 if kind == "pages" else 2 if kind.startswith("en-") else 1
    text = encoder.lower[0]
    text.settings = replace(
        text.settings, document_length=LENGTH * (int(number) if kind == "long" else pieces)
    )


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
