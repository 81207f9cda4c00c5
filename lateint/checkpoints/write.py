"""What the writers of text checkpoints share: which models can be told at all, the transformers
part, Dense modules, small JSON files. Each layout's own facts stand beside its reader.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lateint.config import ConfigError, write_json
from lateint.heads import MultiVectorConfig
from lateint.model import LateInteractionModel
from modalities.dense import ACTIVATIONS, DenseConfig
from modalities.text import TransformerText
from modalities.text_config import ROLES

SBERT_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
SBERT_DENSE = "sentence_transformers.base.modules.dense.Dense"
SBERT_NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
SBERT_MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
SBERT_POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"

PROBES = (
    "",
    "who wrote this",
    "The loss, after warm-up: 3.5!",
    "Größe naïve 東京の雨 дождь",
    "x " * 300,
    "'quoted' and #tagged",
)


def text_encoder_of(
    model: LateInteractionModel, layout: str, head: str = "multi"
) -> TransformerText:
    """The text encoder of a model that a text layout can hold. Raises ConfigError naming what it
    cannot: further encoders, another kind of encoder, a head with parts or a width of its own."""
    encoders = {id(model.encoder(m)): model.encoder(m) for m in model.encoders}
    encoder = next(iter(encoders.values()))
    if len(encoders) > 1 or not isinstance(encoder, TransformerText):
        raise ConfigError(
            f"layout {layout!r} holds one transformers text encoder, this model has "
            f"{ {m: model.encoder(m).name for m in model.encoders} }"
        )
    if head not in model.heads:
        raise ConfigError(
            f"layout {layout!r} wants a head {head!r}, this model has {list(model.heads)}"
        )
    config = model.head(head).config
    if head == "multi" and config != MultiVectorConfig():
        raise ConfigError(f"layout {layout!r} keeps unit rows of the whole width, not {config}")
    return encoder


def refuse(layout: str, reasons: Mapping[str, bool]) -> None:
    """Raises ConfigError naming every reason that holds."""
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ConfigError(f"layout {layout!r} cannot express: {'; '.join(found)}")


def lead(encoder: TransformerText, role: str) -> str:
    """Marker and prompt of a role as one text."""
    s = encoder.settings
    marker = s.query_marker if role == "query" else s.document_marker
    return (marker or "") + s.prompt(role)


def tokenizer_with_markers(encoder: TransformerText) -> Any:
    """A copy of the tokenizer that takes markers in a text as one id each, pads on the side of the
    expansion, and has a token to pad with."""
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(encoder.tokenizer)
    markers = {encoder.settings.query_marker, encoder.settings.document_marker} - {None}
    if markers:
        special = [AddedToken(m, normalized=False, special=True) for m in sorted(map(str, markers))]
        tokenizer.add_tokens(special, special_tokens=True)
    return padded(tokenizer, encoder)


def padded(tokenizer: Any, encoder: TransformerText) -> Any:
    """Sets the padding of a copy of an encoder's tokenizer: token (if it has none), side, length."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(encoder._pad)
    tokenizer.padding_side = "left" if encoder.settings.expand_left else "right"
    return tokenizer


def check_prompts(
    encoder: TransformerText, tokenizer: Any, prompts: Mapping[str, str], layout: str
) -> None:
    """Raises ConfigError unless a role's prompt before a text gives the ids that the encoder gives,
    tried on texts of several scripts and lengths."""
    for role in ROLES:
        length = encoder.settings.length(role)
        for text in PROBES:
            whole = prompts[role] + text
            told = tokenizer(whole, truncation=True, max_length=length)["input_ids"]
            rows = encoder._rows([text], role)  # type: ignore[arg-type]
            own = rows[0][0]
            if encoder.settings.expand_left:
                own = own[len(own) - len(told) :]
            if list(told) != own[: len(told)] or any(
                i != encoder._expansion for i in own[len(told) :]
            ):
                raise ConfigError(
                    f"layout {layout!r} cannot express: {role} marker and prompt "
                    f"{prompts[role]!r} as text: its tokenizer reads other tokens than the encoder"
                )


def write_transformer(
    encoder: TransformerText, tokenizer: Any, folder: Path, config: Mapping[str, Any]
) -> None:
    """Backbone, tokenizer and sentence_bert_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.backbone.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    write_json(folder / "sentence_bert_config.json", config)


def layers_of(encoder: TransformerText) -> tuple[DenseConfig, ...]:
    """The dense layers, the plain projection told as one."""
    width = encoder.backbone.config.hidden_size
    if encoder.settings.dense is None:
        return (DenseConfig(width, encoder.dim),)
    return encoder.settings.dense


def write_dense(
    encoder: TransformerText,
    folder: Path,
    kind: str,
    input_name: str | None,
    *,
    first: int = 1,
    some: bool = False,
) -> list[str]:
    """Writes each dense layer into a folder of its own ("1_Dense" ...); the folders' names.

    kind: class, for what keys its configuration has. input_name: `module_input_name`; None: that
    key is not written. some: where there is no layer, one that changes nothing is written.
    """
    from safetensors.torch import save_file

    layers = layers_of(encoder)
    weights = {k: v.detach().cpu().contiguous() for k, v in encoder.projection.state_dict().items()}
    if encoder.settings.dense is None:
        weights = {f"0.linear.{name}": tensor for name, tensor in weights.items()}
    if not layers and some:
        layers = (DenseConfig(encoder.dim, encoder.dim),)
        weights = {"0.linear.weight": torch.eye(encoder.dim, dtype=encoder.dtype)}
    names = []
    for i, layer in enumerate(layers):
        name = f"{first + i}_Dense"
        own = folder / name
        own.mkdir(parents=True)
        activation = ACTIVATIONS[layer.activation]
        config: dict[str, Any] = {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias,
            "activation_function": f"{activation.__module__}.{activation.__name__}",
        }
        if layer.residual or kind != SBERT_DENSE:
            config["use_residual"] = layer.residual
        if input_name is not None:
            config |= {"module_input_name": input_name, "module_output_name": input_name}
        write_json(own / "config.json", config)
        mine = {k.split(".", 1)[1]: v for k, v in weights.items() if k.startswith(f"{i}.")}
        save_file(mine, str(own / "model.safetensors"))
        names.append(name)
    return names


def write_module(
    folder: Path, number: int, kind: str, config: Mapping[str, Any]
) -> tuple[str, str]:
    """Writes the configuration of a module without weights; its row for `write_modules`."""
    name = f"{number}_{kind.rsplit('.', 1)[-1]}"
    (folder / name).mkdir(parents=True)
    write_json(folder / name / "config.json", config)
    return kind, name


def write_modules(folder: Path, modules: list[tuple[str, str]]) -> None:
    """modules.json of (class, folder) in order."""
    rows = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (kind, path) in enumerate(modules)
    ]
    write_json(folder / "modules.json", rows)


def write_facts(
    folder: Path, kind: str, similarity: str, prompts: Mapping[str, str], **more: Any
) -> None:
    """config_sentence_transformers.json."""
    from importlib.metadata import version

    versions = {name: version(name) for name in ("lateint", "transformers")}
    facts = {
        "__version__": {**versions, "pytorch": torch.__version__},
        "model_type": kind,
        "prompts": dict(prompts),
        "default_prompt_name": None,
        "similarity_fn_name": similarity,
        **more,
    }
    write_json(folder / "config_sentence_transformers.json", facts)
