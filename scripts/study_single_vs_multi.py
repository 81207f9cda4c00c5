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
                same pairs, steps, batch, rates and temperature; three seeds of projection and order
    tests       packages whose source is not in training; manual pages (NAME line -> DESCRIPTION);
                descriptions hidden in documents of 1, 2, 4 and 8 of them (up to 8 times as long
                as training saw any), the questions the same
    systems     each head, BM25 (SQLite FTS5), each head fused with it by reciprocal ranks; the
                backbone as it comes, pooled to one vector and with a vector for each token

Stages: prepare (texts and hidden states), train and test (a model at a time: DATA/study/models,
curves, tests), report (scripts/results/study_single_vs_multi.jsonl, and a table on stdout). `--part
1/2` takes every second model, so that two processes can share the work after `--stage prepare`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors.torch import load_file, save_file
from study_data import QUICK, Material, Sizes, material
from study_encoder import Store, UpperText
from token_data import weights

from lateint.evaluation import Benchmark, Encoding, InformationRetrieval, compare, evaluate, holm
from lateint.evaluation.metrics import per_query
from lateint.losses import InfoNCE
from lateint.model import LateInteractionModel
from lateint.objective import Objective
from lateint.scorers import MaxSim
from modalities.text import TransformerText

NAME = "study_single_vs_multi"
SETUPS = {"single": ("single",), "multi": ("multi",), "joint": ("multi", "single")}
SHELF = "off-the-shelf"
METRICS = ("nDCG@10", "MRR@10", "Recall@1", "Recall@10", "Recall@100")
FROZEN, DIM, WIDTH = 4, 128, 384
LENGTH = 64  # tokens of a document in training
TEMPERATURE = 0.05


