"""What learned query weights give: MaxSim is a sum over query tokens, and not all of them matter.

    python scripts/ablate_scoring_head.py .data            # after study_single_vs_multi.py's prepare
    python scripts/ablate_scoring_head.py .data --quick    # in a minute, numbers mean nothing

`MultiVectorConfig(queries="learned")` has a net of 129 numbers say how much each query token counts,
and folds that into the length of the token's row: index and search stay as they are. The study's
pairs, tests, loss and seeds; all of MiniLM is frozen and run once, a projection is trained on its
output, so that the three rows differ in nothing but the head:

    unit       every query token counts as much as any other
    weights    the net alone is trained, on top of the trained "unit"; documents are those of
               "unit", so an index need not be made again
    learned    net and projection are trained together, from where "unit" began

The net's rate is chosen on the development set (first seed). Tested in domain and out of domain.
Appends one line to scripts/results/ablate_scoring_head.jsonl: nDCG@10 by seed, paired tests over
queries (Holm over all of them), and which words the net weighs most and least.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors.torch import load_file, save_file
from study_data import QUICK
from study_single_vs_multi import DIM, TEMPERATURE, WIDTH, Plan, Study, Unit, read
from study_tables import METRICS, SHELF, said, summary
from torch import nn

from lateint.evaluation import Benchmark, compare, holm
from lateint.evaluation.metrics import per_query
from lateint.heads import MultiVectorConfig, MultiVectorHead, unit_rows
from lateint.losses import InfoNCE, Targets
from lateint.maxsim import sum_by_query, token_maxima
from lateint.ragged import Ragged
from lateint.scorers import MaxSim
from modalities.encoder import Role
from modalities.grid import TokenGrid

NAME = "ablate_scoring_head"
PAIRS = (("weights", "unit"), ("learned", "unit"))
RATES = (1e-3, 1e-2, 5e-2)  # of the net
TESTS = ("packages", "manual pages")
TRAIN, EPOCHS = 1920, 3  # pairs, and how often each is seen
OFTEN = 4  # times a token must occur in the queries to be named
NAMED = 12


Values = dict[str, dict[str, float]]  # metric -> query -> value


@dataclass
class Row:
    """A projection and a head: all that is trained."""

    projection: nn.Linear
    head: MultiVectorHead

    def __call__(self, tokens: Ragged, role: Role, items: Any = None) -> Ragged:
        """(n, WIDTH) rows of each item -> (n, DIM), of some items or of all."""
        padded, mask = tokens.pad(items)
        shape = tuple((1, count) for count in mask.sum(1).tolist())
        return self.head(TokenGrid(self.projection(padded.float()), mask, shape), role)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder for downloads and results")
    parser.add_argument("--man", type=Path, default=Path("/usr/share/man"), help="manual pages")
    parser.add_argument("--quick", action="store_true", help="tiny, in a folder of its own")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--encode", action="store_true", help="only run MiniLM")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    plan, folder = Plan(seeds=tuple(range(arguments.seeds))), "study"
    if arguments.quick:
        plan = Plan(QUICK, seeds=(0,), pairs=(48,), batch=16)
        folder = "study-quick"
    study = Study(arguments.data, arguments.man, plan, folder)
    kept = encoded(study)
    if arguments.encode:
        return
    rates, seeds = {}, {}
    for seed in plan.seeds:
        seeds[str(seed)] = rows = {"unit": trained(study, kept, seed)}
        for name, start in (("weights", rows["unit"]), ("learned", None)):
            if name not in rates:
                tried = {
                    rate: trained(study, kept, seed, start, learned=True, rate=rate)
                    for rate in RATES
                }
                quality = {
                    r: mean(*measured([one], kept, study.texts.dev)) for r, one in tried.items()
                }
                rates[name] = {"chosen": max(quality, key=quality.__getitem__), "dev": quality}
                rows[name] = tried[rates[name]["chosen"]]
            else:
                rate = rates[name]["chosen"]
                rows[name] = trained(study, kept, seed, start, learned=True, rate=rate)
        print(f"seed {seed}: trained; rates {rates}", flush=True)
    line = {
        "seeds": list(plan.seeds),
        "pairs": len(kept["train query"]),
        "epochs": EPOCHS,
        "rates": rates,
        **table(study, kept, seeds),
        "words": {
            f"{name} {seed}": words(study, kept, rows[name])
            for seed, rows in seeds.items()
            for name in ("weights", "learned")
        },
    }
    if not arguments.quick:
        import results

        results.record(NAME, **line)


def encoded(study: Study) -> dict[str, Ragged]:
    """ "train query", "packages document" ... -> unit rows (n, WIDTH) float16 of MiniLM's last layer,
    kept on the disk. A projection without a bias sees directions only, so nothing is lost."""
    folder = study.folder / "last"
    folder.mkdir(exist_ok=True)
    model = study.make(Unit(SHELF, 0))
    train, texts = study.texts.train[:TRAIN], study.texts
    wanted: dict[str, Any] = {"train query": [p.query for p in train]}
    wanted["train document"] = [p.document for p in train]
    for corpus in (texts.dev, *(texts.tests[name] for name in TESTS)):
        wanted[f"{corpus.name} query"] = list(corpus.queries.values())
        wanted[f"{corpus.name} document"] = list(corpus.documents.values())
    found = {}
    for name, items in wanted.items():
        path = folder / f"{name.replace(' ', '-')}.safetensors"
        if not path.exists():
            corpus_name, _, role = name.rpartition(" ")
            read(model.encoder("text"), texts.tests.get(corpus_name, texts.dev))
            rows = model.encode(items, role, head="multi", batch_tokens=4096).tokens
            part = path.with_suffix(".part")
            save_file({"values": rows.values.half(), "offsets": rows.offsets}, part)
            part.replace(path)
            print(f"{name}: {len(items)} texts, {len(rows.values)} tokens", flush=True)
        stored = load_file(path)
        found[name] = Ragged(stored["values"], stored["offsets"])
    return found


def trained(
    study: Study,
    kept: dict[str, Ragged],
    seed: int,
    start: Row | None = None,
    *,
    learned: bool = False,
    rate: float = 0.0,
) -> Row:
    """A row of the table. start: its projection stays as it is; None: a fresh one learns.
    learned: with a net for the weights; rate: the net's."""
    torch.manual_seed(seed)
    projection = nn.Linear(WIDTH, DIM, bias=False)
    nn.init.orthogonal_(projection.weight)
    config = MultiVectorConfig(queries="learned", width=DIM) if learned else MultiVectorConfig()
    row = Row(projection if start is None else start.projection, MultiVectorHead(config))
    groups: list[dict[str, Any]] = [{"params": list(row.head.parameters()), "lr": rate}]
    if start is None:
        groups.append({"params": [projection.weight], "lr": study.plan.projection_rate})
    queries, documents = kept["train query"], kept["train document"]
    batch, count = study.plan.batch, len(queries)
    steps = EPOCHS * (count // batch)
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]])
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(10 * (step + 1) / steps, (1 + math.cos(math.pi * step / steps)) / 2),
    )
    loss, scorer = InfoNCE(TEMPERATURE), MaxSim(mean=True)
    targets = Targets(torch.arange(batch))
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(count, generator=order).split(batch):
            if len(chosen) < batch:
                continue
            asked = row(queries, "query", chosen)
            with torch.set_grad_enabled(start is None):
                found = row(documents, "document", chosen)
            value = loss(targets.scores(scorer(asked, found)))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    return row


