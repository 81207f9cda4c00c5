"""The model over real, tiny encoders: hashed words, coloured pages, a random BERT, a random ViT."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_text import bert
from torch import nn
from toy_model import DIM, ColourPage, HashedText, toy_model, word_vector

import lateint
import modalities
from lateint.batching import batches
from lateint.config import ConfigError
from lateint.heads import MultiVectorConfig, MultiVectorHead, SingleVectorHead
from lateint.maxsim import maxsim
from lateint.model import BATCH_TOKENS, LateInteractionModel, load
from modalities.encoder import Batch, Role

TEXTS = ["red", "", "one two three four five six", "blue sky", "a b c d e f g h i j"]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> LateInteractionModel:
    for encoder in (HashedText, ColourPage):
        place = ("toy_model", encoder.__name__)
        monkeypatch.setitem(modalities.ENCODERS, encoder.name, place)
    torch.set_num_threads(1)
    return toy_model()


class Spy(HashedText):
    """Notes what it was given, batch by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[str]] = []
        self.modes: set[bool] = set()

    def prepare(self, raw: Sequence[Any], role: Role) -> Batch:
        self.seen.append(list(raw))
        self.modes.add(self.training)
        assert torch.is_inference_mode_enabled()
        return super().prepare(raw, role)


def test_an_encoder_of_two_modalities_is_kept_and_saved_once(
    model: LateInteractionModel, tmp_path: Path
) -> None:
    text = HashedText(2.0)
    shared = LateInteractionModel({"text": text, "page": text})
    assert sum(p.numel() for p in shared.parameters()) == 1
    shared.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir() if p.is_dir()) == ["text"]
    again = LateInteractionModel.load(tmp_path / "model")
    assert again.encoder("text") is again.encoder("page")
    assert float(again.encoder("page").scale) == 2.0


@pytest.mark.parametrize("batch_tokens", [1, 12, BATCH_TOKENS])
@pytest.mark.parametrize("head", ["multi", "single"])
def test_input_order_is_kept_whatever_the_batches(
    model: LateInteractionModel, batch_tokens: int, head: str
) -> None:
    ragged = model.encode_documents(TEXTS, head=head, batch_tokens=batch_tokens)
    assert len(ragged) == len(TEXTS) and ragged.dim == DIM
    for text, rows in zip(TEXTS, ragged, strict=True):
        alone = model.encode([text], "document", head=head).tokens
        torch.testing.assert_close(rows, alone.values)
    if head == "multi":
        assert [len(row) for row in ragged] == [1 + len(text.split()) for text in TEXTS]
        torch.testing.assert_close(ragged[3][2], word_vector("sky"))


def test_every_text_finds_itself(model: LateInteractionModel) -> None:
    queries = model.encode_queries([text for text in TEXTS if text])
    scores = maxsim(queries, model.encode_documents([text for text in TEXTS if text]))
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]


def test_batches_keep_to_the_token_budget() -> None:
    spy = Spy()
    LateInteractionModel({"text": spy}, ("multi",)).encode_documents(TEXTS, batch_tokens=14)
    costs = [[1 + len(text.split()) for text in batch] for batch in spy.seen]
    assert costs == [[11], [7, 3], [2, 1]]
    assert list(batches([], 5)) == []
    assert list(batches([9, 1, 9, 1], 4)) == [[0], [2], [1, 3]]


def test_encoding_leaves_every_mode_as_it_was() -> None:
    spy = Spy()
    spy.part, spy.frozen = nn.Dropout(), nn.Dropout()
    model = LateInteractionModel({"text": spy}, ("multi",)).train()
    spy.frozen.eval()
    model.encode_queries(["a"])
    assert spy.modes == {False}
    assert spy.training and spy.part.training and not spy.frozen.training
    # a result may take part in training
    (model.encode_queries(["a"]).values * nn.Parameter(torch.ones(DIM))).sum().backward()


def test_boxes_come_with_the_tokens_of_pages(model: LateInteractionModel) -> None:
    page = Image.new("RGB", (8, 12), "white")
    page.putpixel((7, 11), (255, 0, 0))
    page = page.resize((40, 60), Image.Resampling.NEAREST)
    encoded = model.encode([page, page.rotate(180)], "document", modality="page")
    assert encoded.boxes is not None and len(encoded) == 2
    assert torch.equal(encoded.boxes.offsets, encoded.tokens.offsets)
    first = encoded.boxes[0]  # a lattice of 6 rows and 4 columns
    torch.testing.assert_close(first[0], torch.tensor([0, 0, 1 / 4, 1 / 6]))
    torch.testing.assert_close(first[1], torch.tensor([1 / 4, 0, 2 / 4, 1 / 6]))
    torch.testing.assert_close(first[-1], torch.tensor([3 / 4, 5 / 6, 1, 1]))
    assert model.encode([page], "document", modality="page", head="single").boxes is None
    assert model.encode(["a"], "document").boxes is None
    assert model.encode([], "document", modality="page").boxes is None


