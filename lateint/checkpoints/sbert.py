"""sentence-transformers 6: `MultiVectorEncoder` checkpoints, read and written.

A Transformer (lengths and query expansion in `sentence_bert_config.json`), Dense modules on
`token_embeddings`, MultiVectorMask (skiplist), Normalize. Markers are prompts there: text that the
tokenizer turns into one id.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lateint.checkpoints import write
from lateint.checkpoints.backbone import (
    longest,
    lowercase,
    read_backbone,
    read_tokenizer,
    text_encoder,
)
from lateint.checkpoints.layouts import LoadOptions
from lateint.checkpoints.modules import (
    Module,
    dense_weights,
    object_of,
    prompts_of,
    read_dense,
    read_modules,
)
from lateint.config import ConfigError, check_keys
from lateint.model import LateInteractionModel

EXPANSION_KEYS = ("strategy", "attend", "token", "length")
PLAIN = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """A text model with a multi-vector head. Equal to `encode_query` and `encode_document`, except
    that a text of nothing but skipped tokens keeps them, where that library gives no token.

    Raises ConfigError where a module or a setting has no counterpart here: another module than
    those named above, tokens that are not normalised, chat templates, token pooling (pool in the
    index: `lateint.Index.create(..., pool_factor=2)`).
    """
    transformer, *rest = read_modules(folder, options.drop)
    dense, skip = _sorted(folder, rest)
    where = folder / "config_sentence_transformers.json"
    layers = read_dense(dense, "token_embeddings")
    backbone, tokenizer = read_transformer(transformer, options)
    values: dict[str, Any] = {
        "dim": layers[-1].out_features if layers else backbone.config.hidden_size,
        "dense": layers,
        "dtype": options.dtype,
        "query_marker": None,
        "document_marker": None,
        **_lengths(transformer, longest(backbone, tokenizer), tokenizer),
        **_skipping(skip, tokenizer),
    }
    if values["query_expansion"] and skip is None:
        raise ConfigError(f"{folder}: query expansion without MultiVectorMask scores no expansion")
    values["query_prompt"], values["document_prompt"] = prompts_of(object_of(where), where)
    encoder = text_encoder(folder, backbone, tokenizer, values, dense_weights(dense))
    return LateInteractionModel({"text": encoder}, ("multi",)).eval()


def read_transformer(module: Module, options: LoadOptions) -> tuple[Any, Any]:
    """Backbone and tokenizer of a Transformer module that reads plain text."""
    config = module.config
    task = config.get("transformer_task", "feature-extraction")
    text = (config.get("modality_config") or PLAIN).get("text", {})
    if task != "feature-extraction" or text != PLAIN["text"] or config.get("processing_kwargs"):
        raise ConfigError(
            f"{module.folder}: wanted a Transformer of task feature-extraction over plain text, "
            f"got {task!r} with {text} and processing_kwargs {config.get('processing_kwargs')}"
        )
    if "message" in (config.get("modality_config") or {}):
        raise ConfigError(f"{module.folder}: texts through a chat template are not supported")
    backbone, tokenizer = (
        read_backbone(module.folder, options),
        read_tokenizer(module.folder, options),
    )
    if config.get("do_lower_case"):
        lowercase(tokenizer)
    length = config.get("max_seq_length")
    if length is not None:
        if type(length) is not int or length < 1:
            raise ConfigError(f"{module.folder}: max_seq_length must be a number, not {length!r}")
        tokenizer.model_max_length = length
    return backbone, tokenizer


def save(model: LateInteractionModel, folder: Path) -> None:
    """Writes a model with a multi-vector head as a MultiVectorEncoder, one that has a single-vector
    head alone as a SentenceTransformer.

    Raises ConfigError, before anything is written: see `write.text_encoder_of`; a marker or prompt
    that, as text, the tokenizer would not turn into the same ids. White space at a text's ends,
    which `strip` takes away, stays there in that library.
    """
    if "multi" not in model.heads:
        from lateint.checkpoints import single

        return single.save(model, folder)
    encoder = write.text_encoder_of(model, "sentence-transformers")
    s = encoder.settings
    tokenizer = write.tokenizer_with_markers(encoder)
    prompts = {role: write.lead(encoder, role) for role in ("query", "document")}
    write.check_prompts(encoder, tokenizer, prompts, "sentence-transformers")
    config: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "modality_config": PLAIN,
        "module_output_name": "token_embeddings",
        "document_length": s.document_length,
    }
    fixed = s.expansion_length in (None, s.query_length)
    if s.query_expansion:
        config["query_expansion"] = {
            "strategy": "fixed" if fixed else "min",
            "attend": s.attend_to_expansion,
            "token": encoder.tokenizer.convert_ids_to_tokens(encoder._expansion),
            "length": s.expansion_length or s.query_length,
        }
    if not (s.query_expansion and fixed):
        config["query_length"] = s.query_length
    write.write_transformer(encoder, tokenizer, folder, config)
    names = write.write_dense(encoder, folder, write.SBERT_DENSE, "token_embeddings")
    base = len(names) + 1
    vocabulary = tokenizer.get_vocab()
    mask: dict[str, Any] = {
        "skiplist_words": [word for word in s.skiplist if word in vocabulary],
        "skiplist_tasks": list(s.skiplist_roles),
        "keep_only_token_ids": None if encoder._only is None else encoder._only.tolist(),
    }
    modules = [
        (write.SBERT_TRANSFORMER, ""),
        *((write.SBERT_DENSE, name) for name in names),
        write.write_module(folder, base, write.SBERT_MASK, mask),
        write.write_module(
            folder,
            base + 1,
            write.SBERT_NORMALIZE,
            {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"},
        ),
    ]
    write.write_modules(folder, modules)
    write.write_facts(folder, "MultiVectorEncoder", "maxsim", prompts)


def _sorted(folder: Path, rest: list[Module]) -> tuple[list[Module], Module | None]:
    """Dense modules, and the mask if there is one; ConfigError where the row cannot be told."""
    kinds = [module.kind for module in rest]
    dense = [module for module in rest if module.kind == "Dense"]
    masks = [module for module in rest if module.kind == "MultiVectorMask"]
    norms = [module for module in rest if module.kind == "Normalize"]
    for module in rest:
        if module.kind == "HierarchicalTokenPooling":
            if module.config.get("pool_factor", 1) != 1:
                raise ConfigError(
                    f"{module.folder}: tokens are pooled in the index here, not in the model: "
                    'load(..., drop=("HierarchicalTokenPooling",)), and pass pool_factor='
                    f"{module.config.get('pool_factor')} to Index.create"
                )
        elif module.kind not in ("Dense", "MultiVectorMask", "Normalize"):
            raise ConfigError(f"{folder}: module {module.kind!r} has no counterpart; got {kinds}")
    if len(masks) > 1 or kinds[: len(dense)] != ["Dense"] * len(dense):
        raise ConfigError(f"{folder}: wanted Dense modules, then one MultiVectorMask; got {kinds}")
    reads = {module.config.get("module_input_name", "sentence_embedding") for module in norms}
    if reads != {"token_embeddings"}:
        raise ConfigError(f"{folder}: tokens must be normalised: no Normalize on token_embeddings")
    return dense, masks[0] if masks else None


def _lengths(transformer: Module, most: int, tokenizer: Any) -> dict[str, Any]:
    """Lengths and query expansion as fields of TextConfig."""
    config, where = transformer.config, transformer.folder
    lengths = {key: config.get(key) for key in ("query_length", "document_length")}
    if wrong := {k: v for k, v in lengths.items() if v is not None and type(v) is not int}:
        raise ConfigError(f"{where}: lengths must be numbers, not {wrong}")
    values = {key: most if value is None else value for key, value in lengths.items()}
    expansion = config.get("query_expansion")
    if expansion is None:
        return {**values, "query_expansion": False}
    if not isinstance(expansion, Mapping):
        raise ConfigError(f"{where}: query_expansion must be an object, not {expansion!r:.60}")
    check_keys(expansion, EXPANSION_KEYS, f"{where}: query_expansion")
    strategy, length = expansion.get("strategy"), expansion.get("length")
    if strategy not in ("fixed", "min") or type(length) is not int:
        raise ConfigError(
            f"{where}: query_expansion needs strategy fixed or min and length, got {expansion}"
        )
    fixed = strategy == "fixed"
    return {
        **values,
        "query_length": length if fixed else max(values["query_length"], length),
        "expansion_length": None if fixed else length,
        "query_expansion": True,
        "attend_to_expansion": bool(expansion.get("attend", False)),
        "expansion_token": expansion.get("token"),
        "expand_left": fixed and tokenizer.padding_side == "left",
    }


def _skipping(module: Module | None, tokenizer: Any) -> dict[str, Any]:
    """A MultiVectorMask as fields of TextConfig."""
    if module is None:
        return {"skiplist": ()}
    known = ("skiplist_words", "skiplist_tasks", "keep_only_token_ids")
    check_keys(module.config, known, str(module.folder))
    words, tasks, only = (module.config.get(key) for key in known)
    lists = [x for x in (words, tasks, only) if x is not None]
    if not all(isinstance(x, list) for x in lists):
        raise ConfigError(f"{module.folder}: MultiVectorMask wants lists, got {module.config}")
    entries = None
    if only:
        rows = len(tokenizer)
        if not all(type(i) is int and 0 <= i < rows for i in only):
            raise ConfigError(f"{module.folder}: keep_only_token_ids must be ids below {rows}")
        entries = tuple(tokenizer.convert_ids_to_tokens(only))
    roles = ["document"] if tasks is None else tasks
    return {
        "skiplist": tuple(map(str, words or ())),
        "skiplist_roles": tuple(role for role in ("query", "document") if role in roles),
        "keep_only": entries,
    }
