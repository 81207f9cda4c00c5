"""Stanford's ColBERT checkpoints (`HF_ColBERT`), read and written: a transformers folder with the
projection as `linear.weight` among the backbone's weights, and settings in `artifact.metadata`.

The marker takes the second place, queries are always padded with mask tokens, and punctuation is
left out of documents by the first piece that the tokenizer makes of each sign (where a vocabulary
lacks a sign that is the unknown token, which is then left out as well).
"""

from __future__ import annotations

import copy
import string
from pathlib import Path
from typing import Any

from lateint.checkpoints import write
from lateint.checkpoints.backbone import read_backbone, read_tokenizer, text_encoder
from lateint.checkpoints.layouts import LoadOptions
from lateint.checkpoints.modules import object_of
from lateint.checkpoints.weights import read_weights
from lateint.config import ConfigError, write_json
from lateint.model import LateInteractionModel

LINEAR = "linear.weight"
METADATA = "artifact.metadata"


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """A text model with a multi-vector head. ConfigError: no `linear.weight`, a similarity other
    than the cosine, a marker that the vocabulary lacks."""
    where = folder / METADATA
    config = object_of(where)
    if config.get("similarity", "cosine") != "cosine":
        raise ConfigError(f"{where}: similarity {config['similarity']!r}: only cosine is known")
    weights = read_weights(folder)
    if LINEAR not in weights or weights[LINEAR].ndim != 2:
        raise ConfigError(f"{folder}: no {LINEAR} (dim, width): the projection is missing")
    linear = weights.pop(LINEAR)
    del weights
    backbone = read_backbone(folder, options, taken=(LINEAR,))
    tokenizer = read_tokenizer(folder, options)
    values: dict[str, Any] = {
        "dim": len(linear),
        "dtype": options.dtype,
        "query_marker": _of(config, "query_token_id", "[unused0]", str, where),
        "document_marker": _of(config, "doc_token_id", "[unused1]", str, where),
        "query_length": _of(config, "query_maxlen", 32, int, where),
        "document_length": _of(config, "doc_maxlen", 220, int, where),
        "attend_to_expansion": _of(config, "attend_to_mask_tokens", False, bool, where),
        "marker_place": 1,
        "skiplist": (),
    }
    if _of(config, "mask_punctuation", True, bool, where):
        values["skiplist"] = punctuation(tokenizer)
    encoder = text_encoder(folder, backbone, tokenizer, values, {"weight": linear})
    return LateInteractionModel({"text": encoder}, ("multi",)).eval()


def save(model: LateInteractionModel, folder: Path) -> None:
    """Writes what Stanford's `Checkpoint(folder)`, PyLate and sentence-transformers open.

    Raises ConfigError, before anything is written: see `write.text_encoder_of`, and everything
    that `artifact.metadata` has no key for, by name.
    """
    encoder = write.text_encoder_of(model, "stanford")
    s, tokenizer = encoder.settings, encoder.tokenizer
    place = encoder._leading if s.marker_place is None else s.marker_place
    skipped = set(encoder._skipped.tolist())
    vocabulary = tokenizer.get_vocab()
    signs = {vocabulary[word] for word in punctuation(tokenizer) if word in vocabulary}
    layers = write.layers_of(encoder)
    plain = len(layers) == 1 and not layers[0].bias and not layers[0].residual
    masks = tokenizer.mask_token_id
    write.refuse(
        "stanford",
        {
            "dense layers other than one matrix without bias": not plain
            or layers[0].activation != "Identity",
            "texts without markers": s.query_marker is None or s.document_marker is None,
            "a marker elsewhere than second": place != 1,
            "queries without expansion": not s.query_expansion,
            "expansion with another token than the mask": masks is None
            or encoder._expansion != masks,
            f"expansion to {s.expansion_length} of {s.query_length} tokens": s.expansion_length
            not in (None, s.query_length),
            "expansion before the query": s.expand_left,
            "prompts": bool(s.query_prompt or s.document_prompt),
            "a skiplist other than all punctuation": bool(skipped) and skipped != signs,
            "a skiplist for queries": bool(skipped) and s.skiplist_roles != ("document",),
            "keep_only": s.keep_only is not None,
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        f"{encoder.backbone.base_model_prefix}.{name}": tensor.detach().cpu().contiguous()
        for name, tensor in encoder.backbone.state_dict().items()
    }
    weights[LINEAR] = next(iter(encoder.projection.state_dict().values())).detach().cpu()
    form = copy.deepcopy(encoder.backbone.config)
    form.architectures = ["HF_ColBERT"]
    form.save_pretrained(str(folder))
    write.padded(copy.deepcopy(tokenizer), encoder).save_pretrained(str(folder))
    from safetensors.torch import save_file

    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    facts = {
        "query_token_id": s.query_marker,
        "doc_token_id": s.document_marker,
        "query_token": s.query_marker,
        "doc_token": s.document_marker,
        "query_maxlen": s.query_length,
        "doc_maxlen": s.document_length,
        "attend_to_mask_tokens": s.attend_to_expansion,
        "mask_punctuation": bool(skipped),
        "similarity": "cosine",
        "dim": encoder.dim,
    }
    write_json(folder / METADATA, facts)


def punctuation(tokenizer: Any) -> tuple[str, ...]:
    """Vocabulary entries that Stanford's `mask_punctuation` leaves out of documents: the first
    piece that the tokenizer makes of each sign."""
    signs = list(string.punctuation)
    pieces = tokenizer(signs, add_special_tokens=False)["input_ids"]
    first = sorted({ids[0] for ids in pieces if ids})
    return tuple(tokenizer.convert_ids_to_tokens(first))


def _of(config: dict[str, Any], key: str, default: Any, kind: type, where: Path) -> Any:
    value = config.get(key)
    if value is None:
        return default
    if type(value) is not kind:
        raise ConfigError(f"{where}: {key} must be {kind.__name__}, not {value!r:.60}")
    return value
