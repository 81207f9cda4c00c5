"""Benchmark folders: BEIR's layout, media, parquet, and what is refused."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lateint.evaluation.benchmark import Benchmark, read_benchmark
from lateint.evaluation.qrels_run import BenchmarkError


def lines(path: Path, *records: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Texts: three documents, two queries."""
    folder = tmp_path / "birds"
    (folder / "qrels").mkdir(parents=True)
    lines(
        folder / "corpus.jsonl",
        {"_id": "kite", "title": "Red kite", "text": "a bird of prey"},
        {"_id": "gull", "title": "", "text": "follows ships"},
        {"_id": "owl", "text": "hunts at night"},
    )
    lines(
        folder / "queries.jsonl",
        {"_id": "1", "text": "red bird"},
        {"_id": "2", "text": "hunts when dark", "metadata": {}},
        {"_id": "3", "text": "nobody judged this"},
    )
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\tkite\t1\n2\towl\t1\n2\tgull\t0\n"
    )
    return folder


def test_texts(folder: Path) -> None:
    birds = read_benchmark(folder)
    assert birds.name == "birds"
    assert dict(birds.documents) == {
        "kite": "Red kite a bird of prey",
        "gull": "follows ships",
        "owl": "hunts at night",
    }
    assert birds.asked() == {"1": "red bird", "2": "hunts when dark"}
    assert birds.qrels == {"1": {"kite": 1}, "2": {"owl": 1, "gull": 0}}
    assert birds.words("document") == birds.documents
    assert birds.words("query") == birds.queries
    assert (birds.document_modality, birds.query_modality) == ("text", "text")


def test_pages_pictures_and_their_words(folder: Path, fixtures: Path) -> None:
    shutil.copy(fixtures / "kestrel-manual.pdf", folder / "manual.pdf")
    Image.new("RGB", (20, 30), "red").save(folder / "red.png")
    lines(
        folder / "corpus.jsonl",
        {"_id": "kite", "page": "manual.pdf#page=2", "text": "what it says"},
        {"_id": "gull", "page": "red.png"},
        {"_id": "owl", "page": "manual.pdf#page=1"},
    )
    pages = read_benchmark(folder, dpi=20)
    assert pages.document_modality == "page"
    second, first = pages.documents["kite"], pages.documents["owl"]
    assert second.size == first.size and 100 < second.size[0] < 300  # rendered at 20 dpi
    assert second.tobytes() != first.tobytes()
    assert pages.documents["gull"] == (folder / "red.png").resolve()
    assert pages.words("document") == {"kite": "what it says"}
    assert len(pages.documents) == 3 and "owl" in pages.documents


def test_a_field_by_another_name_than_the_encoder(folder: Path) -> None:
    """ViDoRe's corpora call pages "image"."""
    Image.new("RGB", (20, 30), "red").save(folder / "red.png")
    lines(
        folder / "corpus.jsonl", *({"_id": n, "image": "red.png"} for n in ("kite", "gull", "owl"))
    )
    assert read_benchmark(folder).document_modality == "image"
    assert read_benchmark(folder, document_modality="page").document_modality == "page"


def test_the_text_of_pages_on_request(folder: Path) -> None:
    Image.new("RGB", (20, 30), "red").save(folder / "red.png")
    lines(
        folder / "corpus.jsonl",
        *({"_id": name, "page": "red.png", "text": name} for name in ("kite", "gull", "owl")),
    )
    texts = read_benchmark(folder, document_modality="text")
    assert dict(texts.documents) == {"kite": "kite", "gull": "gull", "owl": "owl"}


