"""BGE-M3 (Chen et al. 2024, arXiv:2402.03216): an XLM-RoBERTa with a projection for tokens in
`colbert_linear.pt`; its dense vector is the first token as the backbone gives it.

Its third output, lexical weights (`sparse_linear.pt`), has no head here: the file is named in a
log message and not read.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lateint.checkpoints.backbone import longest, read_backbone, read_tokenizer, text_encoder
from lateint.checkpoints.layouts import LoadOptions
from lateint.checkpoints.weights import read_weights
from lateint.config import ConfigError
from lateint.model import LateInteractionModel
from modalities.dense import DenseConfig

QUERY_LENGTH = 512  # FlagEmbedding's default; documents are read as far as the backbone reads

log = logging.getLogger(__name__)


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """A text model with both heads: "multi", all tokens but the first through the projection, and
    "single", the first token as it is (only where it is as wide as the tokens are)."""
    linear = read_weights(folder, "colbert_linear.safetensors", "colbert_linear.pt")
    weight = linear.get("weight")
    if weight is None or weight.ndim != 2 or linear.keys() - {"weight", "bias"}:
        raise ConfigError(
            f"{folder}/colbert_linear.pt: wanted weight (dim, width) and bias, got {sorted(linear)}"
        )
    if (folder / "sparse_linear.pt").is_file():
        log.warning("%s: sparse_linear.pt is not read: lexical weights have no head", folder)
    backbone = read_backbone(folder, options)
    tokenizer = read_tokenizer(folder, options)
    dim, width = weight.shape
    both = dim == backbone.config.hidden_size
    most = longest(backbone, tokenizer)
    values: dict[str, Any] = {
        "dim": dim,
        "dense": (DenseConfig(width, dim, bias="bias" in linear),),
        "dtype": options.dtype,
        "query_marker": None,
        "document_marker": None,
        "query_expansion": False,
        "skiplist": (tokenizer.cls_token,),  # the first token is the dense vector's alone
        "skiplist_roles": ("query", "document"),
        "query_length": min(QUERY_LENGTH, most),
        "document_length": most,
        "pooling": "cls" if both else None,
        "pooled_dense": False,
    }
    named = {f"0.linear.{name}": tensor for name, tensor in linear.items()}
    encoder = text_encoder(folder, backbone, tokenizer, values, named)
    heads = ("multi", "single") if both else ("multi",)
    return LateInteractionModel({"text": encoder}, heads).eval()
