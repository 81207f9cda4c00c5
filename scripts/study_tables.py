"""Tables of the study: means and deviations over seeds, paired tests over queries, curves.

Reads numbers only: values by seed, metric and query, as study_single_vs_multi.py keeps them. Knows
no model.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lateint.evaluation import compare, holm

METRICS = ("nDCG@10", "MRR@10", "Recall@1", "Recall@10", "Recall@100")
SHELF = "off-the-shelf"
PAIRS = (
    ("multi", "single"),
    ("multi", "BM25"),
    ("single", "BM25"),
    ("multi + BM25", "multi"),
    ("multi + BM25", "BM25"),
    ("single + BM25", "BM25"),
    ("multi + BM25", "single + BM25"),
    ("joint multi", "joint single"),
    ("joint multi", "multi"),
    ("joint single", "single"),
    ("multi", f"{SHELF} multi"),
    ("single", f"{SHELF} single"),
)

Seeds = Mapping[str, Mapping[str, Mapping[str, float]]]
"""seed -> metric -> query -> value"""


def summary(systems: Mapping[str, Seeds]) -> dict[str, dict[str, Any]]:
    """system -> metric -> mean over seeds; and "by_seed", "sd" (of nDCG@10 over seeds)."""
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


def comparisons(
    systems: Mapping[str, Seeds], pairs: Sequence[tuple[str, str]] = PAIRS
) -> list[dict[str, Any]]:
    """Paired tests of nDCG@10 over queries, each query's mean over seeds; Holm over all pairs."""
    found = []
    for a, b in pairs:
        if a in systems and b in systems:
            result = compare(_mean(systems[a]), _mean(systems[b]))
            found.append({"a": a, "b": b, **result.to_json()})
    corrected = holm([one["p_value"] for one in found])
    return [{**one, "p_holm": p} for one, p in zip(found, corrected, strict=True)]


def _mean(seeds: Seeds) -> dict[str, float]:
    tables = [one["nDCG@10"] for one in seeds.values()]
    return {query: statistics.fmean(table[query] for table in tables) for query in tables[0]}


def by_pairs(corpus: str, systems: Mapping[str, Seeds], counts: Sequence[int]) -> dict[str, Any]:
    """A learning curve: nDCG@10 of "multi 960", "single 960" and so on, and tests of each step up
    and of one head against the other at each count. Prints them."""
    tests = [(f"multi {n}", f"single {n}") for n in counts]
    for head in ("multi", "single"):
        tests += [(f"{head} {more}", f"{head} {less}") for less, more in pairwise(counts)]
    table = {name: row["nDCG@10"] for name, row in summary(systems).items()}
    found = comparisons(systems, tests)
    print(f"\n{corpus}, by pairs of training: {table}", *map(said, found), sep="\n")
    return {"systems": table, "comparisons": found}


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


def said(one: Mapping[str, Any]) -> str:
    """A comparison on a line."""
    return (
        f"  {one['a']} - {one['b']}: {one['difference']:+.4f} "
        f"[{one['low']:+.4f}, {one['high']:+.4f}], p {one['p_holm']:.4f}"
    )
