"""A task small enough to be learned in a test: birds by other names, tiny random backbones."""

from __future__ import annotations

import random
from typing import Any

import torch
from PIL import Image
from tiny_text import bert

from lateint.model import LateInteractionModel
from modalities.text import TextConfig, TransformerText

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def text_encoder(dim: int = 16, **options: Any) -> TransformerText:
    """A random BERT of two layers with a wordpiece tokenizer that knows letters."""
    backbone, tokenizer = bert()
    torch.manual_seed(1)
    values: dict[str, Any] = {"dim": dim, "query_length": 12, "document_length": 24, **options}
    return TransformerText(backbone, tokenizer, TextConfig(**values)).eval()


def model(heads: tuple[str, ...] = ("multi", "single"), **options: Any) -> LateInteractionModel:
    return LateInteractionModel({"text": text_encoder(**options)}, heads)


def words(seed: int, count: int = 6) -> list[str]:
    """Words of letters that the tokenizer knows one by one."""
    draw = random.Random(seed)
    return ["".join(draw.choices(LETTERS, k=3)) for _ in range(count)]


def pairs(count: int = 64, negatives: int = 0) -> list[dict[str, Any]]:
    """Query: two letters; its document: those letters' successors in the alphabet."""
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        asked = draw.sample(LETTERS, 3)
        answer = [LETTERS[(LETTERS.index(c) + 1) % 26] for c in asked]
        row: dict[str, Any] = {"query": " ".join(asked), "positive": " ".join(answer)}
        for place in range(negatives):
            row[f"negative_{place}"] = " ".join(draw.sample(LETTERS, 3))
        rows.append(row)
    return rows


def accuracy(rows: list[dict[str, Any]], head: str = "multi") -> Any:
    """An evaluator: how often a query's own document is the nearest of all."""
    from lateint.maxsim import maxsim

    def measure(model: LateInteractionModel) -> dict[str, float]:
        queries = model.encode_queries([row["query"] for row in rows], head=head)
        documents = model.encode_documents([row["positive"] for row in rows], head=head)
        nearest = maxsim(queries, documents).argmax(1)
        return {"accuracy": float((nearest == torch.arange(len(rows))).float().mean())}

    return measure


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (32, 32), colour)
