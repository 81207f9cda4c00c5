"""Text checkpoints against the libraries they come from: theirs opened by us, ours opened by them.

Runs in environments of `scripts/peers/env.sh DATA pylate sbert`; LATEINT_PEERS names DATA/envs where
that is not .data/envs. The largest differences are appended to the file that LATEINT_PARITY names.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoints import DOCUMENTS, QUERIES, backbone, stanford

import lateint
from lateint.checkpoints import save

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "peers" / "checkpoints.py"
WORDS = "the loss goes up after warm learn rate a of budget 2024 who wrote this . , !".split()
TOLERANCE = 1e-5


def corpus(count: int = 130) -> list[str]:
    chance = random.Random(0)
    made = {" ".join(chance.choices(WORDS, k=chance.randint(2, 20))) for _ in range(2 * count)}
    return sorted(made)[:count]


TEXTS = {"query": QUERIES, "document": [*DOCUMENTS, *corpus()]}
PLAIN = {"query_length": 16, "document_length": 32}
MARKERS = {"query_prefix": "[unused0]", "document_prefix": "[unused1]"}
DEEP = [
    {"in_features": 16, "out_features": 24, "bias": True, "activation": "GELU"},
    {
        "in_features": 24,
        "out_features": 8,
        "bias": False,
        "activation": "Identity",
        "use_residual": True,
    },
]
FIXED = {"strategy": "fixed", "attend": False, "length": 16}
LONG = {"document_length": 32}

# name -> (backbone, step that makes it)
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"pylate-{name}": (name, {"make": "pylate", "options": {**PLAIN}})
        for name in ("bert", "modernbert", "xlmr", "qwen3", "lfm2")
    },
    "pylate-attend": (
        "bert",
        {
            "make": "pylate",
            "options": {**PLAIN, **MARKERS, "attend_to_expansion_tokens": True},
        },
    ),
    "pylate-bare": (
        "modernbert",
        {
            "make": "pylate",
            "options": {
                **PLAIN,
                "query_prefix": "",
                "document_prefix": "",
                "do_query_expansion": False,
                "skiplist_words": [],
            },
        },
    ),
    "pylate-deep": ("bert", {"make": "pylate", "options": {**PLAIN}, "dense": DEEP}),
    "multi-bert": (
        "bert",
        {
            "make": "multi",
            "transformer": {**LONG, "query_expansion": FIXED},
            "mask": {"skiplist_words": [".", ",", "no such word"]},
            "prompts": {"query": "[unused0] ", "document": "[unused1] "},
        },
    ),
    "multi-min": (
        "modernbert",
        {
            "make": "multi",
            "transformer": {
                **LONG,
                "query_length": 24,
                "query_expansion": {"strategy": "min", "attend": True, "length": 12},
            },
            "mask": {"skiplist_words": ["."], "skiplist_tasks": ["query", "document"]},
            "prompts": {"query": "who ", "document": "the "},
        },
    ),
    "multi-xlmr": (
        "xlmr",
        {"make": "multi", "transformer": {**LONG, "query_length": 20}, "dense": DEEP},
    ),
    "multi-qwen3": (
        "qwen3",
        {
            "make": "multi",
            "transformer": {**LONG, "query_expansion": {**FIXED, "token": "<mask>"}},
            "prompts": {"query": "[unused0]", "document": "[unused1]"},
        },
    ),
    "multi-lfm2": ("lfm2", {"make": "multi", "transformer": {**LONG, "query_length": 20}}),
    "multi-only": (
        "bert",
        {
            "make": "multi",
            "transformer": {**LONG, "query_length": 20},
            "mask": {"keep_only_token_ids": [2, 3, 5, 6]},
        },
    ),
    **{
        f"single-{way}": (
            name,
            {
                "make": "single",
                "pooling": {"pooling_mode": way},
                "transformer": LONG,
                "prompts": {"query": "who ", "document": "the "},
            },
        )
        for way, name in (
            ("cls", "bert"),
            ("max", "xlmr"),
            ("mean", "modernbert"),
            ("lasttoken", "qwen3"),
            ("weightedmean", "lfm2"),
        )
    },
    "single-prompt": (
        "bert",
        {
            "make": "single",
            "pooling": {"pooling_mode": "mean", "include_prompt": False},
            "dense": [{"in_features": 16, "out_features": 8, "bias": True, "activation": "Tanh"}],
            "prompts": {"query": "who wrote ", "document": "the "},
        },
    ),
}
# Qwen has no special token in front: PyLate puts its marker second, which is no prompt
WRITTEN = {
    **{
        name: ("pylate", "sentence-transformers")
        for name in MADE
        if name.startswith(("pylate", "multi"))
    },
    **{name: ("sentence-transformers",) for name in MADE if name.startswith("single")},
    "pylate-qwen3": ("pylate",),
    "multi-min": ("sentence-transformers",),
    "multi-qwen3": ("sentence-transformers",),
    "multi-only": ("sentence-transformers",),
    "pylate-bert": ("pylate", "sentence-transformers"),
    "stanford-bert": ("pylate", "sentence-transformers", "stanford"),
    "stanford-modernbert": ("pylate",),
}
# texts of which the peer keeps no token and we keep them (see the loaders)
KEPT_ALL = {"multi-only"}


def peer(name: str) -> Path:
    envs = Path(os.environ.get("LATEINT_PEERS", ROOT / ".data" / "envs"))
    python = envs / name / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"no environment {name}: make it with scripts/peers/env.sh DATA {name}")
    return python


def run(python: Path, job: Path, steps: list[dict[str, Any]]) -> dict[str, Any]:
    job.write_text(json.dumps({"steps": steps}), encoding="utf-8")
    hub = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [python, SCRIPT, job], env={**os.environ, **hub}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(job.with_suffix(".out.json").read_text())
    return answer


def rows(path: Path) -> list[torch.Tensor]:
    with np.load(path) as data:
        parts = np.split(data["values"], np.cumsum(data["counts"])[:-1])
    return [torch.from_numpy(part) for part in parts]


def failed(work: dict[str, Any], name: str) -> list[str]:
    """What a library said of a step that failed."""
    ends = (name, f"{name}.npz")
    return [error for path, error in work["errors"].items() if Path(path).name in ends]


def kind_of(layout: str, name: str) -> str:
    if name.startswith("single"):
        return "single"
    return "pylate" if layout == "pylate" else "multi"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All checkpoints made by their libraries, encoded by them, written again by us, and encoded
    again: two runs of each library."""
    folder = tmp_path_factory.mktemp("peers")
    pythons = {"pylate": peer("pylate"), "sbert": peer("sbert")}
    for name in ("bert", "modernbert", "xlmr", "qwen3", "lfm2"):
        backbone(folder / "backbones" / name, name)
    steps: dict[str, list[dict[str, Any]]] = {"pylate": [], "sbert": []}
    for name, (base, step) in MADE.items():
        library = "pylate" if step["make"] == "pylate" else "sbert"
        out = str(folder / "theirs" / name)
        steps[library].append({**step, "backbone": str(folder / "backbones" / base), "out": out})
        steps[library].append(
            {"encode": out, "kind": step["make"], "texts": TEXTS, "out": f"{out}.npz"}
        )
    for base in ("bert", "modernbert"):
        name = f"stanford-{base}"
        stanford(folder / "theirs" / name, base)
        out = str(folder / "theirs" / name)
        library, kind = ("sbert", "multi") if base == "bert" else ("pylate", "pylate")
        steps[library].append({"encode": out, "kind": kind, "texts": TEXTS, "out": f"{out}.npz"})
    answers = {n: run(pythons[n], folder / f"{n}-1.json", s) for n, s in steps.items()}
    again: dict[str, list[dict[str, Any]]] = {"pylate": [], "sbert": []}
    for name, layouts in WRITTEN.items():
        if not Path(f"{folder / 'theirs' / name}.npz").is_file():
            continue  # the library failed; its tests say how
        model = lateint.load(folder / "theirs" / name)
        for layout in layouts:
            out = str(folder / "ours" / f"{name}-{layout}")
            save(model, out, layout)
            kind = kind_of(layout, name)
            step: dict[str, Any] = {
                "encode": out,
                "kind": kind,
                "texts": TEXTS,
                "out": f"{out}.npz",
            }
            step["prompted"] = "prompts" in MADE.get(name, ("", {}))[1]  # PyLate takes them by name
            again["pylate" if kind == "pylate" else "sbert"].append(step)
    last = [run(pythons[n], folder / f"{n}-2.json", s) for n, s in again.items()]
    return {
        "folder": folder,
        "versions": {n: answer["versions"] for n, answer in answers.items()},
        "errors": {k: v for a in (*answers.values(), *last) for k, v in a["errors"].items()},
    }


