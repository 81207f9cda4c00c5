from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lateint.pagecache import LONGEST, PageCache


@pytest.fixture
def cache(tmp_path: Path) -> PageCache:
    return PageCache(tmp_path / "cache" / "pages")


def test_a_picture_comes_back_for_its_version_only(cache: PageCache) -> None:
    assert cache.get("a.pdf#page=1", "v1") is None and cache.size() == 0
    cache.put("a.pdf#page=1", "v1", Image.new("RGB", (40, 30), "red"))
    kept = cache.get("a.pdf#page=1", "v1")
    assert kept is not None and kept.size == (40, 30)
    red, green, _ = kept.getpixel((5, 5))
    assert red > 240 and green < 20
    assert cache.get("a.pdf#page=1", "v2") is None and cache.get("a.pdf#page=2", "v1") is None
    assert cache.size() == cache.path("a.pdf#page=1").stat().st_size
    cache.put("a.pdf#page=1", "v2", Image.new("L", (40, 30), "white"))
    assert cache.get("a.pdf#page=1", "v1") is None and cache.get("a.pdf#page=1", "v2") is not None


@pytest.mark.parametrize("document", ["../../etc/passwd", "a/b\n.pdf", "x" * 4000, "\ud800"])
def test_any_id_is_one_file_in_the_folder(cache: PageCache, document: str) -> None:
    cache.put(document, "v", Image.new("RGBA", (9, 9)))
    assert [p.parent for p in cache.folder.iterdir()] == [cache.folder]
    assert cache.get(document, "v") is not None


def test_large_pictures_are_made_smaller(cache: PageCache) -> None:
    cache.put("a", "v", Image.new("L", (2 * LONGEST, 100)))
    kept = cache.get("a", "v")
    assert kept is not None and kept.size == (LONGEST, 50)


def test_it_can_go_at_any_time_and_a_damaged_picture_is_none(cache: PageCache) -> None:
    for name in ("a", "b"):
        cache.put(name, "v", Image.effect_noise((60, 60), 90))
    whole = cache.path("a").read_bytes()
    cache.path("a").write_bytes(whole[: len(whole) // 2])
    assert cache.get("a", "v") is None
    cache.path("a").write_bytes(b"")
    assert cache.get("a", "v") is None
    cache.drop(["a", "never kept"])
    assert len(list(cache.folder.iterdir())) == 1
    cache.clear()
    cache.clear()
    assert not cache.folder.exists() and cache.get("b", "v") is None


def test_a_disk_that_refuses_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = PageCache(tmp_path / "file" / "pages")
    cache.put("a", "v", Image.new("L", (9, 9)))
    assert cache.get("a", "v") is None