def test_parquet_as_on_the_hub(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="comes with the extra 'eval'")
    from pyarrow import parquet

    Image.new("RGB", (12, 8), "blue").save(tmp_path / "x.png")
    png = (tmp_path / "x.png").read_bytes()
    for name, columns in {
        "corpus/test-00000": {"corpus-id": [0, 1], "image": [{"bytes": png, "path": None}] * 2},
        "queries/test-00000": {"query-id": [7], "query": ["what is blue?"]},
        "qrels/test-00000": {"query-id": [7], "corpus-id": [1], "score": [2]},
    }.items():
        path = tmp_path / "vidore" / f"{name}.parquet"
        path.parent.mkdir(parents=True)
        parquet.write_table(pyarrow.table(columns), path)
    found = read_benchmark(tmp_path / "vidore", document_modality="page")
    assert found.qrels == {"7": {"1": 2}}
    assert dict(found.queries) == {"7": "what is blue?"}
    assert list(found.documents) == ["0", "1"]
    assert found.documents["1"].getpixel((3, 3)) == (0, 0, 255)
    (tmp_path / "vidore" / "corpus" / "test-00000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(BenchmarkError, match="not a parquet file"):
        read_benchmark(tmp_path / "vidore")


def test_recordings_in_a_parquet_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="comes with the extra 'eval'")
    from pyarrow import parquet

    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    wav = (tmp_path / "tone.wav").read_bytes()
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("q\td\t1\n")
    lines(tmp_path / "queries.jsonl", {"_id": "q", "text": "a tone"})
    parquet.write_table(
        pyarrow.table({"_id": ["d"], "audio": [{"bytes": wav, "path": None}]}),
        tmp_path / "corpus.parquet",
    )
    found = read_benchmark(tmp_path)
    assert found.document_modality == "audio"
    assert found.documents["d"].rate == 8000 and len(found.documents["d"].samples) == 800


def test_a_part_of_a_benchmark(folder: Path) -> None:
    birds = read_benchmark(folder)
    small = birds.subset(queries=1, documents=2, seed=3)
    (query,) = small.asked()
    assert small.qrels == {query: birds.qrels[query]}
    assert {d for d in birds.qrels[query]} <= {*small.documents}
    assert len(small.documents) == 2
    assert small.documents == birds.subset(1, 2, 3).documents
    assert dict(birds.subset().documents) == dict(birds.documents)
    with pytest.raises(KeyError):
        small.documents["none such"]


def test_qrels_of_unknown_queries() -> None:
    with pytest.raises(BenchmarkError, match=r"qrels of 1 queries that are not there, as 'q'"):
        Benchmark("x", {"d": "text"}, {}, {"q": {"d": 1}})


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([{"text": "no id"}], "wanted an id under '_id'"),
        ([{"_id": "a", "text": "x"}, {"_id": "a", "text": "y"}], "line 2: id 'a' comes twice"),
        ([{"_id": "a", "text": 3}], "wanted a string as text, got int"),
        ([{"_id": "a", "colour": "red"}], "has no text; its keys are ['_id', 'colour']"),
        ([{"_id": "a", "page": "none.pdf#page=1"}], "no such file"),
        ([{"_id": "a", "page": "../../etc/passwd"}], "lies outside of"),
        ([{"_id": "a", "page": "/etc/passwd"}], "lies outside of"),
        ([{"_id": "a", "page": {"path": 3}}], "wanted the name of a file under 'page'"),
        ([{"_id": "a", "page": "x.pdf"}], "names no page; wanted x.pdf#page=3"),
        ([{"_id": "a", "page": "x.pdf#page=0"}], "names no page"),
        ([], "corpus has no record"),
        ("[1]\n", "line 1: wanted an object"),
        ("{\n", "line 1: not JSON"),
    ],
)
def test_broken_folders(folder: Path, corpus: Any, message: str) -> None:
    (folder / "x.pdf").write_bytes(b"%PDF-1.4")
    if isinstance(corpus, str):
        (folder / "corpus.jsonl").write_text(corpus)
    else:
        lines(folder / "corpus.jsonl", *corpus)
    with pytest.raises(BenchmarkError) as caught:
        read_benchmark(folder)
    assert message in str(caught.value)


def test_what_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"dev\.tsv: no such file; splits there: test"):
        read_benchmark(folder, "dev")
    with pytest.raises(BenchmarkError, match="split"):
        read_benchmark(folder, "../test")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(BenchmarkError, match=r"queries\.jsonl: no such file"):
        read_benchmark(folder)
    with pytest.raises(BenchmarkError, match="no such folder"):
        read_benchmark(folder / "none")
