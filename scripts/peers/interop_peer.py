"""What a library's model returns goes into an index, in the library's own process, as it is: the peer's
side of tests/parity/test_interop.py. `lateint.index` needs numpy and no torch, so any environment has it.

    DATA/envs/<env>/bin/python scripts/peers/interop_peer.py pylate|sbert|colpali FOLDER

FOLDER/backbone: a random text backbone with its tokenizer (not for colpali). Prints one JSON line:
{"scores": by the library, "found": by the index, both [query][document], "kinds": what was given}.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from lateint.index import Index

torch.set_num_threads(1)
TEXTS = ["the loss goes up after warm up", "who wrote this ?", "budget , 2024 a a a a a", "rate"]
QUERIES = ["loss goes up", "the budget of 2024"]


def pylate(folder: Path) -> list[dict[str, Any]]:
    from pylate import models

    model = models.ColBERT(
        str(folder / "backbone"),
        embedding_size=8,
        query_length=16,
        document_length=32,
        device="cpu",
    )
    made = []
    for options in ({}, {"convert_to_numpy": False}, {"padding": True}):
        documents = model.encode(TEXTS, is_query=False, show_progress_bar=False, **options)
        queries = model.encode(QUERIES, is_query=True, show_progress_bar=False)
        made.append({"documents": documents, "queries": queries})
    return made


def sbert(folder: Path) -> list[dict[str, Any]]:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    dense = Dense(16, 8, bias=False, module_input_name="token_embeddings")
    modules = [
        Transformer(str(folder / "backbone")),
        dense,
        MultiVectorMask(),
        Normalize(module_input_name="token_embeddings"),
    ]
    model = MultiVectorEncoder(modules=modules, device="cpu")
    made = []
    for options in ({}, {"convert_to_numpy": True}):
        documents = model.encode_document(TEXTS, **options)
        made.append({"documents": documents, "queries": model.encode_query(QUERIES, **options)})
    return made


def colpali(folder: Path) -> list[dict[str, Any]]:
    import colpali_engine.models as engine
    from PIL import Image

    from tests.tiny_vlm import ENGINE, backbone, engine_parts, shaken

    name = "ColQwen2"
    parts = engine_parts(ENGINE[name])
    model = shaken(getattr(engine, name)(backbone(ENGINE[name], parts["tokenizer"]))).eval()
    processor = getattr(engine, name + "Processor")(**parts)
    colours = ("red", "blue", "white")
    sizes = ((60, 90), (120, 50), (70, 140))  # pages of different numbers of tokens: padding
    pages = [Image.new("RGB", size, colour) for size, colour in zip(sizes, colours)]  # noqa: B905
    with torch.inference_mode():
        documents = model(**processor.process_images(pages))
        queries = model(**processor.process_queries(queries=QUERIES))
    unbound = list(torch.unbind(documents.to(torch.bfloat16)))  # as its README does
    return [
        {"documents": documents, "queries": queries},
        {"documents": unbound, "queries": queries},
    ]


def real(matrix: Any) -> np.ndarray[Any, Any]:
    """Rows that are not padding, float32."""
    rows = matrix.float().numpy() if hasattr(matrix, "numpy") else np.asarray(matrix, np.float32)
    rows = rows.reshape(-1, rows.shape[-1])  # PyLate's padded ones are (1, tokens, width)
    return rows[np.abs(rows).sum(1) > 0]


def maxsim(query: np.ndarray[Any, Any], document: np.ndarray[Any, Any]) -> float:
    return float((query @ document.T).max(1).sum())


def main() -> None:
    which, folder = sys.argv[1], Path(sys.argv[2])
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    scores, found, kinds = [], [], []
    for number, made in enumerate(globals()[which](folder)):
        documents, queries = made["documents"], made["queries"]
        ids = [str(i) for i in range(len(documents))]
        with Index.create(folder / f"{which}-{number}", documents[0].shape[-1]) as index:
            index.add(ids, documents)
            index.upsert(ids[:1], documents[:1])
            for query, hits in zip(queries, index.search(queries, k=len(ids)), strict=True):
                by_id = {hit.id: hit.score for hit in hits}
                found.append([by_id[i] for i in ids])
                scores.append([maxsim(real(query), real(document)) for document in documents])
        kinds.append(f"{type(documents).__name__} of {type(documents[0]).__name__}")
    told.write(json.dumps({"scores": scores, "found": found, "kinds": kinds}) + "\n")
    told.flush()


if __name__ == "__main__":
    main()
