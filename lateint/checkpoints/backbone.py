"""The transformers part of a text checkpoint: backbone with its weights, tokenizer, and the
`TransformerText` made of them.

transformers reads and renames the weights; what it could not place, or would have made up, is an
error here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lateint.checkpoints.layouts import LoadOptions
from lateint.checkpoints.weights import check_weights
from lateint.config import ConfigError, read_json
from modalities.text import TransformerText
from modalities.text_config import MAX_LENGTH, TextConfig

if TYPE_CHECKING:
    from torch import Tensor

DROPPED = re.compile(r"^((bert|roberta|model)\.)?(pooler|cls|lm_head|head|decoder)\.|position_ids$")
"""Known and not needed: heads of pretraining, the pooler, tables that are no weights."""
MADE_UP = re.compile(r"^pooler\.")
"""What transformers may make up: the pooler of a BERT, which is thrown away."""
MAX_TOKENIZER_BYTES = 200_000_000
LIMITS = {
    "num_hidden_layers": 1000,
    "num_attention_heads": 4096,
    "hidden_size": 131_072,
    "intermediate_size": 2_097_152,
    "vocab_size": 20_000_000,
    "max_position_embeddings": 100_000_000,
}
WEIGHT_FILES = ("*.safetensors", "*.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def read_backbone(folder: Path, options: LoadOptions, taken: tuple[str, ...] = ()) -> Any:
    """The backbone in a folder, with its weights, on the CPU. taken: names of weights beside it
    that the caller reads itself.

    Raises ConfigError: config.json or weights that are missing, broken, of another shape, left
    over; code in the checkpoint that options.remote_code does not allow.
    """
    from transformers import AutoConfig, AutoModel

    from modalities.text import _auto_model

    read_json(folder / "config.json")  # within limits, before transformers opens it
    known: dict[str, Any] = {
        "local_files_only": True,
        "trust_remote_code": options.remote_code,
    }
    with reading(folder):
        form = AutoConfig.from_pretrained(str(folder), **known)
        foreign = getattr(form, "auto_map", None) and options.remote_code
        kind = AutoModel if foreign else _auto_model(form)
        dtype = getattr(torch, options.dtype)
        _check_size(kind, form, folder, foreign)
        model, info = kind.from_pretrained(
            str(folder), config=form, dtype=dtype, output_loading_info=True, **known
        )
    missing = [name for name in sorted(info["missing_keys"]) if not MADE_UP.search(name)]
    extra = [name for name in sorted(info["unexpected_keys"]) if not DROPPED.search(name)]
    extra = [name for name in extra if name not in taken]
    if missing or extra or info.get("mismatched_keys"):
        raise ConfigError(
            f"{folder}: the backbone lacks weights {missing[:6]} ({len(missing)}), and has no place "
            f"for {extra[:6]} ({len(extra)})"
        )
    return model


def read_tokenizer(folder: Path, options: LoadOptions) -> Any:
    """The tokenizer in a folder. ConfigError: none, a broken or too large file."""
    from transformers import AutoTokenizer

    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file() and path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_TOKENIZER_BYTES} bytes, no tokenizer")
    with reading(folder):
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=options.remote_code
        )


def _check_size(kind: Any, form: Any, folder: Path, foreign: Any) -> None:
    """Raises ConfigError where config.json describes more than the files can hold: a few digits
    in it must not take the machine's memory."""
    for name, most in LIMITS.items():
        value = getattr(form, name, None)
        if isinstance(value, int) and value > most:
            raise ConfigError(f"{folder / 'config.json'}: {name} is {value}, above {most}")
    if foreign:
        return
    with torch.device("meta"):  # shapes without memory
        frame = kind.from_config(form)
    described = sum(p.numel() for p in frame.parameters())
    held = sum(p.stat().st_size for mask in WEIGHT_FILES for p in folder.glob(mask))
    if described > held:
        raise ConfigError(
            f"{folder / 'config.json'} describes {described} weights, the files have {held} bytes"
        )


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """What transformers and tokenizers raise about a folder's files, as a ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # these libraries have no common class: pyo3 panics, KeyError, ...
        raise ConfigError(f"{folder}: cannot be read: {type(error).__name__}: {error}") from error


def text_encoder(
    folder: Path,
    backbone: Any,
    tokenizer: Any,
    values: Mapping[str, Any],
    projection: Mapping[str, Tensor],
) -> TransformerText:
    """A TransformerText with a checkpoint's projection.

    values: fields of TextConfig; lengths of None: as much as the backbone reads. projection:
    weights under the names of `modalities.dense.chain`. Raises ConfigError: a marker that the
    vocabulary lacks (it would get a random vector), more vocabulary than vectors, weights that do
    not fit.
    """
    values = dict(values)
    most = longest(backbone, tokenizer)
    for name in ("query_length", "document_length"):
        values[name] = int(values.get(name) or most)
    # what was saved with a tokenizer is often one library's last length, not the backbone's
    wanted = max(values["query_length"], values["document_length"])
    tokenizer.model_max_length = max(wanted, min(tokenizer.model_max_length, most))
    vocabulary = tokenizer.get_vocab()
    for name in ("query_marker", "document_marker"):
        marker = values.get(name)
        if marker is not None and marker not in vocabulary:
            raise ConfigError(
                f"{folder}: {name} {marker!r} is not in the vocabulary: its vector is missing"
            )
    rows = backbone.get_input_embeddings().num_embeddings
    if vocabulary and max(vocabulary.values()) >= rows:
        raise ConfigError(
            f"{folder}: the tokenizer has entries up to {max(vocabulary.values())}, the backbone "
            f"vectors for {rows}"
        )
    try:
        encoder = TransformerText(backbone, tokenizer, TextConfig(**values))
    except ValueError as error:
        raise ConfigError(f"{folder}: {error}") from error
    check_weights(encoder.projection.state_dict(), projection, f"{folder}: dense layers")
    encoder.projection.load_state_dict(dict(projection))
    return encoder.eval()


def longest(backbone: Any, tokenizer: Any) -> int:
    """Tokens that the backbone reads: what sentence-transformers takes where no length is given."""
    from modalities.text import _positions

    return min(_positions(backbone, tokenizer), MAX_LENGTH)


def lowercase(tokenizer: Any) -> None:
    """Makes a tokenizer lower its input's letters, special tokens aside (`do_lower_case`)."""
    from tokenizers.normalizers import Lowercase, Sequence

    inner = tokenizer.backend_tokenizer
    old = inner.normalizer
    if old is not None and '"lowercase":true' in repr(old).replace(" ", "").lower():
        return
    inner.normalizer = Lowercase() if old is None else Sequence([Lowercase(), old])