def ours(folder: Path) -> list[torch.Tensor]:
    model = lateint.load(folder)
    head = "multi" if "multi" in model.heads else "single"
    found = (
        model.encode_queries(TEXTS["query"], head=head),
        model.encode_documents(TEXTS["document"], head=head),
    )
    return [row.clone() for ragged in found for row in ragged]


def difference(name: str, one: list[torch.Tensor], two: list[torch.Tensor]) -> float:
    assert len(one) == len(two)
    worst = 0.0
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
        if name in KEPT_ALL and len(b) == 0:
            continue
        assert a.shape == b.shape, (name, i, a.shape, b.shape)
        if a.numel():
            worst = max(worst, float((a - b).abs().max()))
    return worst


def scores(vectors: list[torch.Tensor]) -> torch.Tensor:
    """(queries, documents) float64 MaxSim."""
    count = len(TEXTS["query"])
    queries, documents = ([v.double() for v in part] for part in (vectors[:count], vectors[count:]))
    return torch.stack([torch.stack([(q @ d.T).amax(1).sum() for d in documents]) for q in queries])


def swaps(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """How much their scores fall short where our top 100 stands in another order than theirs: 0
    where it is the same, about rounding where documents tie."""
    ours_, theirs = scores(found), scores(expected)
    order = ours_.argsort(dim=1, descending=True, stable=True)[:, :100]
    best = theirs.sort(dim=1, descending=True, stable=True)
    if torch.equal(order, best.indices[:, :100]):
        return 0.0
    return float((best.values[:, :100] - theirs.gather(1, order)).abs().max())


def note(what: dict[str, Any]) -> None:
    path = os.environ.get("LATEINT_PARITY")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")


@pytest.mark.parametrize("name", WRITTEN)
def test_theirs_opened_by_us(work: dict[str, Any], name: str) -> None:
    theirs = work["folder"] / "theirs" / name
    assert not failed(work, name)
    expected, found = rows(Path(f"{theirs}.npz")), ours(theirs)
    worst = difference(name, found, expected)
    gap = 0.0 if name in KEPT_ALL else swaps(found, expected)
    note({"checkpoint": name, "read": worst, "top_100_swaps": gap, "versions": work["versions"]})
    assert worst <= TOLERANCE
    assert gap <= TOLERANCE


@pytest.mark.parametrize(
    "name,layout", [(name, layout) for name, layouts in WRITTEN.items() for layout in layouts]
)
def test_ours_opened_by_them(work: dict[str, Any], name: str, layout: str) -> None:
    assert not failed(work, f"{name}-{layout}")
    expected = rows(work["folder"] / "theirs" / f"{name}.npz")
    found = rows(work["folder"] / "ours" / f"{name}-{layout}.npz")
    worst = difference(name, found, expected)
    note({"checkpoint": name, "written_as": layout, "round_trip": worst})
    assert worst <= TOLERANCE
