"""The trainer: it learns, goes on where it was killed, and does what its arguments say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training as toy

pytest.importorskip("accelerate", reason="pip install 'lateint[train]'")

from lateint import LateInteractionModel, load
from lateint.adapters import Lora, has_adapters
from lateint.card import Card
from lateint.data import Stream, TableSet
from lateint.losses import KL, InfoNCE
from lateint.objective import Distil, Objective
from lateint.trainer import Trainer
from lateint.training_arguments import TrainingArguments
from lateint.training_files import last_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PAIRS = toy.pairs(48)


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    usual: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(str(folder), **{**usual, **options})


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(model: LateInteractionModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], model: LateInteractionModel) -> set[str]:
    after = model.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.slow
def test_a_hundred_steps_make_a_better_score(tmp_path: Path) -> None:
    """Both heads at once, the single one distilled from the multi one as well."""
    model = toy.model()
    measure = {"multi": toy.accuracy(PAIRS), "single": toy.accuracy(PAIRS, "single")}
    before = {name: one(model)["accuracy"] for name, one in measure.items()}
    goals = [
        Objective(InfoNCE(0.5)),
        Objective(InfoNCE(0.1, learnable=True), "single"),
        Distil(loss=KL(student_temperature=0.1), weight=0.2),
    ]
    trainer = Trainer(
        model,
        arguments(
            tmp_path,
            max_steps=100,
            per_device_train_batch_size=16,
            no_duplicates=True,
            logging_steps=10,
            eval_strategy="steps",
            eval_steps=50,
        ),
        PAIRS,
        loss=goals,
        evaluator=measure,
    )
    trainer.train()
    after = {name: one(model)["accuracy"] for name, one in measure.items()}
    assert after["multi"] > before["multi"] + 0.5, (before, after)
    assert after["single"] > before["single"] + 0.15, (before, after)
    assert losses(trainer)[-1] < losses(trainer)[0] / 2
    seen = [e for e in trainer.state.log_history if "eval_multi/accuracy" in e]
    assert [e["step"] for e in seen] == [50, 100]
    assert seen[-1]["eval_multi/accuracy"] == after["multi"]


def test_a_cached_step_is_the_plain_step(tmp_path: Path) -> None:
    curves = []
    for budget in (None, 40):
        model = toy.model()
        trainer = Trainer(model, arguments(tmp_path, max_steps=3, budget_tokens=budget), PAIRS)
        # without dropout, which draws other numbers where the chunks are others
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.train()
        curves.append(losses(trainer))
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_a_run_that_resumes_has_the_curve_of_one_that_did_not(tmp_path: Path) -> None:
    """In the middle of the second epoch, with dropout, a learned temperature and a schedule."""

    def trainer(folder: Path, **options: Any) -> Trainer:
        args = arguments(
            folder, max_steps=10, save_strategy="steps", save_steps=4, warmup_steps=3, **options
        )
        return Trainer(toy.model(), args, PAIRS, loss=InfoNCE(0.5, learnable=True))

    whole = trainer(tmp_path / "a")
    whole.train()
    middle = tmp_path / "a" / "checkpoint-8"
    again = trainer(tmp_path / "b")
    again.train(resume_from_checkpoint=str(middle))
    assert losses(again) == losses(whole)
    assert not changed(weights(whole.retriever), again.retriever)
    (tmp_path / "a" / "checkpoint-8" / "config.json").unlink()
    assert last_checkpoint(tmp_path / "a") == tmp_path / "a" / "checkpoint-10"
    (tmp_path / "a" / "checkpoint-10" / "trainer_state.json").write_text('{"step": ')
    assert last_checkpoint(tmp_path / "a") == tmp_path / "a" / "checkpoint-4"
    with pytest.raises(ValueError, match="no whole checkpoint"):
        last_checkpoint(tmp_path / "b" / "nothing")


KILLED = """
import sys
sys.path[:0] = ["tests", "tests/unit"]
import test_trainer as t
from pathlib import Path
folder = Path(sys.argv[1])
args = t.arguments(folder, max_steps=int(sys.argv[2]), save_strategy="steps", save_steps=5,
                   dataloader_num_workers=1)
trainer = t.Trainer(t.toy.model(), args, t.PAIRS, lora=t.Lora(rank=2, dropout=0.1))
trainer.train(resume_from_checkpoint=len(sys.argv) > 3)
print("CURVE", t.json.dumps(t.losses(trainer)))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_with_the_same_curve(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""

    def start(folder: Path, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder), "40", *more],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def curve(process: subprocess.Popen[str]) -> list[float]:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-2000:]
        (line,) = [line for line in out.splitlines() if line.startswith("CURVE")]
        found: list[float] = json.loads(line.removeprefix("CURVE"))
        return found

    whole = curve(start(tmp_path / "whole"))
    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 200
    while not (tmp_path / "killed" / "checkpoint-10" / "trainer_state.json").exists():
        assert killed.poll() is None, killed.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "checkpoint-40").exists()
    assert len(whole) == 40
    assert curve(start(tmp_path / "killed", "resume")) == whole


