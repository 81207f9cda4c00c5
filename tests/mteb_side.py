"""What tests/parity/test_mteb.py runs in mteb's environment: prints one JSON object.

python tests/mteb_side.py FOLDER      a benchmark in BEIR's layout, searched by both protocols
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mteb
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.models_protocols import EncoderProtocol, SearchProtocol
from mteb.results.task_result import TaskResult
from toy_model import toy_model

from lateint.evaluation import read_benchmark
from lateint.evaluation.mteb import MtebEncoder, MtebSearch

FACTS: dict[str, Any] = {
    "name": "Sightings",
    "description": "birds at places",
    "reference": None,
    "dataset": {"path": "NA", "revision": "NA"},
    "type": "Retrieval",
    "category": "t2t",
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "main_score": "ndcg_at_10",
    "modalities": ["text"],
}


class Sightings(AbsTaskRetrieval):
    metadata = TaskMetadata(**FACTS)


def task(folder: Path) -> AbsTaskRetrieval:
    """The benchmark as a task of mteb's, in memory."""
    found = read_benchmark(folder)
    made = Sightings()
    made.dataset = {
        "default": {
            "test": {
                "corpus": Dataset.from_list(
                    [{"id": k, "text": v, "title": ""} for k, v in found.documents.items()]
                ),
                "queries": Dataset.from_list(
                    [{"id": k, "text": v} for k, v in found.queries.items()]
                ),
                "relevant_docs": found.qrels,
                "top_ranked": None,
            }
        }
    }
    made.data_loaded = True
    return made


def scores(model: Any, folder: Path) -> dict[str, float]:
    found = mteb.evaluate(model, task(folder), cache=None, show_progress_bar=False)
    (row,) = found.task_results[0].scores["test"]
    return {name: row[name] for name in ("ndcg_at_10", "map_at_100", "recall_at_100")}


def mock(model: Any) -> dict[str, str]:
    """mteb's own check of a model: every mock task that fits it."""
    found = mteb.mock_run(model)
    return {
        name: "passed" if isinstance(status, TaskResult) else str(status)
        for name, status in found.items()
        if status is not None
    }


def main() -> None:
    folder = Path(sys.argv[1])
    encoder = MtebEncoder(toy_model(), modalities={"image": "page"})
    search = MtebSearch(toy_model(), modalities={"image": "page"})
    answer = {
        "encoder": isinstance(encoder, EncoderProtocol) and not isinstance(encoder, SearchProtocol),
        "search": isinstance(search, SearchProtocol) and not isinstance(search, EncoderProtocol),
        "modalities": encoder.mteb_model_meta.modalities,
        "single": scores(encoder, folder),
        "multi": scores(search, folder),
        "mock encoder": mock(encoder),
        "mock search": mock(search),
    }
    search.close()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
