"""A model's text encoder as ONNX, for CPUs and for other runtimes, in 32-bit floats or 8-bit integers.

    fast = lateint.onnx.export(model, "my-model-int8", int8=True)
    lateint.load("my-model-int8").encode_documents(texts)

What is written is a saved model like any other (`LateInteractionModel.load`, a collection, the command
line read it); text/model.onnx and text/tokenizer/ in it are what a runtime in another language needs
(see `modalities.onnx` for the graph). Knows models and their folders; the graph is `modalities.onnx`'s.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lateint.model import LateInteractionModel


def export(
    model: LateInteractionModel, folder: Path | str, *, int8: bool = False
) -> LateInteractionModel:
    """Writes `model` to `folder` with its text encoder as ONNX, and returns it as loaded from there.

    Its other encoders and its heads are saved as they are.

    int8: weights of matrix products in 8 bits, and their inputs on the way: a quarter of the size and
        faster on a CPU; tokens change a little (see `modalities.onnx.quantise`): measure the quality.

    Raises ImportError with what to install, ValueError for a model without a transformers text
    encoder, FileExistsError where the folder holds something else.
    """
    from modalities.onnx import export as export_text
    from modalities.onnx import quantise
    from modalities.text import TransformerText

    text = model.encoder("text")
    if not isinstance(text, TransformerText):
        raise ValueError(
            f"the text encoder is {text.name!r}; only {TransformerText.name!r} can be written as ONNX"
        )
    with tempfile.TemporaryDirectory() as name:
        made = export_text(text, Path(name) / "float.onnx")
        if int8:
            made = quantise(made, Path(name) / "int8.onnx")
        encoders = {
            m: made if model.encoder(m) is text else model.encoder(m) for m in model.encoders
        }
        heads = {kind: model.head(kind) for kind in model.heads}
        LateInteractionModel(encoders, heads).save(folder)
    return LateInteractionModel.load(folder)
