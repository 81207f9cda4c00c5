"""What a step is made of: modalities that meet in it, processes that share it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_training as toy
from PIL import Image

pytest.importorskip("accelerate", reason="pip install 'lateint[train]'")

from lateint import LateInteractionModel
from lateint.data import Collate, Column, IdSet, JoinedSets, TableSet
from lateint.learner import Learner
from lateint.losses import KL, InfoNCE, Sigmoid
from lateint.objective import Objective
from lateint.trainer import Trainer
from lateint.training_arguments import TrainingArguments
from modalities.audio import AudioEncoder
from modalities.image import TimmImage
from modalities.media import Audio

ROOT = Path(__file__).resolve().parents[2]
COLOURS = ("red", "green", "blue", "white", "black", "yellow")


def pictures() -> TableSet:
    columns = [Column("name", "query"), Column("picture", "document", "image")]
    rows = [{"name": c, "picture": Image.new("RGB", (32, 32), c)} for c in COLOURS]
    return TableSet(rows, columns, name="pictures")


def two_modalities() -> LateInteractionModel:
    torch.manual_seed(0)
    image = TimmImage.from_timm("test_vit", dim=16, image_size=(32, 32))
    return LateInteractionModel({"text": toy.text_encoder(), "image": image})


def test_texts_and_pictures_meet_in_one_step(tmp_path: Path) -> None:
    """A mixed step compares each query with the documents of every modality."""
    model = two_modalities()
    joined = JoinedSets([TableSet(toy.pairs(3)), pictures()])
    step = Collate(dict(model.encoders.items()))([joined[i] for i in (0, 4, 1, 6)])["step"]
    learner = Learner(model, [Objective(InfoNCE()), Objective(InfoNCE(), "single")]).eval()
    parts = learner(step)["parts"]
    for place, head in enumerate(("multi", "single")):
        scores = []
        for example in [joined[i] for i in (0, 4, 1, 6)]:
            asked = model.encode_queries([example.query.value], head=head)
            row = []
            for other in [joined[i] for i in (0, 4, 1, 6)]:
                (item,) = other.documents
                found = model.encode_documents([item.opened()], modality=item.modality, head=head)
                row.append((asked.values @ found.values.T).max(1).values.sum())
            scores.append(torch.stack(row))
        matrix = torch.stack(scores)
        plain = torch.nn.functional.cross_entropy(matrix, torch.arange(4))
        assert parts[place].item() == pytest.approx(plain.item(), abs=1e-4)


def test_a_mixed_run_trains_both_encoders(tmp_path: Path) -> None:
    model = two_modalities()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    args = TrainingArguments(
        str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=6,
        mix="mixed",
        budget_tokens=64,
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_num_workers=1,
        learning_rate=1e-3,
    )
    data = {"texts": TableSet(toy.pairs(12)), "pictures": pictures()}
    Trainer(model, args, data, loss=[Objective(InfoNCE()), Objective(InfoNCE(), "single")]).train()
    moved = {
        k.split(".")[1] for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert moved == {"text", "image"}


def test_texts_pictures_and_recordings_learn_in_one_step() -> None:
    """Every query is compared with documents of three modalities, and all three learn."""
    torch.manual_seed(0)
    encoders = {
        "text": toy.text_encoder(),
        "image": TimmImage.from_timm("test_vit", dim=16, image_size=(32, 32)),
        "audio": AudioEncoder.log_mel(dim=16),
    }
    model = LateInteractionModel(encoders)
    times = torch.arange(4000) / 8000
    tones = [Audio(torch.sin(hertz * times).numpy(), 8000) for hertz in (900, 4000)]
    sounds = TableSet(
        [{"name": name, "sound": tone} for name, tone in zip(("low", "high"), tones, strict=True)],
        [Column("name", "query"), Column("sound", "document", "audio")],
    )
    joined = JoinedSets([TableSet(toy.pairs(2)), pictures(), sounds])
    step = Collate(dict(model.encoders.items()))([joined[i] for i in (0, 2, 8, 1, 9)])["step"]
    learner = Learner(model, [Objective(InfoNCE()), Objective(InfoNCE(), "single")])
    learner(step)["loss"].backward()
    for name, encoder in encoders.items():
        gradient = encoder.projection.weight.grad
        assert gradient is not None and bool(gradient.abs().sum() > 0), name


def test_a_document_that_is_there_twice_is_no_negative() -> None:
    rows = [{"q": "a b", "d": "c d"}, {"q": "e f", "d": "c d"}, {"q": "g h", "d": "i j"}]
    data = TableSet(rows)
    model = toy.model()
    step = Collate(dict(model.encoders.items()))([data[i] for i in range(3)])["step"]
    losses = [
        Learner(model, [Objective(InfoNCE())], exclude_duplicates=yes).eval()(step)["loss"].item()
        for yes in (True, False)
    ]
    alone = Collate(dict(model.encoders.items()))([data[i] for i in (0, 2)])["step"]
    assert losses[0] < losses[1]
    assert Learner(model, [Objective(InfoNCE())]).eval()(alone)["loss"].item() > 0


def test_a_step_without_scores_has_nothing_for_a_teacher_s_loss() -> None:
    model = toy.model()
    scored = TableSet([{"q": "a", "p": "b", "n": "c", "score": [2.0, 1.0]}])
    plain = TableSet(toy.pairs(2))
    learner = Learner(model, [Objective(KL()), Objective(InfoNCE())]).eval()
    collate = Collate(dict(model.encoders.items()), scored=True)
    nothing = learner(collate([plain[0], plain[1]])["step"])
    assert nothing["parts"][0] == 0
    assert nothing["parts"][1] > 0
    nothing["loss"].backward()
    both = learner(collate([plain[0], scored[0]])["step"])["parts"][0]
    alone = learner(collate([scored[0]])["step"])["parts"][0]
    assert both == pytest.approx(alone.item(), abs=1e-6)


def test_queries_may_be_of_any_modality() -> None:
    model = two_modalities()
    columns = (Column("p", "query", "image"), Column("t", "document"))
    rows = [{"p": Image.new("RGB", (32, 32), c), "t": c} for c in COLOURS[:3]]
    data = TableSet(rows, columns)
    step = Collate(dict(model.encoders.items()))([data[i] for i in range(3)])["step"]
    loss = Learner(model, [Objective(Sigmoid())])(step)["loss"]
    loss.backward()
    for encoder in model.encoders.values():
        gradient = encoder.projection.weight.grad  # type: ignore[union-attr]
        assert gradient is not None
        assert bool(gradient.abs().sum() > 0)


def test_what_is_frozen_is_in_eval_mode() -> None:
    model = two_modalities()
    learner = Learner(model, [Objective(InfoNCE())])
    learner.freeze([r"encoders\.image\."])
    learner.train()
    assert not model.encoder("image").training
    assert model.encoder("text").training
    assert not any(name.startswith("encoders.image") for name in learner.named_trainable())


def test_a_benchmark_s_train_qrels_are_training_data(tmp_path: Path) -> None:
    queries = {f"q{i}": row["query"] for i, row in enumerate(toy.pairs(6))}
    documents = {f"d{i}": row["positive"] for i, row in enumerate(toy.pairs(6))}
    data = IdSet(
        [(f"q{i}", [f"d{i}", f"d{(i + 1) % 6}"], None) for i in range(6)], queries, documents
    )
    args = TrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    result = Trainer(toy.model(), args, data).train()
    assert result.training_loss > 0


SHARED = """
import json, sys
sys.path[:0] = ["tests", "tests/unit"]
import torch, toy_training as toy
from lateint.data import TableSet
from lateint.losses import InfoNCE, KL
from lateint.objective import Distil, Objective
from lateint.trainer import Trainer
from lateint.training_arguments import TrainingArguments
import test_trainer_steps as t

