"""Text encoders as ONNX: written, made int8, and run by onnxruntime in place of torch.

The graph is the whole of what a `TransformerText` computes, its projection included, so that other
runtimes (a browser, a phone, another language) need a tokenizer and nothing else:

    input_ids       (B, L) int64   markers and expansion tokens included; padding at the right
    attention_mask  (B, L) int64   1 = the backbone attends to it
    tokens          (B, L, D) float32, unit rows; what padding gives means nothing
    norms           (B, L) float32, each row's length before that: tokens * norms is what the encoder
                    gives, for heads whose query rows carry weights
    document_mask   (B, L) bool    the tokens of a document that stay: attended to, not of the skiplist;
                    of a query all stay, its expansion included
    pooled          (B, D) float32, the single vector, where the encoder's config names a pooling

Knows TransformerText and onnxruntime; nothing of heads, scores or retrieval.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modalities.encoder import FACTS, Batch, Encoder, Role, from_config, read_facts
from modalities.grid import TokenGrid
from modalities.pooled import pooled
from modalities.text import BACKBONE, TOKENIZER, TransformerText, _auto_model
from modalities.text_config import TextConfig

if TYPE_CHECKING:
    from typing_extensions import Self

GRAPH = "model.onnx"
INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("tokens", "norms", "document_mask")
INSTALL = "pip install 'lateint[onnx]'"


class OnnxText(Encoder):
    """A text encoder that onnxruntime runs, on the CPU; everything before the graph (markers,
    expansion, skiplist, lengths) is TransformerText's own.

    Make one with `export` or `quantise`, or load one. Threads are those that torch has when it is
    made. It has no parameters: it cannot be trained, moved or cast.
    """

    name = "onnx-text"
    modality = "text"
    cpu_tokens = 1024

    def __init__(self, text: TransformerText, graph: Path, int8: bool) -> None:
        """text: any TransformerText of the same settings and tokenizer (its weights are not used);
        graph: the file that `export` wrote; int8: whether its weights are 8-bit integers. Raises
        ImportError, ValueError (no such graph)."""
        super().__init__()
        self.dim = text.dim
        self.int8 = int8
        self.graph = Path(graph)
        self._text = [text]  # in a list, so that its weights are not this encoder's
        self._session = _session(self.graph)
        self._digest = _digest(self.graph)

    @property
    def text(self) -> TransformerText:
        """What prepares texts for the graph."""
        return self._text[0]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        return self.text.prepare(raw, role)

    def cost(self, raw: Sequence[Any], role: Role) -> list[int]:
        return self.text.cost(raw, role)

    def labels(self, item: Any, role: Role) -> list[str]:
        return self.text.labels(item, role)

    def forward(self, batch: Batch) -> TokenGrid:
        x = {name: tensor.cpu() for name, tensor in batch.inputs.items()}
        shape = batch.shape or ()
        way = self.text.settings.pooling
        if not len(batch):
            vector = None if way is None else torch.zeros(0, self.dim)
            return TokenGrid(torch.zeros(0, 0, self.dim), x["mask"], shape, pooled=vector)
        given = {"input_ids": x["ids"].numpy(), "attention_mask": x["attend"].long().numpy()}
        wanted = ["tokens", "norms", *(["pooled"] if way is not None else [])]
        found = self._session.run(wanted, given)
        unit, norms, *whole = (torch.from_numpy(array) for array in found)
        tokens = (unit * norms[..., None]).gather(
            1, x["keep"][..., None].expand(-1, -1, self.dim)
        )  # (B, T, D)
        tokens = tokens.masked_fill(~x["mask"][..., None], 0)
        return TokenGrid(tokens, x["mask"], shape, pooled=whole[0] if whole else None)

    def config(self) -> dict[str, Any]:
        return {"text": self.text.config(), "int8": self.int8, "sha256": self._digest}

    def save(self, folder: Path) -> None:
        """model.onnx, the backbone's config, the tokenizer, encoder.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not self.graph.is_file():
            raise FileNotFoundError(f"{self.graph} is gone: the encoder was made from it")
        if self.graph.resolve() != (folder / GRAPH).resolve():
            shutil.copyfile(self.graph, folder / GRAPH)
        self.text.backbone.config.save_pretrained(folder / BACKBONE)
        self.text.tokenizer.save_pretrained(str(folder / TOKENIZER))
        facts = {"encoder": self.name, "config": self.config()}
        (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The encoder saved in a folder. Raises ValueError where the folder holds another encoder, or
        a graph that is not the one that was saved."""
        folder = Path(folder)
        name, config = read_facts(folder)
        if name != cls.name:
            raise ValueError(f"{folder / FACTS} is of encoder {name!r}, not {cls.name!r}")
        if unknown := sorted(config.keys() ^ {"text", "int8", "sha256"}):
            raise ValueError(f"{folder / FACTS}: missing or unknown keys {unknown}")
        settings = from_config(TextConfig, dict(config["text"]))
        text = TransformerText(*_without_weights(folder), settings)
        encoder = cls(text, folder / GRAPH, bool(config["int8"]))
        if encoder._digest != config["sha256"]:
            raise ValueError(f"{folder / GRAPH} is not the file that was saved: its digest differs")
        return encoder.eval()


class _Graph(nn.Module):
    """What is exported."""

    def __init__(self, text: TransformerText) -> None:
        super().__init__()
        self.text = text
        self.way = text.settings.pooling
        rows = text.backbone.get_input_embeddings().num_embeddings
        keeps = torch.ones(rows, dtype=torch.bool)
        if "document" in text.settings.skiplist_roles:
            keeps[text._skipped] = False
        if text._only is not None:
            only = torch.zeros(rows, dtype=torch.bool)
            only[text._only] = True
            keeps &= only
        self.keeps: Tensor
        self.register_buffer("keeps", keeps)  # by vocabulary entry: isin has no ONNX operator

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        hidden = self.text.backbone(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state  # (B, L, H)
        rows = self.text.projection(hidden)  # (B, L, D)
        norms = rows.square().sum(-1).sqrt()
        unit = rows / norms.clamp(min=1e-12)[..., None]
        attended = attention_mask.bool()
        kept = attended & self.keeps[input_ids]
        some = kept.long().amax(1, keepdim=True).bool()
        found = unit, norms, attended & (kept | ~some)  # onnxruntime has no Where of booleans
        if self.way is None:
            return found
        whole = pooled(hidden, attended, self.way)
        return *found, self.text.projection(whole) if self.text.settings.pooled_dense else whole


def export(text: TransformerText, graph: Path, *, opset: int = 18) -> OnnxText:
    """Writes a text encoder to the file `graph` and returns an encoder that runs it.

    In float32 whatever the encoder's dtype is, and up to 2 GiB. opset: of the ONNX operators; older: read
    by older runtimes. Raises ImportError with what to install; ValueError for an encoder of another kind.
    """
    if not isinstance(text, TransformerText):
        raise ValueError(f"got a {type(text).__name__}; wanted a TransformerText")
    if text.settings.pooling is not None and not text.settings.pool_prompt:
        raise ValueError("pool_prompt=False cannot be exported: the graph does not see the prompt")
    _need("onnx", "onnxscript", "onnxruntime")
    import copy

    wrapped = _Graph(copy.deepcopy(text).cpu().float()).eval()
    with torch.inference_mode():
        batch = text.prepare(["a b c", "d"], "document")
    example = (batch.inputs["ids"], batch.inputs["attend"].long())
    graph = Path(graph)
    graph.parent.mkdir(parents=True, exist_ok=True)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            wrapped,
            example,
            input_names=list(INPUTS),
            output_names=[*OUTPUTS, "pooled"][: 3 + (text.settings.pooling is not None)],
            dynamic_shapes=(shape, shape),
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ValueError("torch gave no ONNX program")
    _write(program.model_proto, graph)
    return OnnxText(text, graph, int8=False).eval()


def quantise(encoder: OnnxText, graph: Path) -> OnnxText:
    """The same encoder with the weights of its matrix products as 8-bit integers, written to `graph`.

    Inputs of each product are made 8-bit on the way, with one scale for all of them (ONNX's dynamic
    quantisation): about a quarter of the file, faster on a CPU, and tokens that change by some
    hundredths and depend a little on what else is in the batch. How much quality that costs is a
    matter of the model: measure it.
    """
    _need("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = Path(graph)
    graph.parent.mkdir(parents=True, exist_ok=True)
    part = graph.with_suffix(".part")
    with _quiet():
        quantize_dynamic(
            encoder.graph,
            part,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=not _has_dot_products(),
        )
    part.replace(graph)
    return OnnxText(encoder.text, graph, int8=True).eval()


def _write(model: Any, graph: Path) -> None:
    """An ONNX model without the exporter's notes, in which each node names lines of source files."""
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    try:
        body = model.SerializeToString()
    except ValueError as error:
        raise ValueError(f"{graph}: an ONNX file holds at most 2 GiB ({error})") from error
    part_file = graph.with_suffix(".part")
    part_file.write_bytes(body)
    part_file.replace(graph)


def _session(graph: Path) -> Any:
    """An onnxruntime session with as many threads as torch has now."""
    _need("onnxruntime")
    import onnxruntime

    if not graph.is_file():
        raise ValueError(f"{graph} is missing: the encoder is incomplete")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has a class of its own for each cause
        raise ValueError(f"{graph} cannot be run: {error}") from error
    given = {node.name for node in session.get_inputs()}
    found = {node.name for node in session.get_outputs()}
    if given != set(INPUTS) or not found >= set(OUTPUTS):
        raise ValueError(
            f"{graph} has inputs {sorted(given)} and outputs {sorted(found)}; wanted "
            f"{list(INPUTS)} and {list(OUTPUTS)}: write it with lateint"
        )
    return session


def _digest(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            state.update(part)
    return state.hexdigest()


def _without_weights(folder: Path) -> tuple[Any, Any]:
    """The backbone's form on no device, and the tokenizer, of a saved encoder."""
    from transformers import AutoConfig, AutoTokenizer

    for path in (folder / BACKBONE / "config.json", folder / TOKENIZER / "tokenizer_config.json"):
        if not path.is_file():
            raise ValueError(f"{path} is missing: the encoder is incomplete")
    form = AutoConfig.from_pretrained(str(folder / BACKBONE), local_files_only=True)
    words = AutoTokenizer.from_pretrained(str(folder / TOKENIZER), local_files_only=True)
    with torch.device("meta"):
        backbone = _auto_model(form).from_config(form)
    return backbone, words


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    if missing := [name for name in packages if find_spec(name) is None]:
        raise ImportError(f"ONNX needs {', '.join(missing)}: {INSTALL}")


def _has_dot_products() -> bool:
    """Whether the CPU multiplies and adds four 8-bit numbers without saturating at 16 bits (VNNI).
    Without it weights of full range overflow: they are kept to 7 bits."""
    cpu = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in cpu and bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress that exporters log and print."""
    import contextlib
    import io
    import warnings

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