def test_documents_from_a_generator_never_are_all_in_memory(model: LateInteractionModel) -> None:
    drawn: list[int] = []

    def source() -> Iterator[str]:
        for i in range(7):
            drawn.append(i)
            yield f"word{i} " * (i + 1)

    windows = model.encode_documents_iter(source(), window=3)
    assert drawn == []
    sizes = []
    for encoded in windows:
        sizes.append(len(encoded))
        assert len(drawn) == sum(sizes)
        torch.testing.assert_close(encoded.tokens[-1][-1], word_vector(f"word{drawn[-1]}"))
    assert sizes == [3, 3, 1]
    with pytest.raises(ValueError, match="window"):
        next(model.encode_documents_iter(source(), window=0))


def test_half_precision_models_give_float32_rows_or_their_own() -> None:
    model = toy_model().to(torch.bfloat16)
    model.encoder("text").register_forward_pre_hook(
        lambda _, given: Batch(
            {k: v.bfloat16() if v.is_floating_point() else v for k, v in given[0].inputs.items()},
            given[0].shape,
            given[0].role,
        )
    )
    assert model.encode(["a b"], "query").tokens.dtype == torch.float32
    assert model.encode(["a b"], "query", gather=False).tokens.dtype == torch.bfloat16


def test_no_items_and_wrong_ones(model: LateInteractionModel) -> None:
    nothing = model.encode_queries([])
    assert len(nothing) == 0 and nothing.dim == DIM
    assert list(model.encode_documents_iter([])) == []
    with pytest.raises(TypeError, match="one str: pass a list"):
        model.encode_queries("red")
    with pytest.raises(TypeError, match="one str: pass a list"):
        next(model.encode_documents_iter("red"))
    with pytest.raises(ValueError, match="no encoder for 'txet', did you mean 'text'"):
        model.encode_queries(["a"], modality="txet")
    with pytest.raises(ValueError, match="no head 'mutli', did you mean 'multi'"):
        model.encode_queries(["a"], head="mutli")
    with pytest.raises(ValueError, match="batch_tokens"):
        model.encode_queries(["a"], batch_tokens=0)
    wrong: Any = "doc"
    with pytest.raises(ValueError, match="role"):
        model.encode(["a"], wrong)


def test_labels_stand_beside_the_rows(model: LateInteractionModel) -> None:
    labels = model.query_labels("red Sky")
    assert labels == ["[query]", "red", "Sky"]
    assert len(model.encode_queries(["red Sky"])[0]) == len(labels)


def test_the_progress_bar_counts_items_on_stderr(
    model: LateInteractionModel, capsys: pytest.CaptureFixture[str]
) -> None:
    model.encode_queries(TEXTS, progress=True)
    list(model.encode_documents_iter(TEXTS, window=2, progress=True))
    shown = capsys.readouterr()
    assert shown.out == "" and "5/5" in shown.err
    model.encode_queries(TEXTS)
    assert capsys.readouterr().err == ""


def test_encoders_must_share_their_width() -> None:
    class Wide(HashedText):
        dim = DIM + 1

    with pytest.raises(ValueError, match=r"one shared width, got \{'a': 64, 'b': 65\}"):
        LateInteractionModel({"a": HashedText(), "b": Wide()})
    with pytest.raises(ValueError, match="at least one encoder"):
        LateInteractionModel({})
    with pytest.raises(ValueError, match="wants 65 numbers of tokens of 64"):
        heads = {"multi": MultiVectorHead(MultiVectorConfig(dim=65))}
        LateInteractionModel({"text": HashedText()}, heads)
    with pytest.raises(ConfigError, match="no name"):
        LateInteractionModel({"../text": HashedText()})


