"""What learned query weights give: MaxSim is a sum over query tokens, and not all of them matter.

    python scripts/ablate_scoring_head.py .data            # after study_single_vs_multi.py; resumes
    python scripts/ablate_scoring_head.py .data --quick    # in a minute, numbers mean nothing

`MultiVectorConfig(queries="learned")` has a net of 129 numbers say how much each query token counts,
and folds that into the length of the token's row: index and search stay as they are. Three models
of the study's recipe (same backbone, pairs, steps, seeds), tested in domain, out of domain and on
documents four times as long as in training:

    unit       every query token counts as much as any other: the study's "multi"
    weights    the net alone is trained, on top of the trained "unit" model, all else frozen; its
               documents are those of "unit", so an index need not be made again
    learned    net and model are trained together, from where "unit" began

Appends one line to scripts/results/ablate_scoring_head.jsonl: nDCG@10 by seed, paired tests over
queries (Holm over all of them), and which words the net weighs most and least.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors.torch import load_file
from study_data import QUICK
from study_single_vs_multi import FEW, Plan, Study, Unit
from study_tables import said, summary

from lateint.evaluation import compare, holm

NAME = "ablate_scoring_head"
ROWS = {"unit": "multi", "weights": "weights", "learned": "learned"}
PAIRS = (("weights", "unit"), ("learned", "unit"))
OFTEN = 4  # times a token must occur in the queries to be named
NAMED = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder for downloads and results")
    parser.add_argument("--man", type=Path, default=Path("/usr/share/man"), help="manual pages")
    parser.add_argument("--quick", action="store_true", help="tiny, in a folder of its own")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--setups", nargs="+", choices=ROWS, default=list(ROWS))
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    plan, folder = Plan(seeds=tuple(range(arguments.seeds))), "study"
    if arguments.quick:
        plan = Plan(QUICK, seeds=(0,), joint=(), pairs=(), batch=16, evaluate=2)
        folder = "study-quick"
    study = Study(arguments.data, arguments.man, plan, folder)
    units = [Unit(ROWS[row], seed) for row in arguments.setups for seed in plan.seeds]
    for unit in units:
        study.model(unit)
    line = {
        "seeds": list(plan.seeds),
        "weight_rate": plan.weight_rate,
        **table(study, units),
        "words": {
            unit.name: words(study, unit) for unit in units if unit.setup in ("weights", "learned")
        },
    }
    if not arguments.quick:
        import results

        results.record(NAME, **line)


def table(study: Study, units: list[Unit]) -> dict[str, Any]:
    """corpus -> row -> nDCG@10; and the tests."""
    named = {setup: row for row, setup in ROWS.items()}
    rows: dict[str, Any] = {}
    tests: list[dict[str, Any]] = []
    for corpus, found in study.values(units).items():
        if corpus not in FEW:
            continue
        systems = {named[name.split()[0]]: found[name] for name in found if "+" not in name}
        rows[corpus] = {
            name: {key: row[key] for key in ("nDCG@10", "Recall@1", "by_seed", "sd")}
            for name, row in summary(systems).items()
        }
        print(
            f"\n{corpus}: " + ", ".join(f"{k} {v['nDCG@10']:.4f}" for k, v in rows[corpus].items())
        )
        for a, b in PAIRS:
            if a in systems and b in systems:
                both = [seed for seed in systems[a] if seed in systems[b]]
                means = [mean([systems[name][seed] for seed in both]) for name in (a, b)]
                tests.append({"corpus": corpus, "a": a, "b": b, **compare(*means).to_json()})
    for one, corrected in zip(tests, holm([one["p_value"] for one in tests]), strict=True):
        one["p_holm"] = corrected
        print(f"{one['corpus']}: {said(one).strip()}")
    return {"rows": rows, "tests": tests}


def mean(seeds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Each query's mean nDCG@10."""
    return {
        query: statistics.fmean(one["nDCG@10"][query] for one in seeds)
        for query in seeds[0]["nDCG@10"]
    }


@torch.inference_mode()
def words(study: Study, unit: Unit) -> dict[str, Any]:
    """Mean weights of the tokens of all test queries: their spread, the highest and the lowest."""
    model = study.make(unit)
    model.load_state_dict(load_file(study.folder / "models" / f"{unit.name}.safetensors"))
    encoder = model.encoder("text")
    weights: dict[str, list[float]] = defaultdict(list)
    for name in FEW:
        queries = (
            list(study.texts.tests[name].queries.values()) if name in study.texts.tests else []
        )
        found = model.encode_queries(queries, head="multi") if queries else []
        for query, rows in zip(queries, found, strict=True):
            lengths = rows.norm(dim=-1).tolist()
            for label, length in zip(encoder.labels(query, "query"), lengths, strict=True):
                weights[label].append(length)
    everything = [value for values in weights.values() for value in values]
    often = {k: statistics.fmean(v) for k, v in weights.items() if len(v) >= OFTEN}
    order = sorted(often, key=lambda label: often[label])
    shown = {
        "lowest": {label: round(often[label], 3) for label in order[:NAMED]},
        "highest": {label: round(often[label], 3) for label in order[::-1][:NAMED]},
    }
    print(f"\n{unit.name}: {shown}")
    return {
        "mean": round(statistics.fmean(everything), 4),
        "sd": round(statistics.stdev(everything), 4),
        **shown,
    }


if __name__ == "__main__":
    main()