@dataclass(frozen=True)
class Plan:
    """steps, batch: of training. evaluate: steps between looks at the development set."""

    sizes: Sizes = field(default_factory=Sizes)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 60
    batch: int = 64
    evaluate: int = 20
    rate: float = 1e-4
    projection_rate: float = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder for downloads and results")
    parser.add_argument("--man", type=Path, default=Path("/usr/share/man"), help="manual pages")
    parser.add_argument("--quick", action="store_true", help="tiny, in a folder of its own")
    parser.add_argument("--stage", choices=("prepare", "models", "report"), help="only this one")
    parser.add_argument("--part", default="1/1", help="of the models, as 1/2")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    plan = Plan()
    if arguments.quick:
        plan = Plan(QUICK, seeds=(0,), steps=6, batch=16, evaluate=3)
    study = Study(
        arguments.data, arguments.man, plan, "study-quick" if arguments.quick else "study"
    )
    if arguments.stage in (None, "prepare"):
        study.prepare()
    if arguments.stage in (None, "models"):
        part, _, parts = arguments.part.partition("/")
        for unit in study.units()[int(part) - 1 :: int(parts)]:
            study.model(*unit)
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
        self.store = Store(self.folder / "hidden", WIDTH)

    def units(self) -> list[tuple[str, int]]:
        """(setup, seed), in an order that gives a first picture early."""
        alone = [(setup, seed) for seed in self.plan.seeds for setup in ("multi", "single")]
        return [(SHELF, 0), *alone, *(("joint", seed) for seed in self.plan.seeds)]

    def prepare(self) -> None:
        """Runs the frozen layers over every text."""
        encoder = self._make(SHELF, 0).encoder("text")
        assert isinstance(encoder, UpperText)
        queries = [pair.query for pair in self.texts.train]
        encoder.remember(queries, "query")
        encoder.remember([pair.document for pair in self.texts.train], "document")
        for corpus in (self.texts.dev, *self.texts.tests.values()):
            started = time.process_time()
            read(encoder, corpus)
            encoder.remember(corpus.queries.values(), "query")
            encoder.remember(corpus.documents.values(), "document")
            say(f"{corpus.name}: hidden states, {time.process_time() - started:.0f} s")

    def model(self, setup: str, seed: int) -> None:
        """Trains and tests one model, unless that was done."""
        tested = self.folder / "tests" / f"{setup}-{seed}.json"
        if tested.exists():
            return
        started = time.process_time()
        model = self._make(setup, seed)
        if setup != SHELF:
            self._train(model, setup, seed)
        found = {}
        for name, corpus in self.texts.tests.items():
            encoder = model.encoder("text")
            assert isinstance(encoder, UpperText)
            read(encoder, corpus)
            report = evaluate(
                model,
                corpus,
                heads=SETUPS.get(setup, ("multi", "single")),
                baselines=("bm25", "hybrid") if setup == SHELF else ("hybrid",),
                metrics=METRICS,
                encoding=Encoding(batch_tokens=4096),
                permutations=1,
            )
            found[name] = {
                row.system: per_query(corpus.qrels, report.runs[row.system], METRICS)
                for row in report.rows
            }
            shown = ", ".join(f"{row.system} {row.metrics['nDCG@10']:.3f}" for row in report.rows)
            say(f"{setup} {seed}, {name}: nDCG@10 {shown}")
        write_json(tested, {"cpu_seconds": round(time.process_time() - started), "corpora": found})

    def _train(self, model: LateInteractionModel, setup: str, seed: int) -> None:
        from lateint.trainer import Trainer
        from lateint.training_arguments import TrainingArguments

        path = self.folder / "models" / f"{setup}-{seed}.safetensors"
        if path.exists():
            model.load_state_dict(load_file(path))
            return
        plan, heads = self.plan, SETUPS[setup]
        goals = [Objective(InfoNCE(TEMPERATURE), head, MaxSim(mean=True)) for head in heads]
        arguments = TrainingArguments(
            output_dir=str(self.folder / "trainer" / f"{setup}-{seed}"),
            per_device_train_batch_size=plan.batch,
            max_steps=plan.steps,
            learning_rate=plan.rate,
            learning_rates={r"\.projection\.": plan.projection_rate},
            lr_scheduler_type="cosine",
            warmup_steps=max(1, plan.steps // 10),
            logging_steps=max(1, plan.steps // 20),
            eval_strategy="steps",
            eval_steps=plan.evaluate,
            eval_on_start=True,
            save_strategy="no",
            report_to=[],
            seed=seed,
            use_cpu=True,
            disable_tqdm=True,
            no_duplicates=True,
        )
        rows = [{"query": p.query, "document": p.document} for p in self.texts.train]
        evaluator = InformationRetrieval.of(
            self.texts.dev, metrics=["nDCG@10"], heads=heads, name="dev"
        )
        trainer = Trainer(model, arguments, rows, loss=goals, evaluator=evaluator)
        trainer.train()
        write_json(self.folder / "curves" / f"{setup}-{seed}.json", trainer.state.log_history)
        state = {k: v.contiguous() for k, v in model.state_dict().items()}
        save_file(state, path)

    def _make(self, setup: str, seed: int) -> LateInteractionModel:
        """The backbone with a fresh projection; off the shelf: with none (the identity)."""
        torch.manual_seed(seed)
        text = TransformerText.from_pretrained(
            self.weights,
            dim=WIDTH if setup == SHELF else DIM,
            query_length=32,
            document_length=LENGTH,
            query_marker=None,
            document_marker=None,
            query_expansion=False,
        )
        if setup == SHELF:
            torch.nn.init.eye_(text.projection.weight)
        else:
            torch.nn.init.orthogonal_(text.projection.weight)
        return LateInteractionModel({"text": UpperText(text, FROZEN, self.store)}).eval()

    def report(self, record: bool) -> None:
        """Tables of what is there: means and deviations over seeds, tests over queries."""
        values = self._values()
        lines: list[dict[str, Any]] = []
        for corpus, systems in values.items():
            table = summary(systems)
            line = {
                "table": "scores",
                "corpus": corpus,
                "documents": len(self.texts.tests[corpus].documents),
                "queries": len(next(iter(next(iter(systems.values())).values()))["nDCG@10"]),
                "systems": table,
                "comparisons": comparisons(systems),
            }
            lines.append(line)
            print(f"\n{corpus}: {line['documents']} documents, {line['queries']} queries")
            print(shown(table))
            for one in line["comparisons"]:
                print(
                    f"  {one['a']} - {one['b']}: {one['difference']:+.4f} "
                    f"[{one['low']:+.4f}, {one['high']:+.4f}], p {one['p_holm']:.4f}"
                )
        curves = {
            path.stem: json.loads(path.read_text())
            for path in sorted((self.folder / "curves").glob("*.json"))
        }
        lines.append({"table": "curves", "runs": {k: curve(v) for k, v in curves.items()}})
        plan = asdict(self.plan)
        spent = {
            path.stem: json.loads(path.read_text())["cpu_seconds"]
            for path in sorted((self.folder / "tests").glob("*.json"))
        }
        lines.append(
            {"table": "plan", **plan, "length": LENGTH, "frozen": FROZEN, "cpu_seconds": spent}
        )
        if record:
            import results

            for line in lines:
                results.record(NAME, **line)

    def _values(self) -> dict[str, dict[str, dict[str, Any]]]:
        """corpus -> system -> seed -> metric -> query -> value."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for path in sorted((self.folder / "tests").glob("*.json")):
            setup, seed = path.stem.rsplit("-", 1)
            for corpus, systems in json.loads(path.read_text())["corpora"].items():
                for system, metrics in systems.items():
                    name = system if setup in SETUPS and setup != "joint" else f"{setup} {system}"
                    name = "BM25" if system == "BM25" else name
                    found.setdefault(corpus, {}).setdefault(name, {})[seed] = metrics
        return found


def read(encoder: UpperText, corpus: Benchmark) -> None:
    """Lets an encoder read as much of a document as this corpus has: LENGTH a piece."""
    pieces = int(corpus.name.split()[1]) if corpus.name.startswith("long") else 1
    text = encoder.lower[0]
    text.settings = replace(text.settings, document_length=LENGTH * pieces)


def summary(systems: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """system -> metric -> mean over seeds; and "seeds", "sd" (of nDCG@10 over seeds)."""
    table: dict[str, dict[str, Any]] = {}
    for system, seeds in systems.items():
        by_metric = {
            metric: [statistics.fmean(one[metric].values()) for one in seeds.values()]
            for metric in METRICS
        }
        row: dict[str, Any] = {m: round(statistics.fmean(v), 4) for m, v in by_metric.items()}
        first = by_metric["nDCG@10"]
        row["by_seed"] = [round(value, 4) for value in first]
        row["sd"] = round(statistics.stdev(first), 4) if len(first) > 1 else None
        table[system] = row
    return dict(sorted(table.items(), key=lambda item: -item[1]["nDCG@10"]))


PAIRS = (
    ("multi", "single"),
    ("multi", "BM25"),
    ("single", "BM25"),
    ("multi + BM25", "multi"),
    ("multi + BM25", "BM25"),
    ("single + BM25", "BM25"),
    ("multi + BM25", "single + BM25"),
    ("joint multi", "multi"),
    ("joint single", "single"),
    ("multi", f"{SHELF} multi"),
    ("single", f"{SHELF} single"),
)


def comparisons(systems: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Paired tests of nDCG@10 over queries, each query's mean over seeds; Holm over all pairs."""
    found = []
    for a, b in PAIRS:
        if a in systems and b in systems:
            result = compare(_mean(systems[a]), _mean(systems[b]))
            found.append({"a": a, "b": b, **result.to_json()})
    corrected = holm([one["p_value"] for one in found])
    return [{**one, "p_holm": p} for one, p in zip(found, corrected, strict=True)]


def _mean(seeds: Mapping[str, Any]) -> dict[str, float]:
    tables = [one["nDCG@10"] for one in seeds.values()]
    return {query: statistics.fmean(table[query] for table in tables) for query in tables[0]}


def curve(history: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """What was logged -> name -> (step, value): the loss, and the development set's nDCG@10."""
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for key, value in entry.items():
            if key == "loss" or key.startswith("eval_dev"):
                name = key.removeprefix("eval_")
                found.setdefault(name, []).append((int(entry["step"]), round(float(value), 4)))
    return found


def shown(table: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [f"| system | {' | '.join(METRICS)} | sd |", "|---" * (len(METRICS) + 2) + "|"]
    for system, row in table.items():
        cells = [f"{row[metric]:.3f}" for metric in METRICS]
        cells.append("" if row["sd"] is None else f"{row['sd']:.3f}")
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value), encoding="utf-8")
    part.replace(path)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
