"""PyLate's checkpoints (`ColBERT.save_pretrained`): read and written.

A Transformer and one or more Dense modules; everything else stands in
`config_sentence_transformers.json`. The marker goes in as one id at the second place; queries are
padded with mask tokens (or end-of-text ones where there is no mask).
"""

from __future__ import annotations

import copy
import string
from pathlib import Path
from typing import Any

from lateint.checkpoints import write
from lateint.checkpoints.backbone import lowercase, read_backbone, read_tokenizer, text_encoder
from lateint.checkpoints.layouts import LoadOptions
from lateint.checkpoints.modules import (
    dense_weights,
    object_of,
    prompts_of,
    read_dense,
    read_modules,
)
from lateint.config import ConfigError
from lateint.model import LateInteractionModel
from modalities.text import _expansion_id

DENSE = "pylate.models.Dense.Dense"
IGNORED = frozenset({"Pooling", "Normalize"})
"""Modules that PyLate drops: tokens are not pooled, and are normalised by themselves."""
SETTINGS: dict[str, tuple[str, Any, type]] = {
    "query_length": ("query_length", 32, int),
    "document_length": ("document_length", 180, int),
    "query_prefix": ("query_marker", "[Q] ", str),
    "document_prefix": ("document_marker", "[D] ", str),
    "do_query_expansion": ("query_expansion", True, bool),
    "attend_to_expansion_tokens": ("attend_to_expansion", False, bool),
    "skiplist_words": ("skiplist", list(string.punctuation), list),
}
"""key of config_sentence_transformers.json -> (field of TextConfig, PyLate's default, type)"""


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """A text model with a multi-vector head. Equal to `ColBERT(folder).encode`, except that a text
    of nothing but skipped tokens keeps them, where PyLate gives no token at all."""
    transformer, *rest = read_modules(folder, options.drop)
    dense = [module for module in rest if module.kind == "Dense"]
    wrong = [m.kind for m in rest if m.kind != "Dense" and m.kind not in IGNORED]
    if wrong or not dense:
        raise ConfigError(
            f"{folder}: PyLate's models are a Transformer and Dense modules, "
            f"got {[m.kind for m in rest]}"
        )
    where = folder / "config_sentence_transformers.json"
    config = object_of(where)
    layers = read_dense(dense)
    backbone = read_backbone(transformer.folder, options)
    tokenizer = read_tokenizer(transformer.folder, options)
    if transformer.config.get("do_lower_case"):
        lowercase(tokenizer)
    values: dict[str, Any] = {
        "dim": layers[-1].out_features,
        "dense": layers,
        "dtype": options.dtype,
        "strip": True,
        "marker_place": 1,
        "expand_left": tokenizer.padding_side == "left",
    }
    for key, (field, default, kind) in SETTINGS.items():
        value = config.get(key)
        value = default if value is None else value
        if type(value) is not kind:
            raise ConfigError(f"{where}: {key} must be {kind.__name__}, not {value!r:.60}")
        values[field] = value
    for field in ("query_marker", "document_marker"):
        values[field] = values[field] or None
    values["skiplist"] = _skipped(values["skiplist"], tokenizer, where)
    values["query_prompt"], values["document_prompt"] = prompts_of(config, where)
    encoder = text_encoder(folder, backbone, tokenizer, values, dense_weights(dense))
    return LateInteractionModel({"text": encoder}, ("multi",)).eval()


def _skipped(words: list[Any], tokenizer: Any, where: Path) -> tuple[str, ...]:
    """PyLate looks words up one by one: one that is no entry stands for the unknown token, which
    is then skipped as well."""
    if not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{where}: skiplist_words must be strings")
    vocabulary = tokenizer.get_vocab()
    unknown = tokenizer.unk_token
    absent = [word for word in words if word not in vocabulary]
    return (*words, unknown) if absent and unknown and unknown not in words else tuple(words)


def save(model: LateInteractionModel, folder: Path) -> None:
    """Writes what `pylate.models.ColBERT(folder)` opens.

    Prompts are written under the names "query" and "document"; PyLate takes them where `encode` is
    called with that prompt_name (equal prompts become its default one).

    Raises ConfigError, before anything is written: see `write.text_encoder_of`, and what PyLate
    has no setting for.
    """
    encoder = write.text_encoder_of(model, "pylate")
    s = encoder.settings
    marked = s.query_marker is not None or s.document_marker is not None
    place = encoder._leading if s.marker_place is None else s.marker_place
    write.refuse(
        "pylate",
        {
            "a marker at the start, before the first token": marked and place != 1,
            f"expansion to {s.expansion_length} of {s.query_length} tokens": s.query_expansion
            and s.expansion_length not in (None, s.query_length),
            f"expansion with {s.expansion_token!r}": s.query_expansion
            and encoder._expansion != _expansion_id(encoder.tokenizer, None),
            "a skiplist for queries": "query" in s.skiplist_roles and len(encoder._skipped) > 0,
            "keep_only": s.keep_only is not None,
        },
    )
    tokenizer = write.padded(copy.deepcopy(encoder.tokenizer), encoder)
    write.write_transformer(
        encoder, tokenizer, folder, {"max_seq_length": s.document_length, "do_lower_case": False}
    )
    names = write.write_dense(encoder, folder, DENSE, None, some=True)
    transformer = "sentence_transformers.models.Transformer"
    write.write_modules(folder, [(transformer, ""), *((DENSE, name) for name in names)])
    vocabulary = tokenizer.get_vocab()
    skipped = [word for word in s.skiplist if word in vocabulary]
    own = {"skiplist": skipped if "document" in s.skiplist_roles else []}
    facts = {key: own.get(field, getattr(s, field)) for key, (field, *_) in SETTINGS.items()}
    facts = {key: "" if value is None else value for key, value in facts.items()}
    prompts = {"query": s.query_prompt, "document": s.document_prompt}
    if s.query_prompt and s.query_prompt == s.document_prompt:
        facts["default_prompt_name"] = "query"
    write.write_facts(folder, "ColBERT", "MaxSim", prompts, **facts)
