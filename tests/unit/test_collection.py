from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from make_pdf import write_broken, write_encrypted, write_huge_page, write_pdf, write_without_pages
from PIL import Image
from toy_model import ColourPage, HashedText, toy_model

import lateint.ingest
from lateint.collection import Collection
from lateint.collection_files import ModelMismatch
from lateint.index import IndexLocked
from lateint.ledger import CollectionError
from lateint.model import LateInteractionModel

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model() -> LateInteractionModel:
    torch.set_num_threads(1)
    return toy_model()


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """A folder with two PDFs, two pictures and a text."""
    folder = tmp_path / "papers"
    (folder / "sub").mkdir(parents=True)
    write_pdf(
        folder / "colours.pdf", ["red one", "blue two", "plain three"], outline=[("Start", 1)]
    )
    write_pdf(folder / "sub" / "more.pdf", ["green four", "violet five"])
    Image.new("RGB", (60, 90), "yellow").save(folder / "sun.png")
    Image.new("RGB", (60, 90), (255, 140, 0)).save(folder / "sub" / "orange.jpg")
    (folder / "notes.txt").write_text("The heron waits\n\nat the weir for small fish.")
    return folder


ALL = {
    *(f"colours.pdf#page={n}" for n in (1, 2, 3)),
    "notes.txt",
    *(f"sub/more.pdf#page={n}" for n in (1, 2)),
    "sub/orange.jpg",
    "sun.png",
}


@pytest.fixture
def collection(tmp_path: Path, model: LateInteractionModel) -> Collection:
    return Collection.create(tmp_path / "c.lateint", model)


def test_a_folder_becomes_documents_with_ids_and_metadata(
    collection: Collection, papers: Path
) -> None:
    report = collection.add(papers)
    assert set(collection.ids()) == ALL
    assert (report.files_added, report.documents, report.problems) == (5, 8, [])
    (hit,) = collection.search("blue", k=1)
    assert (hit.id, hit.page, hit.source) == ("colours.pdf#page=2", 2, papers / "colours.pdf")
    metadata = hit.metadata
    assert (metadata["path"], metadata["kind"], metadata["section"]) == (
        "colours.pdf",
        "pdf",
        "Start",
    )
    assert metadata["modified"].endswith("+00:00") and metadata["title"] == "colours"


def test_text_queries_find_pages_pictures_and_texts(collection: Collection, papers: Path) -> None:
    collection.add(papers)
    wanted = {
        "red": "colours.pdf#page=1",
        "green": "sub/more.pdf#page=1",
        "yellow": "sun.png",
        "orange": "sub/orange.jpg",
        "heron at the weir": "notes.txt",
    }
    found = collection.search_many(list(wanted), k=1)
    assert [hits[0].id for hits in found] == list(wanted.values())
    assert all(hits[0].words == () for hits in found)


def test_words_say_what_matched_where_and_what_the_page_has_there(
    collection: Collection, papers: Path
) -> None:
    collection.add(papers)
    hit = collection.search("red", k=1)[0]
    best = hit.words[0]
    assert (best.word, best.box is not None) == ("red", True)
    assert best.score == pytest.approx(1, abs=0.01)
    assert best.box is not None and best.box[1] >= 0.49  # the lower half of the page is red
    hit = collection.search("heron", k=1)[0]
    assert [(m.word, m.found, m.box) for m in hit.words] == [("heron", "heron", None)]
    page = collection.search("white", k=1, where="path = 'colours.pdf' and page = 3")[0]
    assert page.words[0].found in ("", "plain three", "plain", "three")
    text = json.dumps(hit.to_json())
    assert json.loads(text)["words"][0]["word"] == "heron"


def test_the_page_s_own_word_is_kept_from_the_text_layer(
    collection: Collection, tmp_path: Path
) -> None:
    lines = "\n".join(["a word", *["and more words here"] * 9])
    write_pdf(tmp_path / "w.pdf", [lines])
    collection.add(tmp_path / "w.pdf")
    (hit,) = collection.search("white", k=1)
    traces = collection._ledger.traces(hit.id, hit.metadata["version"])
    assert traces.labels is not None and traces.boxes is not None
    assert len(traces.labels) == len(traces.boxes) == 24
    assert "word" in traces.labels[0]


