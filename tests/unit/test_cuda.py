"""On a GPU, where there is one: every tower, MaxSim, the losses and the trainer do there what they do
on the CPU."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tiny_audio
import tiny_vlm
import torch
import toy_training as toy
from torch import Tensor

import lateint
from lateint.losses import KL, InfoNCE, Scores
from lateint.maxsim import maxsim
from lateint.objective import Distil, Objective
from lateint.ragged import Ragged
from lateint.scorers import MaxSim
from modalities import pdf, reader

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda")


def on_gpu(module: Any) -> Any:
    return copy.deepcopy(module).to(CUDA)


@pytest.fixture(scope="module")
def both(shipped: lateint.LateInteractionModel) -> tuple[Any, Any]:
    return shipped, on_gpu(shipped)


def same(here: Ragged, there: Ragged, atol: float) -> None:
    assert here.offsets.tolist() == there.offsets.tolist()
    torch.testing.assert_close(there.values.float().cpu(), here.values.float(), atol=atol, rtol=0)


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's convolutions in the precision of the GPU's."""
    monkeypatch.setattr(reader, "quick", lambda device: torch.float32)


@pytest.mark.usefixtures("float32")
def test_the_model_that_ships(both: tuple[Any, Any], fixtures: Path) -> None:
    pages = [page.image for page in pdf.pages(fixtures / "kestrel-manual.pdf", dpi=100)]
    pictures = sorted((fixtures / "pictures").glob("*.png"))
    texts = ["set the rain gauge back to zero", "a red kite"]
    recordings = [tiny_audio.tone(2.0), tiny_audio.tone(1.0, seed=1)]
    for items, modality in (
        (pages, "page"),
        (pictures, "image"),
        (texts, "text"),
        ([(samples, 16_000) for samples in recordings], "audio"),
    ):
        here, there = (m.encode_documents(items, modality=modality) for m in both)
        assert len(here) == len(items) > 0
        same(here, there, 2e-2)
    here, there = (m.encode_queries(texts) for m in both)
    same(here, there, 1e-4)


@pytest.mark.parametrize("family", ["engine-colpali", "engine-colqwen2", "engine-colidefics3"])
def test_vision_language_models(family: str) -> None:
    encoder = tiny_vlm.engine_encoder(family).eval()
    batch = encoder.prepare(["who asks", "a kite"], "query")
    with torch.inference_mode():
        here = encoder(batch)
        there = on_gpu(encoder)(batch.to(CUDA))
    torch.testing.assert_close(
        there.tokens.cpu()[here.mask], here.tokens[here.mask], atol=1e-3, rtol=0
    )


def random_ragged(lengths: list[int], seed: int, dim: int = 32) -> Ragged:
    draw = torch.Generator().manual_seed(seed)
    values = torch.nn.functional.normalize(
        torch.randn(sum(lengths), dim, generator=draw, dtype=torch.float64), dim=-1
    )
    return Ragged(values, torch.tensor([0, *lengths]).cumsum(0))


@pytest.mark.parametrize("loss", [InfoNCE(0.1), KL()], ids=["InfoNCE", "KL"])
def test_maxsim_and_losses(loss: Any) -> None:
    sides = (random_ragged([4, 7, 1], 0), random_ragged([9, 3, 12, 1, 5, 2], 1))
    candidates = torch.tensor([[0, 3], [1, 4], [2, 5]])
    teacher = torch.tensor([[3.0, 1.0], [2.0, 0.5], [1.0, 0.0]], dtype=torch.float64)

    def step(device: torch.device) -> list[Tensor]:
        values = [side.values.to(device).requires_grad_() for side in sides]
        queries, documents = (
            Ragged(v, side.offsets) for v, side in zip(values, sides, strict=True)
        )
        told = (candidates.to(device), teacher.to(device))
        scores = Scores(MaxSim()(queries, documents), torch.arange(3, device=device), *told)
        lost = loss.to(device)(scores)
        return [lost.detach().cpu(), *(g.cpu() for g in torch.autograd.grad(lost, values))]

    for here, there in zip(step(torch.device("cpu")), step(CUDA), strict=True):
        torch.testing.assert_close(here, there, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maxsim_in_halves(dtype: torch.dtype) -> None:
    queries, documents = random_ragged([4, 7], 0), random_ragged([9, 3, 40], 1)
    halves = [side.to(CUDA, dtype) for side in (queries, documents)]
    torch.testing.assert_close(
        maxsim(*halves).double().cpu(), maxsim(queries, documents), atol=0.08, rtol=0
    )


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"budget_tokens": 64, "bf16": True}])
def test_the_trainer_learns(tmp_path: Path, options: dict[str, Any]) -> None:
    pytest.importorskip("accelerate", reason="pip install 'lateint[train]'")
    rows = toy.pairs(64)
    model, measure = toy.model(), toy.accuracy(rows)
    arguments = lateint.TrainingArguments(
        str(tmp_path), per_device_train_batch_size=16, learning_rate=1e-2, max_steps=60,
        logging_steps=10, save_strategy="steps", save_steps=30, disable_tqdm=True, **options,
    )  # fmt: skip
    goals = [Objective(InfoNCE(0.1)), Objective(InfoNCE(0.1), "single"), Distil()]
    before = measure(model)["accuracy"]
    trainer = lateint.Trainer(model, arguments, rows, loss=goals)
    trainer.train()
    assert next(model.parameters()).device.type == "cuda"
    assert measure(model)["accuracy"] > before + 0.3
    written = lateint.load(tmp_path / "checkpoint-60")
    torch.testing.assert_close(
        written.encode_queries(["a b c"]).values,
        model.encode_queries(["a b c"]).values.float().cpu(),
        atol=1e-2 if options.get("bf16") else 1e-4,
        rtol=0,
    )
    again = lateint.Trainer(toy.model(), arguments, rows, loss=goals)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-30"))
    assert again.state.global_step == 60


def test_an_index_takes_what_is_on_the_gpu(tmp_path: Path) -> None:
    documents = random_ragged([9, 3, 12], 1)
    there = documents.to(CUDA, torch.float32)
    with lateint.Index.create(tmp_path / "index", dim=32) as index:
        index.add(["a", "b", "c"], there)
        (hits,) = index.search(there.take([1]), k=1)
    assert [hit.id for hit in hits] == ["b"]
