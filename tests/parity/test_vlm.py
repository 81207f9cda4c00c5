"""Page models of transformers, ours against theirs: tiny random ones, saved as they save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lateint.checkpoints
from lateint.checkpoints.retrieval import MODELS
from modalities.media import Audio
from tests.tiny_vlm import engine_encoder, transformers_model

KINDS = sorted(MODELS)
SIZES = ((60, 90), (120, 50), (70, 70), (31, 200))
QUERIES = ["loss goes up after warm-up", "", "Wer schrieb das? 誰が", "x" * 300]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(3)
    paths = []
    for i, (width, height) in enumerate(SIZES):
        coarse = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        path = folder / f"{i}.png"
        Image.fromarray(coarse).resize((width, height)).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module", params=KINDS)
def peer(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    model, processor = transformers_model(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor, folder


def theirs_inputs(processor: Any, items: list[Any]) -> Any:
    """A batch as the documentation of each model makes it."""
    text = isinstance(items[0], str)
    if hasattr(processor, "process_images"):
        call = processor.process_queries if text else processor.process_images
        return call(**{"text" if text else "images": items}, return_tensors="pt")
    contents = items if text else [[{"type": "image", "image": image}] for image in items]
    return processor.apply_chat_template(
        [[{"role": "user", "content": content}] for content in contents],
        task="query" if text else "document",
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": "longest"},
    )


def theirs(model: Any, processor: Any, items: list[Any]) -> tuple[list[torch.Tensor], Any]:
    inputs = theirs_inputs(processor, items)
    with torch.inference_mode():
        out = model(**inputs)
    kept = inputs["attention_mask"].bool()
    return [rows[mask] for rows, mask in zip(out.embeddings, kept, strict=True)], out


def opened(paths: list[Path]) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in paths]


def assert_equal(ours: Any, other: list[torch.Tensor]) -> None:
    assert len(ours) == len(other)
    for mine, their in zip(ours, other, strict=True):
        assert mine.shape == their.shape
        assert float((mine - their).abs().max()) <= 1e-5


def test_pages_from_disk_and_queries_are_the_peers(
    peer: tuple[Any, Any, Path], pictures: list[Path]
) -> None:
    model, processor, folder = peer
    ours = lateint.checkpoints.load(folder)
    for batch_tokens in (1, 100_000):  # one by one, and padded to the longest
        pages = ours.encode_documents(pictures, modality="page", batch_tokens=batch_tokens)
        assert_equal(pages, theirs(model, processor, opened(pictures))[0])
        queries = ours.encode_queries(QUERIES, batch_tokens=batch_tokens)
        assert_equal(queries, theirs(model, processor, QUERIES)[0])


def test_written_back_the_peer_opens_it_and_says_the_same(
    peer: tuple[Any, Any, Path], pictures: list[Path], tmp_path: Path
) -> None:
    model, processor, folder = peer
    lateint.checkpoints.save(lateint.checkpoints.load(folder), tmp_path / "hf", "transformers")
    again, report = type(model).from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    reader = type(processor).from_pretrained(tmp_path / "hf")
    for items in (opened(pictures), QUERIES):
        before, after = theirs(model, processor, items)[0], theirs(again.eval(), reader, items)[0]
        assert_equal(after, before)
    ours = lateint.checkpoints.load(tmp_path / "hf")
    assert_equal(
        ours.encode_documents(pictures, modality="page"),
        theirs(model, processor, opened(pictures))[0],
    )


def test_neomme_single_vectors_are_its_dense_embeddings(
    tmp_path: Path, pictures: list[Path]
) -> None:
    model, processor = transformers_model("neomme")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    ours = lateint.checkpoints.load(tmp_path)
    for items, encode in ((QUERIES, ours.encode_queries), (pictures, ours.encode_documents)):
        inputs = theirs_inputs(processor, items if items is QUERIES else opened(pictures))
        with torch.inference_mode():
            dense = model(**inputs, dense_dim=16).dense_embeddings
        modality = "text" if items is QUERIES else "page"
        mine = encode(items, modality=modality, head="single")
        assert float((mine.values - dense).abs().max()) <= 1e-5


def test_colqwen_omni_on_pages_recordings_and_queries(pictures: list[Path]) -> None:
    """Against transformers' thinker and processor, batched and padded at the left as colpali-engine
    0.3.18 calls them. Its own class cannot be made with transformers 5.23: it looks for the vision
    tower where there is none any more."""
    encoder = engine_encoder("engine-colqwen-omni")
    rng = np.random.default_rng(0)
    sounds = [(rng.standard_normal(n) * 0.1).astype(np.float32) for n in (16000, 9600, 12000)]
    row = encoder.family
    system = {"role": "system", "content": [{"type": "text", "text": row.system}]}
    beside = {"type": "text", "text": row.page}
    asked = [f"Query: {query}" + "<|endoftext|>" * 10 for query in QUERIES]
    for items, role, contents in (
        (pictures, "document", [[{"type": "image", "image": x}, beside] for x in opened(pictures)]),
        (
            [Audio(x, 16000) for x in sounds],
            "document",
            [[{"type": "audio", "audio": x}, beside] for x in sounds],
        ),
        (QUERIES, "query", [[{"type": "text", "text": x}] for x in asked]),
    ):
        inputs = encoder.processor.apply_chat_template(
            [[system, {"role": "user", "content": content}] for content in contents],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        assert not bool(inputs["attention_mask"].all())
        with torch.inference_mode():
            hidden = encoder.backbone(**inputs).last_hidden_state
            rows = torch.nn.functional.normalize(encoder.projection(hidden), dim=-1)
            grid = encoder(encoder.prepare(items, role))
        kept = inputs["attention_mask"].bool()
        ours = torch.nn.functional.normalize(grid.tokens, dim=-1)
        assert_equal(
            [x[mask] for x, mask in zip(ours, grid.mask, strict=True)],
            [x[mask] for x, mask in zip(rows, kept, strict=True)],
        )