def test_a_picture_finds_the_page_that_looks_like_it(collection: Collection, papers: Path) -> None:
    collection.add(papers)
    picture = collection.page_image("sub/more.pdf#page=2")
    hits = collection.search(image=picture, k=2)
    assert hits[0].id == "sub/more.pdf#page=2" and hits[0].words == ()
    assert collection.search(image=papers / "sun.png", k=1)[0].id == "sun.png"


def test_filters_and_groups(collection: Collection, papers: Path) -> None:
    collection.add(papers, metadata={"year": 2024})
    (papers / "new.txt").write_text("red herons of next year")
    collection.add(papers / "new.txt", metadata=lambda path: {"year": 2025, "name": path.name})
    assert [h.id for h in collection.search("red", where="year >= 2025")] == ["new.txt"]
    hits = collection.search("red", where="path like ?", params=["sub/%"])
    assert {h.id for h in hits} == {i for i in ALL if i.startswith("sub/")}
    grouped = collection.search("red", group_by="path", k=20)
    assert len(grouped) == 6 and len({h.metadata["path"] for h in grouped}) == 6


def test_only_what_changed_is_read_again(
    collection: Collection, papers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.add(papers)
    again = collection.add(papers)
    assert (again.files_unchanged, again.documents) == (5, 0)
    os.utime(papers / "notes.txt", (1, 1))  # touched, with the same content
    assert collection.add(papers).documents == 0
    (papers / "notes.txt").write_text("A kingfisher sits on the branch.")
    report = collection.add(papers)
    assert (report.files_updated, report.files_unchanged, report.documents) == (1, 4, 1)
    assert collection.search("kingfisher", k=1)[0].words[0].found == "kingfisher"
    assert set(collection.ids()) == ALL
    with monkeypatch.context() as patch:  # size and time alone decide: the content is not even read
        patch.setattr("lateint.sources.digest", lambda path: pytest.fail("read again"))
        collection.add(papers)


def test_a_file_that_shrinks_loses_its_last_pages(collection: Collection, papers: Path) -> None:
    collection.add(papers)
    write_pdf(papers / "colours.pdf", ["orange one"])
    collection.add(papers)
    assert set(collection.ids()) == ALL - {"colours.pdf#page=2", "colours.pdf#page=3"}
    assert len(list((collection.path / "cache" / "pages").iterdir())) == 5


def test_new_metadata_is_taken_over_and_none_keeps_the_old(
    collection: Collection, papers: Path
) -> None:
    collection.add(papers / "notes.txt", metadata={"year": 2024})
    assert collection.add(papers / "notes.txt").documents == 0
    assert collection.add(papers / "notes.txt", metadata={"year": 2025}).files_updated == 1
    (papers / "notes.txt").write_text("other words")
    collection.add(papers / "notes.txt")
    assert collection.search("other", where="year = 2025")[0].id == "notes.txt"
    with pytest.raises(ValueError, match="path"):
        collection.add(papers, metadata={"path": "mine"})


def test_vanished_files_go_only_when_asked(collection: Collection, papers: Path) -> None:
    collection.add(papers)
    (papers / "sub" / "more.pdf").unlink()
    (papers / "sun.png").unlink()
    report = collection.add(papers)
    assert (report.files_removed, report.files_missing) == (0, 2)
    assert collection.search("green", k=1)[0].id == "sub/more.pdf#page=1"
    assert collection.add(papers / "sub", prune=True).files_removed == 1  # sun.png is not below it
    assert set(collection.ids()) == {i for i in ALL if "more.pdf" not in i}


def test_remove_by_file_and_by_page(collection: Collection, papers: Path) -> None:
    collection.add(papers)
    assert collection.remove("sub/more.pdf", "colours.pdf#page=2") == 3
    assert set(collection.ids()) == {
        i for i in ALL if "more.pdf" not in i and i != "colours.pdf#page=2"
    }
    with pytest.raises(CollectionError, match=r"nothing\.pdf"):
        collection.remove("sun.png", "nothing.pdf")
    assert "sun.png" in collection
    report = collection.add(papers)
    assert (report.files_added, report.documents) == (1, 2)
    assert "colours.pdf#page=2" not in collection


def test_bad_files_are_reported_and_stop_nothing(
    collection: Collection, papers: Path, tmp_path: Path
) -> None:
    write_broken(papers / "a-broken.pdf")
    write_encrypted(papers / "b-locked.pdf")
    write_without_pages(papers / "c-empty.pdf")
    write_huge_page(papers / "d-huge.pdf")
    (papers / "e-nothing.pdf").write_bytes(b"")
    (papers / "f-nothing.txt").write_bytes(b"")
    (papers / "g-picture.png").write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    report = collection.add(papers)
    assert set(collection.ids()) == ALL
    reasons = {Path(p.path).name: p.reason for p in report.problems}
    assert sorted(reasons) == sorted(p.name for p in papers.glob("?-*"))
    assert "encrypted" in reasons["b-locked.pdf"] and "page 1" in reasons["d-huge.pdf"]
    assert {Path(p.path).name for p in collection.info().problems} == set(reasons)
    write_pdf(papers / "a-broken.pdf", ["green mended"])
    mended = collection.add(papers)
    assert mended.files_added == 1 and "a-broken.pdf#page=1" in collection
    assert "a-broken.pdf" not in {Path(p.path).name for p in collection.info().problems}


def test_what_a_broken_update_leaves(collection: Collection, papers: Path) -> None:
    collection.add(papers)
    write_broken(papers / "colours.pdf")
    assert len(collection.add(papers).problems) == 1
    assert set(collection.ids()) == ALL


def test_folders_with_the_same_file_names_do_not_clash(
    collection: Collection, papers: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_pdf(other / "colours.pdf", ["violet"])
    collection.add(papers)
    collection.add(other)
    collection.add(papers / "sub")  # below the first folder: the same files
    assert set(collection.ids()) == {*ALL, "other/colours.pdf#page=1"}
    assert collection.add(papers, other).files_unchanged == 6


def test_a_subfolder_added_first_keeps_its_ids(collection: Collection, papers: Path) -> None:
    collection.add(papers / "sub")
    first = set(collection.ids())
    assert first == {"more.pdf#page=1", "more.pdf#page=2", "orange.jpg"}
    collection.add(papers)
    assert first < set(collection.ids()) and len(collection) == 8


def test_page_images_come_from_the_cache_or_are_made_again(
    tmp_path: Path, papers: Path, model: LateInteractionModel
) -> None:
    for keep in (True, False):
        with Collection.create(tmp_path / f"{keep}", model, cache_pages=keep) as collection:
            collection.add(papers)
            cache = tmp_path / f"{keep}" / "cache" / "pages"
            assert (len(list(cache.iterdir())) if cache.exists() else 0) == (7 if keep else 0)
            collection._cache.clear()
            image = collection.page_image("colours.pdf#page=1")
            assert image.size == (278, 417)
            red, green, _ = image.convert("RGB").getpixel((5, 400))
            assert red > 240 and green < 15
            with pytest.raises(CollectionError, match="text"):
                collection.page_image("notes.txt")
            with pytest.raises(CollectionError, match="no such document"):
                collection.page_image("colours.pdf#page=9")
            write_pdf(papers / "sub" / "more.pdf", ["blue now", "x", "y"])
            with pytest.raises(CollectionError, match="changed"):
                collection.page_image("sub/more.pdf#page=1")


def test_another_model_is_refused(
    tmp_path: Path, papers: Path, model: LateInteractionModel
) -> None:
    path = tmp_path / "c"
    Collection.create(path, model).close()
    with pytest.raises(CollectionError, match=r"open\(path, model\)"):
        Collection.open(path).add(papers)
    other = Collection.open(path, toy_model(scale=2.0))
    with pytest.raises(ModelMismatch, match="built with model"):
        other.search("red")
    assert Collection.open(path, toy_model()).add(papers).documents == 8  # the same weights


def test_a_saved_model_is_found_again(
    tmp_path: Path, papers: Path, model: LateInteractionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import modalities

    monkeypatch.setitem(modalities.ENCODERS, HashedText.name, ("toy_model", "HashedText"))
    monkeypatch.setitem(modalities.ENCODERS, ColourPage.name, ("toy_model", "ColourPage"))
    model.save(tmp_path / "model")
    with Collection.create(tmp_path / "c", tmp_path / "model") as collection:
        collection.add(papers)
    with Collection.open(tmp_path / "c") as collection:
        assert collection.search("green", k=1)[0].id == "sub/more.pdf#page=1"


def test_a_model_without_an_encoder_for_pages_still_reads_texts(
    tmp_path: Path, papers: Path
) -> None:
    with Collection.create(
        tmp_path / "c", LateInteractionModel({"text": HashedText()})
    ) as collection:
        report = collection.add(papers)
        assert collection.ids() == ["notes.txt"]
        assert len(report.problems) == 4  # files, which are not opened
        assert all("no encoder for page or image" in p.reason for p in report.problems)


def test_create_and_open_refuse_what_is_not_theirs(
    tmp_path: Path, model: LateInteractionModel
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("dear diary")
    with pytest.raises(CollectionError, match="not a collection"):
        Collection.create(mine, model, overwrite=True)
    assert (mine / "diary.txt").exists()
    with pytest.raises(CollectionError, match="no collection here"):
        Collection.open(mine)
    Collection.create(tmp_path / "c", model).close()
    with pytest.raises(CollectionError, match="overwrite"):
        Collection.create(tmp_path / "c", model)
    Collection.create(tmp_path / "c", model, overwrite=True).close()
    (tmp_path / "c" / "collection.sqlite").write_bytes(b"SQLite format 3\0 no more")
    with pytest.raises(CollectionError, match=r"collection\.sqlite"):
        Collection.open(tmp_path / "c")


def test_one_writer_and_readers_beside_it(
    tmp_path: Path, papers: Path, collection: Collection, model: LateInteractionModel
) -> None:
    collection.add(papers / "notes.txt")
    reader = Collection.open(collection.path, model)
    with collection._writing(), pytest.raises(IndexLocked, match=str(os.getpid())):
        reader.add(papers)
    assert reader.search("heron", k=1)[0].id == "notes.txt"
    collection.add(papers)
    assert len(reader) == 1
    reader.refresh()
    assert len(reader) == 8


def test_bad_questions_are_clear_errors(
    collection: Collection, papers: Path, tmp_path: Path
) -> None:
    assert collection.search("red") == []
    for wrong in ({"query": None}, {"query": "red", "image": papers / "sun.png"}, {"query": "  "}):
        with pytest.raises(CollectionError):
            collection.search(**wrong)
    with pytest.raises(CollectionError, match="no such file"):
        collection.add(tmp_path / "nowhere")


def test_small_windows_and_commits_give_the_same_collection(
    collection: Collection, papers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lateint.ingest, "WINDOW_DOCUMENTS", 2)
    monkeypatch.setattr(lateint.ingest, "COMMIT_DOCUMENTS", 1)
    told: list[tuple[str, int, int, int]] = []
    collection.add(papers, progress=lambda path, *numbers: told.append((path.name, *numbers)))
    assert set(collection.ids()) == ALL
    assert told[0] == ("colours.pdf", 1, 5, 0) and {t[0] for t in told} == {
        p.name for p in papers.rglob("*") if p.is_file()
    }
    collection.remove(*[name for name in ALL if "#" not in name])
    assert collection.add(papers).documents == 3


KILLED = """
    import os, sys
    import lateint.ingest
    from lateint.collection import Collection
    from toy_model import toy_model
    lateint.ingest.WINDOW_DOCUMENTS = lateint.ingest.COMMIT_DOCUMENTS = 2
    with Collection.open(sys.argv[1], toy_model()) as collection:
        def watch(path, number, files, documents):
            if documents >= 5:
                os.kill(os.getpid(), 9)
        collection.add(sys.argv[2], progress=watch)
"""


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, collection: Collection, model: LateInteractionModel
) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    write_pdf(folder / "long.pdf", [f"red page {i}" for i in range(12)])
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(collection.path), str(folder)]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
    assert run.returncode == -9, run.stderr.decode()
    with Collection.open(collection.path, model) as again:
        held = len(again)
        assert 4 <= held < 12  # what was committed before the kill
        report = again.add(folder)
        assert (report.documents, len(again)) == (12 - held, 12)
        assert again.add(folder).files_unchanged == 1


def test_info_counts(collection: Collection, papers: Path) -> None:
    collection.add(papers)
    info = collection.info()
    assert (info.files, info.documents, info.blank) == (5, 8, 0)
    assert info.folders == (str(papers),) and "page" in info.metadata_keys
    assert info.cache_bytes > 1000 and info.tokens > 7 * 24
    assert json.loads(json.dumps(info.to_json()))["documents"] == 8
