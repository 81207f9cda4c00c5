"""What many tests share: the model that ships, loaded once, and the fixtures indexed once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # a core each: before torch counts them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from lateint.collection import Collection
    from lateint.model import LateInteractionModel

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def _offline() -> None:
    """No test may reach a model hub, nor find a collection or settings of the person who runs it."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in [name for name in os.environ if name.startswith("LATEINT_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def shipped() -> LateInteractionModel:
    """The model that ships. Not to be changed by a test."""
    from lateint.model import load

    return load()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The documents that ship. Not to be changed by a test."""
    return ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def indexed(
    tmp_path_factory: pytest.TempPathFactory, shipped: LateInteractionModel, fixtures: Path
) -> Iterator[Collection]:
    """The PDFs, pictures and texts of the fixtures, indexed with the model that ships. Only for
    reading: a test that writes takes `indexed_copy`."""
    from lateint.collection import Collection

    folder = tmp_path_factory.mktemp("indexed")
    with Collection.create(folder / "c.lateint") as collection:
        collection.add(fixtures)
        yield collection


@pytest.fixture
def indexed_copy(tmp_path: Path, indexed: Collection) -> Path:
    """The folder of a collection of the fixtures that a test may write to."""
    return Path(shutil.copytree(indexed.path, tmp_path / "copy.lateint"))
