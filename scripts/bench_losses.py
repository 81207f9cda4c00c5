"""A training step's losses: ours, sentence-transformers', PyLate's and the plain formula.

    python scripts/bench_losses.py [--record] [--data .data] [--batch 64 --negatives 8 ...]

One process a side and a measurement, on one thread; each peer in its own environment (made by
scripts/peers/env.sh DATA sbert pylate; one that is missing is named in the result and left out).

`loss` is the loss alone: tokens of unit length of B queries, their positives and N negatives each
are given as tensors that want gradients, as padded as each library wants them; forward, backward.
That is where memory goes: the plain formula holds the similarities (B, B (1 + N), Lq, Ld) in
float32, 2.4 GB at B=64, N=8, Lq=32, Ld=512, several times over. The floor is the gradient of the
documents, B (1 + N) Ld D floats (151 MB), which every side must make. `plain` runs `--plain-batch`
queries where the whole would not fit into memory, and its peak is scaled by the square.

`step` is a training step of a backbone (BERT of 2 layers, 32 wide, the same weights and the same
token ids on each side) under the library's own contrastive loss module: tokens, forward, loss,
backward. The losses of all sides must agree.

Memory is the growth of the peak resident size (see scripts/bench_maxsim.py). Times are the fastest
of `--repeat` steps. Prints one JSON line; --record appends it to scripts/results/bench_losses.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_maxsim import peak_mib, reset_peak, resident_mib

HERE = Path(__file__).parent
PEERS = {"sentence-transformers": "sbert", "pylate": "pylate"}
SIDES = ("ours", "plain", *PEERS)
VOCABULARY = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--negatives", type=int, default=8)
    parser.add_argument("--query-tokens", type=int, default=32)
    parser.add_argument("--document-tokens", type=int, default=512)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--plain-batch", type=int, default=16, help="queries of the plain formula")
    parser.add_argument("--repeat", type=int, default=3, help="timed steps; the fastest counts")
    parser.add_argument("--data", type=Path, default=HERE.parent / ".data")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--what", nargs="+", choices=("loss", "step"), default=("loss", "step"))
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "WHAT"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        side, what = options.measure
        found = measure_loss(side, options) if what == "loss" else measure_step(side, options)
        print(json.dumps(found))
        return
    line = compare(options)
    if options.record:
        from results import record

        line = record("bench_losses", **line)
    print(json.dumps(line))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Every side, each in its own process, and what they say of ours."""
    line: dict[str, Any] = {
        "shape": {
            "batch": options.batch,
            "negatives": options.negatives,
            "query_tokens": options.query_tokens,
            "document_tokens": options.document_tokens,
            "dim": options.dim,
        },
        "loss": {},
        "step": {},
        "missing": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        if "step" in options.what:
            make_model(model, options)
        for side in options.sides:
            python = python_of(side, options.data)
            if python is None:
                name = PEERS[side]
                line["missing"][side] = f"scripts/peers/env.sh {options.data.name} {name}"
                continue
            for what in options.what:
                if side == "plain" and what == "step":
                    continue
                line[what][side] = run(python, side, what, model, options)
    for what in ("loss", "step"):
        sides = line[what]
        ours = sides.get("ours")
        for side, found in sides.items():
            if side == "ours" or not ours:
                continue
            found["memory_ratio"] = round(found["peak_mib"] / ours["peak_mib"], 2)
            if side != "plain":  # of another batch: its time says nothing
                found["time_ratio"] = round(found["step_ms"] / ours["step_ms"], 2)
                found["loss_difference"] = abs(found["loss"] - ours["loss"])
    return line


def python_of(side: str, data: Path) -> str | None:
    if side not in PEERS:
        return sys.executable
    path = data / "envs" / PEERS[side] / "bin" / "python"
    return str(path.absolute()) if path.exists() else None


def run(
    python: str, side: str, what: str, model: Path, options: argparse.Namespace
) -> dict[str, Any]:
    names = (
        "batch",
        "negatives",
        "query_tokens",
        "document_tokens",
        "dim",
        "plain_batch",
        "repeat",
    )
    sizes = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in names]
    command = [python, __file__, "--measure", side, what, "--model", str(model), *sizes]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{side}, {what}: exit status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def timed(step: Callable[[], Any], repeat: int) -> dict[str, Any]:
    """Peak and loss of the first step, the time of the fastest of `repeat`."""
    before = resident_mib()
    reset_peak()
    loss = float(step())
    peak = peak_mib() - before
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {
        "loss": loss,
        "peak_mib": round(peak, 1),
        "step_ms": round(1000 * min(times or [0.0]), 1),
    }