@torch.inference_mode()
def measured(rows: list[Row], kept: dict[str, Ragged], corpus: Benchmark) -> list[Values]:
    """Exact MaxSim over all documents, of rows of the table that share a projection: the maxima of
    the query tokens are the same for all, the weights are not."""
    asked = [row(kept[f"{corpus.name} query"], "query") for row in rows]
    documents = kept[f"{corpus.name} document"]
    plain = Ragged(unit_rows(asked[0].values), asked[0].offsets)
    maxima = torch.cat(
        [
            token_maxima(plain, rows[0](documents, "document", some))
            for some in torch.arange(len(documents)).split(256)
        ],
        1,
    )  # (query tokens, documents)
    names, found = list(corpus.documents), []
    for queries in asked:
        weights = queries.values.norm(dim=-1, keepdim=True)
        best, where = sum_by_query(maxima * weights, queries).topk(min(100, len(names)), dim=1)
        run = {
            query: {names[j]: s for j, s in zip(places, scores, strict=True)}
            for query, places, scores in zip(
                corpus.queries, where.tolist(), best.tolist(), strict=True
            )
        }
        found.append(per_query(corpus.qrels, run, METRICS))
    return found


def table(study: Study, kept: dict[str, Ragged], seeds: dict[str, Any]) -> dict[str, Any]:
    """corpus -> row -> nDCG@10; and the tests."""
    rows: dict[str, Any] = {}
    tests: list[dict[str, Any]] = []
    for corpus in (study.texts.tests[name] for name in TESTS):
        systems: dict[str, dict[str, Values]] = {"unit": {}, "weights": {}, "learned": {}}
        for seed, found in seeds.items():
            shared = measured([found["unit"], found["weights"]], kept, corpus)
            systems["unit"][seed], systems["weights"][seed] = shared
            (systems["learned"][seed],) = measured([found["learned"]], kept, corpus)
        rows[corpus.name] = {
            name: {key: row[key] for key in ("nDCG@10", "Recall@1", "by_seed", "sd")}
            for name, row in summary(systems).items()
        }
        shown = ", ".join(f"{k} {v['nDCG@10']:.4f}" for k, v in rows[corpus.name].items())
        print(f"{corpus.name}: {shown}", flush=True)
        for a, b in PAIRS:
            both = [by_query(systems[name]) for name in (a, b)]
            tests.append({"corpus": corpus.name, "a": a, "b": b, **compare(*both).to_json()})
    for one, corrected in zip(tests, holm([one["p_value"] for one in tests]), strict=True):
        one["p_holm"] = corrected
        print(f"{one['corpus']}: {said(one).strip()}")
    return {"rows": rows, "tests": tests}


