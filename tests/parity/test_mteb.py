"""Our models in mteb's protocols, tested by the installed mteb itself, offline.

mteb lives in an environment of its own beside lateint: `PYTHON=$(which python) scripts/peers/env.sh
DATA mteb`; LATEINT_PEERS names DATA/envs where that is not .data/envs.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from toy_model import toy_model

from lateint.evaluation import evaluate, read_benchmark
from lateint.evaluation.mteb import MtebEncoder, MtebSearch

ROOT = Path(__file__).resolve().parents[2]
BIRDS = "kite gull owl tern wren swan crow duck finch heron stork rail".split()
PLACES = "harbour forest meadow river marsh garden cliff island valley roof".split()


def write_sightings(folder: Path) -> None:
    """120 documents, 30 queries; each query's words are in its document and in others. Words of their
    own keep documents' scores apart: equal ones are ordered by id here, and otherwise there."""
    (folder / "qrels").mkdir(parents=True)
    names = [f"{bird}-{place}" for bird in BIRDS for place in PLACES]
    with (folder / "corpus.jsonl").open("w") as file:
        for i, name in enumerate(names):
            bird, place = name.split("-")
            text = f"a {bird} was seen near the {place} " + " ".join(BIRDS[: i % 7])
            text += "".join(f" own{i}x{j}" for j in range(40))
            file.write(json.dumps({"_id": name, "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w") as file:
        for i, name in enumerate(names[::4]):
            text = f"{name.replace('-', ' at ')} ask{i}"
            file.write(json.dumps({"_id": f"q-{name}", "text": text}) + "\n")
    rows = [f"q-{name}\t{name}\t1" for name in names[::4]]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mteb") / "sightings"
    write_sightings(folder)
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    envs = Path(os.environ.get("LATEINT_PEERS", ROOT / ".data" / "envs"))
    python = envs / "mteb" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is missing: scripts/peers/env.sh makes it")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "MTEB_CACHE": str(folder.parent / "cache"),
    }
    done = subprocess.run(
        [python, ROOT / "tests" / "mteb_side.py", folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_protocols_are_theirs(theirs: Any) -> None:
    assert theirs["encoder"] and theirs["search"]
    assert theirs["modalities"] == ["image", "text"]


@pytest.mark.slow
def test_every_mock_task_of_theirs_passes(theirs: Any) -> None:
    for protocol in ("mock encoder", "mock search"):
        failed = {name: s for name, s in theirs[protocol].items() if s != "passed"}
        assert not failed, failed
    assert len(theirs["mock encoder"]) > 20
    assert len(theirs["mock search"]) > 5


@pytest.mark.slow
def test_their_numbers_are_ours(theirs: Any, folder: Path) -> None:
    metrics = ["nDCG@10", "MAP@100", "Recall@100"]
    report = evaluate(toy_model(), read_benchmark(folder), baselines=[], metrics=metrics)
    for row in report.rows:
        ours = [row.metrics[name] for name in metrics]
        found = [theirs[row.system][name] for name in ("ndcg_at_10", "map_at_100", "recall_at_100")]
        assert ours == pytest.approx(found, abs=2e-4)  # mteb rounds to five digits
        assert 0.05 < ours[0] < 1.0


ROWS = [
    {"id": "a", "text": "red kite"},
    {"id": "b", "text": "white gull"},
    {"id": "c", "text": "owl"},
]
TASK: dict[str, Any] = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}


def test_rows_of_both_roles_without_mteb() -> None:
    encoder = MtebEncoder(toy_model())
    batches = [{"text": ["red kite", "white gull"]}, {"text": ["owl"]}]
    asked = encoder.encode(batches, **TASK, prompt_type="query")
    found = encoder.encode(batches, **TASK, prompt_type="document")
    assert asked.shape == (3, 64) and asked.dtype.name == "float32"
    assert not (asked == found).all()  # the toy's [query] and [document] are other tokens
    assert (encoder.encode(batches, **TASK) == found).all()
    pairs = encoder.similarity(asked, found)
    assert pairs.shape == (3, 3)
    assert pairs.argmax(1).tolist() == [0, 1, 2]
    assert encoder.similarity_pairwise(asked, found).tolist() == pytest.approx(
        pairs.diag().tolist()
    )


def test_a_search_without_mteb() -> None:
    search = MtebSearch(toy_model(), window=2)
    search.index(ROWS, **TASK, encode_kwargs={})
    asked = [{"id": "q", "text": "kite"}]
    found = search.search(asked, **TASK, encode_kwargs={}, top_k=2)
    assert list(found) == ["q"] and next(iter(found["q"])) == "a" and len(found["q"]) == 2
    ranked = search.search(
        asked, **TASK, encode_kwargs={}, top_k=9, top_ranked={"q": ["c", "b", "gone"]}
    )
    assert {*ranked["q"]} == {"b", "c"}
    search.index(ROWS[1:], **TASK, encode_kwargs={})  # another corpus takes the place of the first
    assert "a" not in search.search(asked, **TASK, encode_kwargs={}, top_k=9)["q"]
    search.close()
    with pytest.raises(ValueError, match="call index"):
        search.search(asked, **TASK, encode_kwargs={}, top_k=1)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="several rows an item"):
        MtebEncoder(toy_model(), head="multi").encode([{"text": ["red kite"]}], **TASK)
    with pytest.raises(ValueError, match=r"row 0 has columns \['image'\]; this model reads"):
        MtebEncoder(toy_model()).encode([{"image": [object()]}], **TASK)
    with pytest.raises(TypeError, match="unknown argument 'heads', did you mean 'head'"):
        MtebEncoder(toy_model(), heads="single")
    with pytest.raises(ValueError, match="no encoder for 'pages'"):
        MtebEncoder(toy_model(), modalities={"image": "pages"})
