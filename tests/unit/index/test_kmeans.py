"""Two-level k-means on points with a known structure."""

from __future__ import annotations

import numpy as np
import pytest

from lateint.index import kernels, kmeans
from lateint.index.kernels import reference


def clustered(count: int, dim: int, clusters: int, spread: float, seed: int = 0) -> np.ndarray:
    """Unit rows around `clusters` random directions."""
    random = np.random.default_rng(seed)
    middles = random.normal(size=(clusters, dim))
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    rows = middles[random.integers(0, clusters, count)]
    rows = rows + random.normal(size=(count, dim)) * spread / dim**0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def energy(points: np.ndarray, centroids: np.ndarray, codes: np.ndarray) -> float:
    return float(((points - centroids[codes]) ** 2).sum(axis=1).mean())


def test_one_level_finds_the_clusters() -> None:
    points = clustered(2000, 32, 20, 0.2)
    centroids = kmeans.train(points, 64)
    assert energy(points, centroids, kmeans.nearest(points, centroids)) < 0.045


def test_two_levels_are_nearly_as_good_as_comparing_with_all() -> None:
    points = clustered(24_000, 32, 500, 0.6)
    train, test = points[:20_000], points[20_000:]
    centroids = kmeans.train(train, 1500)
    cells = kmeans.Cells.over(centroids)
    assert len(cells.middles)  # two levels
    found, best = cells.assign(test), kmeans.nearest(test, centroids)
    assert (found == best).mean() > 0.9
    assert energy(test, centroids, found) < 1.02 * energy(test, centroids, best)
    random = train[np.random.default_rng(1).choice(len(train), 1500, replace=False)]
    drawn = kmeans.nearest(test, random)
    assert energy(test, centroids, found) < 0.8 * energy(test, random, drawn)


def test_the_same_seed_gives_the_same_bytes_with_any_threads() -> None:
    points = clustered(6000, 16, 100, 0.5)
    first = kmeans.train(points, 1100, seed=3, threads=1)
    assert first.tobytes() == kmeans.train(points, 1100, seed=3, threads=2).tobytes()
    assert first.tobytes() != kmeans.train(points, 1100, seed=4).tobytes()


def test_half_precision_points_are_enough() -> None:
    points = clustered(4000, 32, 50, 0.4)
    full = kmeans.train(points, 128)
    half = kmeans.train(points.astype(np.float16), 128)
    lost = energy(points, half, kmeans.nearest(points, half))
    assert lost < 1.02 * energy(points, full, kmeans.nearest(points, full))


def test_a_code_does_not_depend_on_the_points_beside_it() -> None:
    points = clustered(5000, 16, 100, 0.5)
    cells = kmeans.Cells.over(kmeans.train(points, 1200))
    together = cells.assign(points)
    assert np.array_equal(together[100:130], cells.assign(points[100:130]))
    assert np.array_equal(together[::-1], cells.assign(points[::-1]))


def test_the_reference_assigns_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    points = clustered(5000, 16, 100, 0.5)
    cells = kmeans.Cells.over(kmeans.train(points, 1200))
    native = cells.assign(points)
    monkeypatch.setattr(kernels, "_impl", reference)
    assert (cells.assign(points) == native).mean() > 0.999  # equal but for the last bit of a sum


def test_equal_points_and_as_many_centroids_as_points() -> None:
    same = np.tile(np.eye(1, 8, dtype=np.float32), (50, 1))
    centroids = kmeans.train(same, 5)
    assert np.isfinite(centroids).all()
    np.testing.assert_allclose(centroids[kmeans.nearest(same, centroids)], same)
    points = clustered(40, 8, 40, 1.0)
    centroids = kmeans.train(points, 40)
    np.testing.assert_allclose(centroids[kmeans.nearest(points, centroids)], points, atol=1e-6)


@pytest.mark.parametrize(
    ("sample", "count", "message"),
    [
        (np.zeros((3, 4)), 4, "ask for 1 to 3"),
        (np.zeros((3, 4)), 0, "ask for 1 to 3"),
        (np.zeros(4), 1, "one row at least"),
        (np.zeros((0, 4)), 1, "one row at least"),
        (np.zeros((3, 4), np.int64), 1, "wanted floats"),
        (np.array([[0.0, 1], [np.nan, 0]]), 1, "point 1 has NaN"),
    ],
)
def test_what_cannot_be_trained(sample: np.ndarray, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kmeans.train(sample, count)
