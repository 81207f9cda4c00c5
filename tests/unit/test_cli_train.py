"""`lateint train`: a TOML file to a model, and what is wrong in one."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training as toy

pytest.importorskip("accelerate", reason="pip install 'lateint[train]'")

from lateint import cli, load
from lateint.config import ConfigError
from lateint.training_config import (
    EXAMPLE,
    ModelTable,
    RunConfig,
    _arguments,
    _model,
    goals,
    read_config,
)

CONFIG = """
output = "run"

[model]
load = "start"

[[data]]
path = "pairs.jsonl"
licence = "CC0-1.0"
negatives = 1

[[data]]
path = "scored.jsonl"
columns = [{ name = "q", role = "query", prompt = "a " }, { name = "d", role = "document" }]
scores = ["s"]
best_first = true

[[loss]]
options = { temperature = 0.5 }
filter = { relative = 0.95 }

[[loss]]
kind = "KL"
head = "single"

[[distil]]
options = { student_temperature = 0.1 }

[[evaluate]]
path = "letters"
metrics = ["nDCG@5"]
heads = ["multi", "single"]

[lora]
rank = 2

[card]
name = "Letters"

[arguments]
max_steps = 3
per_device_train_batch_size = 4
use_cpu = true
disable_tqdm = true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def lines(path: Path, rows: list[Any]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    rows = toy.pairs(12, negatives=2)
    lines(tmp_path / "pairs.jsonl", rows)
    scored = [
        {"q": r["query"], "d": [r["negative_0"], r["positive"]], "s": [0.1, 2.0]} for r in rows
    ]
    lines(tmp_path / "scored.jsonl", scored)
    birds = tmp_path / "letters"
    (birds / "qrels").mkdir(parents=True)
    lines(
        birds / "corpus.jsonl",
        [{"_id": f"d{i}", "text": r["positive"]} for i, r in enumerate(rows)],
    )
    lines(
        birds / "queries.jsonl", [{"_id": f"q{i}", "text": r["query"]} for i, r in enumerate(rows)]
    )
    grades = "".join(f"q{i}\td{i}\t1\n" for i in range(len(rows)))
    (birds / "qrels" / "dev.tsv").write_text(f"query-id\tcorpus-id\tscore\n{grades}")
    toy.model().save(tmp_path / "start")
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_a_file_becomes_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", folder / "config.toml", "--json") == 0
    out = capsys.readouterr().out
    told = json.loads(out[out.rindex('{\n  "model"') :])
    assert told["steps"] == 3
    assert {"eval_multi/nDCG@5", "eval_single/nDCG@5"} <= set(told["numbers"])
    model = load(folder / "run" / "model")
    assert set(model.heads) == {"multi", "single"}
    card = (folder / "run" / "model" / "README.md").read_text()
    assert "# Letters" in card
    assert "| pairs | 12 | CC0-1.0 |" in card
    assert "nDCG@5" in card
    assert "Filtered" in card
    # the checkpoint is whole: the run is over, and going on from it changes nothing
    assert run("train", folder / "config.toml", "--resume") == 0


def test_a_head_that_learns_weights_on_top_of_a_model(folder: Path) -> None:
    text = CONFIG.replace("[lora]\nrank = 2\n", "").replace(
        'load = "start"', 'load = "start"\nhead_options = { multi = { queries = "learned" } }'
    )
    only = 'freeze = ["^encoders"]\nlearning_rate = 0.1\nmax_steps = 3'
    (folder / "config.toml").write_text(text.replace("max_steps = 3", only))
    assert run("train", folder / "config.toml") == 0
    start, model = load(folder / "start"), load(folder / "run" / "model")
    assert model.head("multi").config.queries == "learned"
    asked = model.encode_queries(["a b c d"]).values
    lengths = asked.norm(dim=-1)
    assert bool((lengths - 1).abs().max() > 1e-3)
    assert torch.allclose(
        asked / lengths[:, None], start.encode_queries(["a b c d"]).values, atol=1e-6
    )


def test_a_file_may_name_backbones_of_any_modality() -> None:
    table = ModelTable(audio="log-mel", dim=16, heads=("multi",))
    model = _model(table, Path())
    assert list(model.encoders) == ["audio"] and model.dim == 16 and list(model.heads) == ["multi"]


def test_the_example_has_every_table_and_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(EXAMPLE)
    config = read_config(path)
    empty = [f.name for f in fields(RunConfig) if not getattr(config, f.name)]
    assert empty == ["eval_data"]
    assert len(goals(config)) == 3
    config.arguments.pop("bf16")  # a CPU may have none
    assert _arguments(config, tmp_path).learning_rates == {"projection": 1e-3}


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("[model]", "[modle]", "unknown key 'modle', did you mean 'model'"),
        ("rank = 2", "rnak = 2", "lora: unknown key 'rnak', did you mean 'rank'"),
        ("max_steps = 3", "max_step = 3", "unknown key 'max_step', did you mean 'max_steps'"),
        ("max_steps = 3", "mix = 'all'", "mix must be one of"),
        ("temperature = 0.5", "temp = 0.5", "loss 1: InfoNCE: unknown key 'temp'"),
        ('kind = "KL"', 'kind = "KLD"', "unknown loss 'KLD', did you mean 'KL'"),
        ('head = "single"', 'head = "singel"', "no head 'singel'"),
        ('role = "query"', 'role = "label"', "columns.*role"),
        ('load = "start"', 'load = "start"\ntext = "x"', "not both"),
        (
            'load = "start"',
            'load = "start"\nhead_options = { multi = { querys = "learned" } }',
            "head_options: multi: unknown key 'querys', did you mean 'queries'",
        ),
        ('name = "q"', 'name = "queri"', "no column 'queri'"),
        ("pairs.jsonl", "pears.jsonl", "pears.jsonl: no such file"),
        ('kind = "KL"', 'kind = "Loss"', "unknown loss 'Loss'"),
        ("rank = 2", "rank = = 2", "not TOML.*line"),
    ],
)
def test_what_is_wrong_is_named(
    folder: Path, old: str, new: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert CONFIG.count(old) >= 1
    (folder / "config.toml").write_text(CONFIG.replace(old, new, 1))
    assert run("train", folder / "config.toml") == 1
    assert re.search(wanted, capsys.readouterr().err)


def test_no_file_and_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train") == 2
    assert run("train", "--example") == 0
    assert capsys.readouterr().out == EXAMPLE
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.toml")
