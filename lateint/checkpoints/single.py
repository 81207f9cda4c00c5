"""Single-vector sentence-transformers models: Transformer, Pooling, perhaps Dense and Normalize."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lateint.checkpoints import write
from lateint.checkpoints.backbone import text_encoder
from lateint.checkpoints.layouts import LoadOptions
from lateint.checkpoints.modules import (
    dense_weights,
    object_of,
    prompts_of,
    read_dense,
    read_modules,
)
from lateint.checkpoints.sbert import PLAIN, read_transformer
from lateint.config import ConfigError
from lateint.model import LateInteractionModel
from modalities.pooled import POOLING

FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""how releases before 6 wrote the way of pooling"""


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """A text model with a single-vector head: the unit vector of `SentenceTransformer.encode`. For
    a multi-vector model over the same backbone: `LateInteractionModel.from_backbones(text=folder)`.

    Raises ConfigError: several ways of pooling at once, another module, vectors that are compared
    by length too (similarity "dot" without Normalize).
    """
    transformer, pooling, *rest = read_modules(folder, options.drop)
    kinds = [module.kind for module in (pooling, *rest)]
    dense = [module for module in rest if module.kind == "Dense"]
    if kinds[: len(dense) + 1] != ["Pooling", *["Dense"] * len(dense)] or kinds[
        len(dense) + 1 :
    ] not in ([], ["Normalize"]):
        raise ConfigError(f"{folder}: wanted Pooling, then Dense, then Normalize; got {kinds}")
    where = folder / "config_sentence_transformers.json"
    config = object_of(where)
    if "Normalize" not in kinds and config.get("similarity_fn_name") not in (None, "cosine"):
        raise ConfigError(
            f"{folder}: similarity {config['similarity_fn_name']!r} of vectors that are not "
            "normalised: vectors have length one here"
        )
    layers = read_dense(dense, "sentence_embedding")
    backbone, tokenizer = read_transformer(transformer, options)
    query, document = prompts_of(config, where)
    values: dict[str, Any] = {
        "dim": layers[-1].out_features if layers else backbone.config.hidden_size,
        "dense": layers,
        "dtype": options.dtype,
        "query_marker": None,
        "document_marker": None,
        "query_expansion": False,
        "skiplist": (),
        "query_length": transformer.config.get("query_length"),
        "document_length": transformer.config.get("document_length"),
        "query_prompt": query,
        "document_prompt": document,
        "pooling": _way(pooling.config, folder),
        "pool_prompt": pooling.config.get("include_prompt", True) is not False,
    }
    encoder = text_encoder(folder, backbone, tokenizer, values, dense_weights(dense))
    return LateInteractionModel({"text": encoder}, ("single",)).eval()


def save(model: LateInteractionModel, folder: Path) -> None:
    """Writes what `SentenceTransformer(folder)` opens; called by `sbert.save`."""
    layout = "sentence-transformers"
    encoder = write.text_encoder_of(model, layout, "single")
    s = encoder.settings
    write.refuse(
        layout,
        {
            "a single vector of unpooled tokens (TextConfig.pooling is None)": s.pooling is None,
            "pooled_dense=False": not s.pooled_dense and s.dense != (),
            "a part of the width": model.head("single").config.dim is not None,
            "query expansion of a single vector": s.query_expansion,
        },
    )
    tokenizer = write.tokenizer_with_markers(encoder)
    prompts = {role: write.lead(encoder, role) for role in ("query", "document")}
    write.check_prompts(encoder, tokenizer, prompts, layout)
    config = {
        "transformer_task": "feature-extraction",
        "modality_config": PLAIN,
        "module_output_name": "token_embeddings",
        "query_length": s.query_length,
        "document_length": s.document_length,
    }
    write.write_transformer(encoder, tokenizer, folder, config)
    width = encoder.backbone.config.hidden_size
    pooling = {
        "embedding_dimension": width,
        "pooling_mode": s.pooling,
        "include_prompt": s.pool_prompt,
    }
    modules = [
        (write.SBERT_TRANSFORMER, ""),
        write.write_module(folder, 1, write.SBERT_POOLING, pooling),
    ]
    names = write.write_dense(encoder, folder, write.SBERT_DENSE, "sentence_embedding", first=2)
    modules += [(write.SBERT_DENSE, name) for name in names]
    keys = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    modules.append(write.write_module(folder, len(modules), write.SBERT_NORMALIZE, keys))
    write.write_modules(folder, modules)
    write.write_facts(folder, "SentenceTransformer", "cosine", prompts)


def _way(config: Mapping[str, Any], folder: Path) -> str:
    mode = config.get("pooling_mode")
    if mode is None:
        flagged = [way for flag, way in FLAGS.items() if config.get(flag) is True]
        mode = flagged or "mean"
    if isinstance(mode, list):
        mode = mode[0] if len(mode) == 1 else tuple(mode)
    if mode not in POOLING:
        raise ConfigError(f"{folder}: pooling {mode!r} is not one of {POOLING}")
    return str(mode)