def by_query(seeds: dict[str, Values]) -> dict[str, float]:
    """Each query's mean nDCG@10 over seeds."""
    tables = [one["nDCG@10"] for one in seeds.values()]
    return {query: statistics.fmean(one[query] for one in tables) for query in tables[0]}


def mean(values: Values) -> float:
    return round(statistics.fmean(values["nDCG@10"].values()), 4)


@torch.inference_mode()
def words(study: Study, kept: dict[str, Ragged], row: Row) -> dict[str, Any]:
    """Mean weights of the tokens of all test queries: their spread, the highest and the lowest."""
    encoder = study.make(Unit(SHELF, 0)).encoder("text")
    weights: dict[str, list[float]] = defaultdict(list)
    for name in TESTS:
        queries = list(study.texts.tests[name].queries.values())
        found = row(kept[f"{name} query"], "query")
        for query, rows in zip(queries, found, strict=True):
            lengths = rows.norm(dim=-1).tolist()
            for label, length in zip(encoder.labels(query, "query"), lengths, strict=True):
                weights[label].append(length)
    everything = [value for values in weights.values() for value in values]
    often = {k: statistics.fmean(v) for k, v in weights.items() if len(v) >= OFTEN}
    order = sorted(often, key=often.__getitem__)
    shown = {
        "lowest": {label: round(often[label], 3) for label in order[:NAMED]},
        "highest": {label: round(often[label], 3) for label in order[::-1][:NAMED]},
    }
    print(shown)
    return {
        "mean": round(statistics.fmean(everything), 4),
        "sd": round(statistics.stdev(everything), 4),
        **shown,
    }


if __name__ == "__main__":
    main()