folder, size, mixed = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "mixed"
model = t.two_modalities() if mixed else toy.model()
for module in model.modules():  # each process draws its own
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
rows = toy.pairs(20, negatives=1)
rows[3]["positive"] = rows[0]["positive"]  # a duplicate that two processes may have between them
data = {"texts": TableSet(rows), "pictures": t.pictures()} if mixed else TableSet(rows)
goals = [Objective(InfoNCE(0.5, symmetric=True, learnable=True)), Distil(weight=0.3)]
args = TrainingArguments(
    folder, max_steps=3, per_device_train_batch_size=size, mix="mixed", budget_tokens=100,
    logging_steps=1, save_strategy="steps", save_steps=3, disable_tqdm=True, use_cpu=True,
    learning_rate=1e-3, eval_strategy="steps", eval_steps=3,
)
trainer = Trainer(model, args, data, rows[:7], loss=goals, evaluator=toy.accuracy(rows[:6]))
trainer.train()
if trainer.is_world_process_zero():
    print("LOG", json.dumps(trainer.state.log_history))
"""


def history(folder: Path, processes: int, size: int, kind: str) -> list[dict[str, Any]]:
    script = folder / "run.py"
    folder.mkdir()
    script.write_text(SHARED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*launch, str(script), str(folder), str(size), kind],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOG")]
    found: list[dict[str, Any]] = json.loads(line.removeprefix("LOG"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["texts", "mixed"])
def test_two_processes_train_as_one_with_the_joint_batch(tmp_path: Path, kind: str) -> None:
    """Losses, norms of gradients and what is evaluated, over three steps, cached, with hard
    negatives, both heads and a learned temperature; mixed: a process may lack a modality."""
    one = history(tmp_path / "one", 1, 6, kind)
    two = history(tmp_path / "two", 2, 3, kind)
    for alone, shared in zip(one, two, strict=True):
        for key in (
            "loss",
            "grad_norm",
            "eval_loss",
            "eval_accuracy",
            "loss/Distil multi to single",
        ):
            if key in alone:
                assert shared[key] == pytest.approx(alone[key], rel=2e-3, abs=1e-4), key
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], abs=1e-5)
    assert (tmp_path / "two" / "checkpoint-3" / "config.json").is_file()
