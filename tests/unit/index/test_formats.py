"""Indexes of every format there has been open, answer as they did, and go on with the next write."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from index_helpers import ROOT

from lateint.index import Index, manifest

FIXTURES = sorted((ROOT / "tests" / "fixtures").glob("index-v*.json"))


def test_a_fixture_for_each_format() -> None:
    wanted = range(manifest.OLDEST, manifest.FORMAT + 1)
    assert [path.stem for path in FIXTURES] == [f"index-v{n}" for n in wanted]


@pytest.mark.parametrize("answers", FIXTURES, ids=lambda path: path.stem)
def test_opens_answers_and_goes_on(tmp_path: Path, answers: Path) -> None:
    said = json.loads(answers.read_text())
    path = tmp_path / "i"
    shutil.copytree(answers.with_suffix(""), path)

    def check(index: Index) -> None:
        ids = said["ids"]
        queries = [np.asarray(query, np.float32) for query in said["queries"]]
        assert index.ids() == ids
        assert index.metadata(ids) == said["metadata"] and index.texts(ids) == said["texts"]
        sums = [matrix.sum() for matrix in index.reconstruct(ids)]
        np.testing.assert_allclose(sums, said["sums"], rtol=1e-3, atol=1e-3)
        for row, wanted in zip(index.search(queries, k=5), said["hits"], strict=True):
            assert [hit.id for hit in row] == [name for name, _ in wanted]
            scores = [score for _, score in wanted]
            np.testing.assert_allclose([hit.score for hit in row], scores, rtol=1e-4)
        index.verify()

    with Index.open(path, model="fixture") as index:
        check(index)
        assert index.info().format == said["version"]  # reading changes nothing
        assert index.info().tokens == said["tokens"]
    with Index.open(path, write=True) as index:
        check(index)
        index.add(["new"], [np.eye(index.dim)[:2]])
        assert index.info().format == manifest.FORMAT
        index.delete(["new"])
        check(index)
        index.compact()
        check(index)
    with Index.open(path) as index:
        check(index)


def test_readers_of_an_older_format_keep_their_snapshot(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES[0].with_suffix(""), tmp_path / "i")
    with Index.open(tmp_path / "i") as reader, Index.open(tmp_path / "i", write=True) as index:
        ids = reader.ids()
        index.delete([ids[0]])
        assert reader.ids() == ids and reader.info().format == 1
        reader.verify()
        reader.refresh()
        assert reader.ids() == ids[1:] and reader.info().format == manifest.FORMAT


def test_an_upgrade_that_fails_leaves_the_old_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(FIXTURES[0].with_suffix(""), tmp_path / "i")
    with Index.open(tmp_path / "i", write=True) as index:
        monkeypatch.setattr(
            index._storage.catalog, "insert", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            index.add(["new"], [np.eye(index.dim)[:2]])
    db = sqlite3.connect(tmp_path / "i" / "index.sqlite")
    columns = [row[1] for row in db.execute("PRAGMA table_info(segments)")]
    db.close()
    assert "codec" not in columns
    with Index.open(tmp_path / "i") as index:
        assert index.info().format == 1
        index.verify()