def test_checkpoints_are_models_with_a_card(tmp_path: Path) -> None:
    data = TableSet(PAIRS, name="letters").about(licence="CC0-1.0", source="made here")
    card = Card("Alphabet", "Apache-2.0", ("en",), ("tiny-bert",), "Finds the next letters.")
    trainer = Trainer(
        toy.model(),
        arguments(
            tmp_path, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2
        ),
        data,
        PAIRS,
        evaluator=toy.accuracy(PAIRS),
        loss=[Objective(InfoNCE(0.5), dims=(8, None)), Objective(InfoNCE(0.1), "single")],
        card=card,
    )
    trainer.train()
    folder = tmp_path / "checkpoint-2"
    saved = load(folder)
    texts = [row["positive"] for row in PAIRS[:3]]
    ours = trainer.retriever.encode_documents(texts)
    assert torch.equal(saved.encode_documents(texts).values, ours.values)
    assert not list(folder.glob("*.bin"))
    assert json.loads((folder / "training_arguments.json").read_text())["max_steps"] == 2
    text = (folder / "README.md").read_text()
    for part in (
        'license: "apache-2.0"',
        '- "tiny-bert"',
        "# Alphabet",
        "Finds the next letters.",
        "| letters | 48 | CC0-1.0 | made here | query: query (text); document: positive (text) |",
        "multi InfoNCE, MaxSim(mean=False), dims [8, None]",
        "- learning_rate: `0.003`",
        "| step | loss | accuracy |",
    ):
        assert part in text, part
    # the folder of the run holds checkpoints; a model moves in beside them, and again
    trainer.save_model()
    trainer.save_model()
    assert load(tmp_path).head_dim("single") == 16
    assert (tmp_path / "checkpoint-2").is_dir()


def test_goals_are_logged_one_by_one(tmp_path: Path) -> None:
    goals = [Objective(InfoNCE()), Objective(InfoNCE(), weight=0.5), Distil()]
    trainer = Trainer(toy.model(), arguments(tmp_path), PAIRS, loss=goals)
    trainer.train()
    entry = next(e for e in trainer.state.log_history if "loss" in e)
    parts = [entry[f"loss/{name}"] for name in ("multi InfoNCE 1", "multi InfoNCE 2")]
    assert parts[1] == pytest.approx(parts[0] / 2)
    assert sum(parts) + entry["loss/Distil multi to single"] == pytest.approx(entry["loss"])


def test_freezing_and_rates_by_pattern(tmp_path: Path) -> None:
    model = toy.model()
    before = weights(model)
    args = arguments(
        tmp_path,
        freeze=[r"embeddings", r"layer\.0\."],
        learning_rates={r"\.projection\.": 1e-2, r"layer\.1\.attention": 0.0},
        lr_scheduler_type="constant",
        weight_decay=0.01,
    )
    trainer = Trainer(model, args, PAIRS)
    trainer.train()
    moved = changed(before, model)
    assert "encoders.text.projection.weight" in moved
    assert any("layer.1.intermediate" in name for name in moved)
    assert not any(
        part in name for name in moved for part in ("embeddings", "layer.0.", "layer.1.attention")
    )
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {3e-3, 1e-2, 0.0}
    assert trainer.optimizer.param_groups[0]["lr"] == 3e-3
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.01, 0.0}
    for options in ({"freeze": ["layr"]}, {"learning_rates": {"layr": 1.0}}):
        with pytest.raises(ValueError, match="no trainable parameter matches 'layr'"):
            Trainer(toy.model(), arguments(tmp_path, **options), PAIRS)


