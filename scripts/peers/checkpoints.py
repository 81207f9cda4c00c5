"""Text checkpoints made, opened and encoded by the libraries they belong to, for tests/parity: runs
in the environment of PyLate or of sentence-transformers (`scripts/peers/env.sh DATA pylate sbert`).

    python checkpoints.py JOB.json

JOB: {"steps": [...]}, each {"make": kind, "backbone", "out", ...} or {"encode": folder, "kind",
"texts", "out"}. A failed step is an entry in JOB.out.json ({"errors": {step: message}}).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

torch.set_num_threads(1)


def make(step: dict[str, Any]) -> None:
    torch.manual_seed(int(step.get("seed", 0)))
    if step["make"] == "pylate":
        model = _pylate(step)
    elif step["make"] == "multi":
        model = _multi(step)
    else:
        model = _single(step)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "linear." in name or "residual" in name:
                tensor.copy_(torch.randn(tensor.shape) * 0.7)
    model.save_pretrained(step["out"])


def _pylate(step: dict[str, Any]) -> Any:
    from pylate import models
    from sentence_transformers.models import Transformer

    layers = step.get("dense")
    if layers is None:
        return models.ColBERT(step["backbone"], embedding_size=8, device="cpu", **step["options"])
    chain = [models.Dense(**_activated(layer)) for layer in layers]
    modules = [Transformer(step["backbone"]), *chain]
    return models.ColBERT(modules=modules, device="cpu", **step["options"])


def _activated(layer: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in layer.items() if key != "activation"}
    return {**rest, "activation_function": getattr(torch.nn, layer["activation"])()}


def _multi(step: dict[str, Any]) -> Any:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    layers = step.get("dense") or [
        {"in_features": 16, "out_features": 8, "bias": False, "activation": "Identity"}
    ]
    modules = [
        Transformer(step["backbone"], **step["transformer"]),
        *(Dense(**_activated(layer), module_input_name="token_embeddings") for layer in layers),
        MultiVectorMask(**step.get("mask", {})),
        Normalize(module_input_name="token_embeddings"),
    ]
    return MultiVectorEncoder(modules=modules, device="cpu", prompts=step.get("prompts"))


def _single(step: dict[str, Any]) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [
        Transformer(step["backbone"], **step.get("transformer", {})),
        Pooling(16, **step["pooling"]),
        *(Dense(**_activated(layer)) for layer in step.get("dense", ())),
        Normalize(),
    ]
    return SentenceTransformer(modules=modules, device="cpu", prompts=step.get("prompts"))


def encode(step: dict[str, Any]) -> None:
    """Rows of all queries, then of all documents, end to end, with their counts."""
    queries, documents = step["texts"]["query"], step["texts"]["document"]
    batch = int(step.get("batch", 4))
    more = {"batch_size": batch, "show_progress_bar": False}
    if step["kind"] == "pylate":
        from pylate import models

        model = models.ColBERT(step["encode"], device="cpu")
        names = {"query": "query", "document": "document"} if step.get("prompted") else {}
        rows = [
            *model.encode(queries, is_query=True, prompt_name=names.get("query"), **more),
            *model.encode(documents, is_query=False, prompt_name=names.get("document"), **more),
        ]
    elif step["kind"] == "multi":
        from sentence_transformers import MultiVectorEncoder

        model = MultiVectorEncoder(step["encode"], device="cpu")
        rows = [*model.encode_query(queries, **more), *model.encode_document(documents, **more)]
    else:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(step["encode"], device="cpu")
        rows = [
            *np.asarray(model.encode_query(queries, **more))[:, None],
            *np.asarray(model.encode_document(documents, **more))[:, None],
        ]
    arrays = [np.asarray(row, np.float32) for row in rows]
    np.savez(step["out"], values=np.concatenate(arrays), counts=[len(a) for a in arrays])


def main() -> None:
    job = Path(sys.argv[1])
    errors: dict[str, str] = {}
    for step in json.loads(job.read_text(encoding="utf-8"))["steps"]:
        try:
            (make if "make" in step else encode)(step)
        except Exception as error:
            errors[str(step["out"])] = f"{type(error).__name__}: {error}"
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("pylate", "sentence-transformers", "transformers", "torch"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    answer = {"errors": errors, "versions": versions}
    job.with_suffix(".out.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
