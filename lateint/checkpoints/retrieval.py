"""transformers' own page models, `*ForRetrieval`, as `LateInteractionModel`s and back.

Which there are is a table: its class, and where backbone and projection stand in it. transformers
reads the weights, and so renames those of its older releases; what it could not place, or had to
make up, is an error here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lateint.checkpoints.backbone import reading
from lateint.checkpoints.layouts import LoadOptions
from lateint.checkpoints.weights import fill
from lateint.config import ConfigError, read_json
from lateint.heads import MultiVectorConfig, SingleVectorConfig
from lateint.model import LateInteractionModel
from modalities.vlm import VisionLanguage, VisionLanguageConfig
from modalities.vlm_families import FAMILIES
from modalities.vlm_inputs import load_processor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Place:
    """model: class of transformers; backbone, projection: paths of the two in it; wraps: whether
    its configuration holds the backbone's (`vlm_config`) or is the backbone's own."""

    model: str
    backbone: str
    projection: str
    wraps: bool = True


MODELS: dict[str, Place] = {
    "colpali": Place("ColPaliForRetrieval", "vlm", "embedding_proj_layer"),
    "colqwen2": Place("ColQwen2ForRetrieval", "vlm", "embedding_proj_layer"),
    "colmodernvbert": Place("ColModernVBertForRetrieval", "vlm", "embedding_proj_layer"),
    "neomme": Place("NeoMMEForRetrieval", "model", "multi_vector_head.proj", wraps=False),
}
"""model_type, which is the family's name too -> its places"""

# Of older releases: the language model's head, which no embedding needs.
DROPPED = re.compile(r"(^|\.)(lm_head|unembedding_projection)\.weight$")


def load(folder: Path, options: LoadOptions) -> LateInteractionModel:
    """Pages and texts through one encoder, under a multi-vector head; NeoMME's mean hidden state
    (its Matryoshka prefix of the tokens' width) under a single-vector head besides.

    Raises ConfigError: a file that is broken, weights that are missing, left over or of another
    shape than config.json says, a transformers without this model.
    """
    data = read_json(folder / "config.json")
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind not in MODELS:
        raise ConfigError(f"{folder}: model_type is {kind!r}, wanted one of {sorted(MODELS)}")
    place = MODELS[kind]
    with reading(folder):
        processor = load_processor(FAMILIES[kind], folder)
    dtype = getattr(torch, options.dtype)
    model = _read(_class(place.model), folder, dtype)
    projection = model.get_submodule(place.projection).state_dict()
    return page_model(kind, model.get_submodule(place.backbone), processor, projection, dtype)


def page_model(
    family: str, backbone: Any, processor: Any, projection: Mapping[str, Tensor], dtype: torch.dtype
) -> LateInteractionModel:
    """A model of one encoder that reads all that its family reads. The backbone is taken as it is;
    projection: weight (dim, H) and, where the family's has one, bias."""
    config = VisionLanguageConfig(
        family, dim=len(projection["weight"]), dtype=str(dtype).removeprefix("torch.")
    )
    encoder = VisionLanguage(backbone, processor, config)
    fill(encoder.projection, projection, "the projection")
    heads = ("multi", "single") if encoder.family.dense else ("multi",)
    return LateInteractionModel(dict.fromkeys(encoder.modalities, encoder), heads).eval()


def save(model: LateInteractionModel, folder: Path) -> None:
    """Writes config.json, model.safetensors and the processor's files as transformers does.

    Raises ConfigError, before anything is written: an encoder that is no page encoder, a family
    of which transformers has no such model (its prompts or positions would be others, and so its
    tokens), heads or a choice of tokens that it cannot express.
    """
    encoder = _expressible(model)
    family = encoder.family
    place = MODELS[family.retrieval]
    kind = _class(place.model)
    form = encoder.backbone.config
    if place.wraps:
        form = kind.config_class(vlm_config=form, embedding_dim=encoder.dim)
    else:
        form.embedding_dim = encoder.dim
    with torch.device("meta"):  # a frame without weights of its own
        frame = kind(form)
    frame.set_submodule(place.backbone, encoder.backbone)
    frame.set_submodule(place.projection, encoder.projection)
    frame.config.dtype = encoder.dtype
    frame.save_pretrained(str(folder))
    _processor(encoder, FAMILIES[family.retrieval].processor).save_pretrained(str(folder))


def _expressible(model: LateInteractionModel) -> VisionLanguage:
    """The one encoder of a model that transformers' page models can express."""
    encoders = {id(model.encoder(m)): model.encoder(m) for m in model.encoders}
    encoder = next(iter(encoders.values()))
    if len(encoders) > 1 or not isinstance(encoder, VisionLanguage):
        names = sorted({e.name for e in encoders.values()})
        raise ConfigError(
            f"layout 'transformers' holds one vision-language encoder, this model has {names}"
        )
    settings, able = encoder.settings, [n for n, f in FAMILIES.items() if f.retrieval]
    if not encoder.family.retrieval:
        raise ConfigError(
            f"transformers has no model with the prompts and positions of {settings.family!r}: "
            f"its tokens would be others. It has them for {able}"
        )
    if settings.tokens != "all" or not settings.projected:
        raise ConfigError("transformers' page models project all tokens, and keep them all")
    for kind in model.heads:
        config = model.head(kind).config
        plain = MultiVectorConfig() if kind == "multi" else SingleVectorConfig()
        if config != plain or (kind != "multi" and not encoder.family.dense):
            raise ConfigError(f"layout 'transformers' cannot express head {kind!r} with {config}")
    return encoder


def _processor(encoder: VisionLanguage, wanted: str) -> Any:
    """The encoder's processor, as the class that the written model goes with."""
    processor = encoder.processor
    if encoder.family.processor == wanted:
        return processor
    length = processor.image_seq_len
    return _class(wanted)(processor.image_processor, processor.tokenizer, image_seq_len=length)


def _class(name: str) -> Any:
    import transformers

    found = getattr(transformers, name, None)
    if found is None:
        raise ConfigError(f"transformers {transformers.__version__} has no {name}: upgrade it")
    return found


def _read(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A model with all its weights from the folder and none left over."""
    with reading(folder):
        model, report = kind.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            weights_only=True,
            output_loading_info=True,
        )
    missing = sorted(map(str, report["missing_keys"]))
    extra = sorted(key for key in map(str, report["unexpected_keys"]) if not DROPPED.search(key))
    wrong = sorted(str(row) for row in report.get("mismatched_keys") or ())
    if missing or extra or wrong:
        raise ConfigError(
            f"{folder}: weights missing: {missing[:6] or 'none'}; unexpected: "
            f"{extra[:6] or 'none'}; of another shape: {wrong[:6] or 'none'}"
        )
    return model