def measure_loss(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """The loss alone, from tokens."""
    import torch

    torch.set_num_threads(1)
    batch = min(options.batch, options.plain_batch) if side == "plain" else options.batch
    width = 1 + options.negatives
    # libraries, autograd and the allocator are set up by a small step
    sizes = (options.query_tokens, options.document_tokens, options.dim)
    loss_step(side, 2, 2, 3, 4, 8)()
    found = timed(loss_step(side, batch, width, *sizes), options.repeat)
    if batch < options.batch:
        found["scaled_from"] = {"batch": batch, "peak_mib": found["peak_mib"]}
        found["peak_mib"] = round(found["peak_mib"] * (options.batch / batch) ** 2, 1)
    return found


def loss_step(side: str, batch: int, width: int, lq: int, ld: int, dim: int) -> Callable[[], Any]:
    """Forward and backward of side's loss on the same tokens; documents are between a half and
    the whole of `ld` long."""
    import torch

    draw = torch.Generator().manual_seed(7)
    rows = [
        torch.nn.functional.normalize(torch.randn(*shape, dim, generator=draw), dim=-1)
        for shape in ((batch, lq), (batch, width, ld))
    ]
    lengths = torch.randint(ld // 2, ld + 1, (batch, width, 1), generator=draw)
    queries = rows[0].requires_grad_()
    mask = torch.arange(ld) < lengths  # (batch, width, ld)
    target = torch.arange(batch) * width
    if side == "ours":
        from lateint.losses import InfoNCE, Targets
        from lateint.objective import Objective
        from lateint.ragged import Ragged

        ragged = Ragged.from_padded(rows[1].flatten(0, 1), mask.flatten(0, 1))
        documents = ragged.values.requires_grad_()
        objective = Objective(InfoNCE())
        side_q = Ragged.from_padded(queries)
        targets = Targets(target)

        def score() -> Any:
            return objective({"multi": side_q}, {"multi": ragged}, targets)

    else:
        documents = rows[1].requires_grad_()
        scorer = scorer_of(side)

        def score() -> Any:
            matrix = scorer(queries, documents, mask)  # (batch, batch * width)
            return torch.nn.functional.cross_entropy(matrix, target)

    del rows

    def step() -> Any:
        queries.grad = documents.grad = None
        loss = score()
        loss.backward()
        return loss.detach()

    return step


def scorer_of(side: str) -> Callable[..., Any]:
    """(B, Lq, D), (B, W, Ld, D), (B, W, Ld) -> (B, B W), what the library's loss calls."""
    import torch

    if side == "plain":

        def plain(queries: Any, documents: Any, mask: Any) -> Any:
            similarity = torch.einsum("qid,kjd->qkij", queries, documents.flatten(0, 1))
            lowest = torch.finfo(similarity.dtype).min
            similarity = similarity.masked_fill(~mask.flatten(0, 1)[None, :, None], lowest)
            return similarity.max(-1).values.sum(-1)

        return plain
    if side == "pylate":
        from pylate.scores import ColBERTScores

        colbert = ColBERTScores()
        return lambda queries, documents, mask: colbert(queries, documents, documents_mask=mask)
    from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

    return lambda queries, documents, mask: colbert_scores(queries, documents, documents_mask=mask)


def measure_step(side: str, options: argparse.Namespace) -> dict[str, Any]:
    """A step of the backbone under the library's own loss module."""
    import torch

    torch.set_num_threads(1)
    make = {"ours": our_step, "pylate": pylate_step, "sentence-transformers": sbert_step}[side]
    step = make(options.model, options.dim)
    step(*token_ids(2, 2, 4, 8))
    given = token_ids(
        options.batch, 1 + options.negatives, options.query_tokens, options.document_tokens
    )
    return timed(lambda: step(*given), options.repeat)


def token_ids(batch: int, width: int, lq: int, ld: int) -> tuple[Any, list[tuple[Any, Any]]]:
    """Query ids (B, Lq), and for each column of documents its ids and mask (B, Ld)."""
    import torch

    draw = torch.Generator().manual_seed(11)
    queries = torch.randint(5, VOCABULARY, (batch, lq), generator=draw)
    columns = []
    for _ in range(width):
        ids = torch.randint(5, VOCABULARY, (batch, ld), generator=draw)
        lengths = torch.randint(ld // 2, ld + 1, (batch, 1), generator=draw)
        lengths[0] = ld
        columns.append((ids, (torch.arange(ld) < lengths).long()))
    return queries, columns


def make_model(folder: Path, options: argparse.Namespace) -> None:
    """A tiny BERT with its tokenizer and a projection, random weights, for every side to load."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    most = max(options.query_tokens, options.document_tokens, 64)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=most,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {
        word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(VOCABULARY - 5))])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ("pad", "unk", "cls", "sep", "mask")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=most,
        **{f"{name}_token": token for name, token in zip(names, special, strict=True)},
    ).save_pretrained(folder)
    weight = torch.randn(options.dim, 32) / 32**0.5
    save_file({"linear.weight": weight}, folder / "projection.safetensors")


def projection_of(folder: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(folder / "projection.safetensors")["linear.weight"]


def our_step(folder: Path, dim: int) -> Callable[..., Any]:
    import torch

    from lateint.heads import MultiVectorHead
    from lateint.losses import InfoNCE, Targets
    from lateint.objective import Objective
    from modalities.encoder import Batch
    from modalities.text import TransformerText

    encoder = TransformerText.from_pretrained(
        folder, dim, query_length=64, document_length=64, query_marker=None, document_marker=None
    ).train()
    with torch.no_grad():
        encoder.projection.weight.copy_(projection_of(folder))
    head, objective = MultiVectorHead(), Objective(InfoNCE())

    def vectors(ids: Any, mask: Any, role: str) -> Any:
        keep = torch.arange(ids.shape[1]).expand_as(ids)
        inputs = {"ids": ids, "attend": mask, "keep": keep, "mask": mask}
        shape = tuple((1, n) for n in mask.sum(1).tolist())
        return head(encoder(Batch(inputs, shape, role)), role)  # type: ignore[arg-type]

    def step(queries: Any, columns: list[tuple[Any, Any]]) -> Any:
        encoder.zero_grad(set_to_none=True)
        asked = vectors(queries, torch.ones_like(queries, dtype=torch.bool), "query")
        ids, masks = (torch.cat([column[i] for column in columns]) for i in range(2))
        found = vectors(ids, masks.bool(), "document")
        targets = Targets.by_column(len(queries), len(columns) - 1)
        loss = objective({"multi": asked}, {"multi": found}, targets)
        loss.backward()
        return loss.detach()

    return step


def features(queries: Any, columns: list[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """As both peers' collators give them."""
    import torch

    asked = {"input_ids": queries, "attention_mask": torch.ones_like(queries)}
    return [asked, *({"input_ids": ids, "attention_mask": mask} for ids, mask in columns)]


def pylate_step(folder: Path, dim: int) -> Callable[..., Any]:
    import torch
    from pylate import losses, models

    model = models.ColBERT(
        str(folder),
        embedding_size=dim,
        device="cpu",
        skiplist_words=[],
        query_length=64,
        document_length=64,
    )
    with torch.no_grad():
        model[-1].linear.weight.copy_(projection_of(folder))
    model.train()
    loss_of = losses.Contrastive(model)

    def step(queries: Any, columns: list[tuple[Any, Any]]) -> Any:
        model.zero_grad(set_to_none=True)
        loss = loss_of(features(queries, columns))
        loss.backward()
        return loss.detach()

    return step


def sbert_step(folder: Path, dim: int) -> Callable[..., Any]:
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.multi_vector_encoder.losses import (
        MultiVectorMultipleNegativesRankingLoss,
    )
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from sentence_transformers.sentence_transformer.modules import Normalize

    body = Transformer(str(folder))
    projection = Dense(
        in_features=32,
        out_features=dim,
        bias=False,
        activation_function=torch.nn.Identity(),
        module_input_name="token_embeddings",
    )
    with torch.no_grad():
        projection.linear.weight.copy_(projection_of(folder))
    unit = Normalize(module_input_name="token_embeddings")
    model = MultiVectorEncoder(modules=[body, projection, MultiVectorMask(), unit], device="cpu")
    model.train()
    loss_of = MultiVectorMultipleNegativesRankingLoss(model)

    def step(queries: Any, columns: list[tuple[Any, Any]]) -> Any:
        model.zero_grad(set_to_none=True)
        loss = loss_of(features(queries, columns))
        loss.backward()
        return loss.detach()

    return step


if __name__ == "__main__":
    main()