def test_save_and_load(model: LateInteractionModel, tmp_path: Path) -> None:
    heads = {
        "multi": MultiVectorHead(MultiVectorConfig(dim=32, queries="weighted")),
        "single": SingleVectorHead(),
    }
    first = LateInteractionModel({"text": HashedText(2.0), "page": ColourPage()}, heads)
    first.save(tmp_path / "m")
    saved = json.loads((tmp_path / "m" / "config.json").read_text())
    assert saved == {
        "format": "lateint-model",
        "version": 1,
        "encoders": {"text": "text", "page": "page"},
        "heads": {
            "multi": {
                "dim": 32,
                "queries": "weighted",
                "budget": None,
                "merge": 1.0,
                "merge_from": 100,
                "width": None,
                "hidden": 0,
            },
            "single": {"dim": None},
        },
    }
    again = load(tmp_path / "m")
    assert not again.training and again.head_dim("multi") == 32 and again.head_dim("single") == 64
    for head in heads:
        ours, theirs = (m.encode_queries(TEXTS, head=head) for m in (first, again))
        assert torch.equal(ours.values, theirs.values) and torch.equal(ours.offsets, theirs.offsets)

    toy_model().save(tmp_path / "m")  # a model is replaced
    assert list(load(tmp_path / "m").heads) == ["multi", "single"]
    assert load(tmp_path / "m").head_dim("multi") == DIM
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not touched"):
        first.save(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heds": {}}, "unknown key 'heds', did you mean 'heads'"),
        ({"version": 2, "new_key": 1}, "version 2 is newer than 1.*upgrade"),
        ({"version": "1"}, "version: wanted int"),
        ({"format": "other"}, "no saved lateint model"),
        ({"encoders": {"text": "../text"}}, "no name"),
        ({"encoders": {"text": "/etc"}}, "no name"),
        ({"encoders": {}}, "at least one encoder"),
        ({"heads": {"multi": {"quries": "unit"}}}, "did you mean 'queries'"),
        ({"heads": {"mutli": {}}}, "unknown head 'mutli', did you mean 'multi'"),
    ],
)
def test_a_config_that_is_wrong_is_refused(
    model: LateInteractionModel, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    model.save(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m")


def test_weights_that_are_missing_or_left_over_are_refused(
    model: LateInteractionModel, tmp_path: Path
) -> None:
    model.save(tmp_path / "m")
    weights = tmp_path / "m" / "heads.safetensors"
    save_file({"multi.scale": torch.ones(1)}, str(weights))
    with pytest.raises(ConfigError, match=r"missing weights \[\], unexpected .*'multi.scale'"):
        load(tmp_path / "m")
    weights.write_bytes(b"no safetensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "m")
    weights.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "m")

    class Scaled(MultiVectorHead):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    LateInteractionModel({"text": HashedText()}, {"multi": Scaled()}).save(tmp_path / "s")
    with pytest.raises(ConfigError, match="unexpected weights"):
        load(tmp_path / "s")  # the table's head has no such weight
    model.save(tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "text")
    with pytest.raises(FileNotFoundError, match=r"encoder\.json"):
        load(tmp_path / "m")
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "nowhere")


def test_a_save_that_was_cut_short_does_not_load(
    model: LateInteractionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save(tmp_path / "m")

    def full(self: object, folder: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(ColourPage, "save", full)
    with pytest.raises(OSError, match="disk full"):
        model.save(tmp_path / "m")
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "m")


def test_from_backbones_trains_saves_and_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone, tokenizer = bert()
    backbone.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(str(tmp_path / "bert"))
    model = LateInteractionModel.from_backbones(
        text=str(tmp_path / "bert"),
        image="test_vit",
        dim=24,
        pretrained=False,
        text_options={"document_length": 40},
    )
    picture = Image.new("RGB", (50, 40), "red")
    texts = ["the loss goes up", "who wrote this", "budget 2024"]
    grid = model.grid(texts, "query")
    rows = model.head("multi")(grid, "query")
    pages = model.head("multi")(
        model.grid([picture, picture], "document", modality="image"), "document"
    )
    maxsim(rows, pages).sum().backward()
    for modality in ("text", "image"):
        gradient = model.encoder(modality).get_parameter("projection.weight").grad
        assert gradient is not None and gradient.any()

    model.eval().save(tmp_path / "m")
    again = load(tmp_path / "m")
    for one in (model, again):
        encoded = one.encode([picture], "document", modality="image")
        assert encoded.boxes is not None and len(encoded.boxes.values) == len(encoded.tokens.values)
    for batch_tokens in (1, 1000):
        ours = model.encode_queries(texts, batch_tokens=1000)
        theirs = again.encode_queries(texts, batch_tokens=batch_tokens)
        torch.testing.assert_close(ours.values, theirs.values)
    assert len(again.query_labels(texts[0])) == len(again.encode_queries(texts[:1])[0])


def test_the_model_that_ships_reads_text_and_pages() -> None:
    model = lateint.load()
    assert model.dim == 128 and set(model.encoders) == {"text", "page", "image", "audio"}
    assert model.head("multi").config.queries == "weighted"
    words = model.encode_queries(["annual report"])[0][1:]  # after the token of the whole query
    assert words.shape == (2, 128) and ((words.norm(dim=-1) - 1).abs() > 1e-3).all()
    texts = ["the annual report of the society", "sea birds and their nests"]
    documents = model.encode_documents(texts)
    for rows in documents:
        torch.testing.assert_close(rows[1:].norm(dim=-1), torch.ones(len(rows) - 1))
    queries = model.encode_queries(["annual report", "nests of birds"])
    assert maxsim(queries, documents).argmax(1).tolist() == [0, 1]
    page = Image.new("RGB", (200, 300), "white")
    encoded = model.encode([page], "document", modality="page")
    assert encoded.boxes is not None
    assert encoded.boxes.values.tolist() == [[0, 0, 1, 1]]  # no word, only the page


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "torch numpy transformers timm PIL pypdfium2 rich typer safetensors"
    script = (
        "import sys, lateint\n"
        f"print([m for m in {heavy.split()!r} if m in sys.modules])\n"
        "assert lateint.Ragged.__name__ == 'Ragged'\n"
        "assert lateint.maxsim.maxsim and lateint.maxsim is sys.modules['lateint.maxsim']\n"
        "assert set(lateint.__all__) <= set(dir(lateint))\n"
        "for name in lateint.__all__: getattr(lateint, name)\n"
        "try: lateint.nonsense\n"
        "except AttributeError as error: print(error)\n"
    )
    root = str(Path(lateint.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["[]", "module 'lateint' has no attribute 'nonsense'"]