def test_lora_learns_little_and_leaves_an_ordinary_model(tmp_path: Path) -> None:
    model = toy.model()
    before = weights(model)
    args = arguments(tmp_path, max_steps=4, save_strategy="steps", save_steps=2)
    trainer = Trainer(model, args, PAIRS, lora=Lora(rank=2, targets=("query", "value")))
    trainer.train()
    assert not has_adapters(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert set(before) == set(model.state_dict())
    moved = changed(before, model)
    assert moved == {
        *(name for name in before if ".query.weight" in name or ".value.weight" in name),
        "encoders.text.projection.weight",
    }
    text = [PAIRS[0]["positive"]]
    ours = model.encode_documents(text).values
    assert torch.allclose(load(tmp_path / "checkpoint-4").encode_documents(text).values, ours)
    again = Trainer(toy.model(), args, PAIRS, lora=Lora(rank=2, targets=("query", "value")))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(again) == losses(trainer)
    assert torch.equal(again.retriever.encode_documents(text).values, ours)
    trainer.train()  # once more, with new adapters
    assert not has_adapters(model)


def test_activations_are_computed_again_on_request(tmp_path: Path) -> None:
    curves = []
    for again in (False, True):
        args = arguments(tmp_path, activation_checkpointing=again)
        trainer = Trainer(toy.model(), args, PAIRS)
        trainer.train()
        backbone: Any = trainer.retriever.encoder("text").backbone
        assert backbone.is_activation_checkpointing == again
        curves.append(losses(trainer))
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_bf16_is_near_and_leaves_weights_in_full_precision(tmp_path: Path) -> None:
    curves = []
    for half in (False, True):
        trainer = Trainer(toy.model(), arguments(tmp_path, max_steps=4, bf16=half), PAIRS)
        trainer.train()
        curves.append(losses(trainer))
        assert {value.dtype for value in trainer.retriever.parameters()} == {torch.float32}
    assert curves[0] != curves[1]  # half precision it was
    assert curves[0] == pytest.approx(curves[1], rel=0.05)


def test_accumulated_steps_are_the_mean_of_their_parts(tmp_path: Path) -> None:
    """Each part with its own negatives; as many steps of the optimizer as arguments say."""

    def trained(rows: list[dict[str, Any]], **options: Any) -> Trainer:
        plain = {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
        args = arguments(
            tmp_path, max_steps=1, train_sampling_strategy="sequential", **plain, **options
        )
        model = toy.model()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer = Trainer(model, args, rows)
        trainer.train()
        return trainer

    start = weights(toy.model())["encoders.text.projection.weight"]
    moves, means = [], []
    for rows in (PAIRS[:8], PAIRS[8:16]):
        part = trained(rows)
        moves.append(part.retriever.state_dict()["encoders.text.projection.weight"] - start)
        means += losses(part)
    both = trained(PAIRS[:16], gradient_accumulation_steps=2)
    moved = both.retriever.state_dict()["encoders.text.projection.weight"] - start
    assert both.state.global_step == 1
    assert losses(both) == pytest.approx([sum(means) / 2], abs=1e-4)
    assert torch.allclose(moved, (moves[0] + moves[1]) / 2, atol=1e-6)
    assert bool(moved.abs().max() > 1e-4)


def test_streams_teachers_and_early_stopping(tmp_path: Path) -> None:
    from transformers import EarlyStoppingCallback

    from lateint.data.columns import by_position

    rows = [{**row, "score": [2.0, 1.0]} for row in toy.pairs(32, negatives=1)]
    stream = Stream(rows, by_position(list(rows[0])), buffer=8)
    calls: list[int] = []

    def worse(model: LateInteractionModel) -> dict[str, float]:
        calls.append(len(calls))
        return {"quality": -len(calls)}

    args = arguments(
        tmp_path,
        max_steps=20,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="quality",
        greater_is_better=True,
    )
    trainer = Trainer(
        toy.model(),
        args,
        stream,
        loss=[Objective(KL()), Objective(InfoNCE())],
        evaluator=worse,
        callbacks=[EarlyStoppingCallback(2)],
    )
    trainer.train()
    assert trainer.state.global_step == 3
    best = load(tmp_path / "checkpoint-1").state_dict()
    assert all(torch.equal(v, best[k]) for k, v in trainer.retriever.state_dict().items())
    with pytest.raises(ValueError, match="max_steps"):
        Trainer(toy.model(), arguments(tmp_path, max_steps=-1), stream)


def test_a_dataset_that_streams_is_read_by_position_scores_too(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{**row, "score": [2.0, 1.0]} for row in toy.pairs(16, negatives=1)]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    curves = []
    for again in range(2):
        trainer = Trainer(toy.model(), arguments(tmp_path / str(again)), stream, loss=KL())
        trainer.train()
        curves.append(losses(trainer))
    assert curves[0] == curves[1] and curves[0][0] > 0
    with pytest.raises(ValueError, match="no data set has scores"):
        plain = stream.remove_columns("score")
        Trainer(toy.model(), arguments(tmp_path), plain, loss=KL())


def test_what_cannot_be_trained_is_said_at_the_start(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    with pytest.raises(ValueError, match="no head 'other'"):
        Trainer(toy.model(), args, PAIRS, loss=Objective(InfoNCE(), "other"))
    with pytest.raises(TypeError, match="loss must be"):
        Trainer(toy.model(), args, PAIRS, loss=["InfoNCE"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="evaluator"):
        Trainer(toy.model(), args, PAIRS, evaluator=[3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no data set has scores"):
        Trainer(toy.model(), args, PAIRS, loss=KL())
    with pytest.raises(ValueError, match="nothing to train on"):
        Trainer(toy.model(), args).train()
    with pytest.raises(ValueError, match="nothing to evaluate"):
        Trainer(toy.model(), args, PAIRS).evaluate()
    with pytest.raises(ValueError, match="mix must be"):
        arguments(tmp_path, mix="random")
    with pytest.raises(ValueError, match="label_smoothing"):
        arguments(tmp_path, label_smoothing_factor=0.1)
