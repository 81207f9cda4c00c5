"""Native kernels against the numpy reference: the same integers, floats to 1e-5, on every
instruction set that this processor has (test_kernels_simde.py: those that it has not)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lateint.index import kernels
from lateint.index.kernels import Query, check, reference

native = pytest.importorskip("lateint.index._native", reason="the native kernels were not built")

LEVELS = {  # a plain code's, and a trellis code's
    "1 plain": np.array([-1, 1], np.int8),
    "2 plain": np.array([-10, -3, 3, 10], np.int8),
    "4 plain": np.array([*range(-60, 0, 8), *range(4, 64, 8)], np.int8),
    "1 trellis": np.array([[-30, 11], [-10, 31]], np.int8),
    "2 trellis": np.array([[-31, -11, 3, 18], [-18, -3, 11, 31]], np.int8),
    "4 trellis": np.array([np.r_[-62:62:8], np.r_[-58:63:8]], np.int8),
}
every_code = pytest.mark.parametrize("code", LEVELS)


@pytest.fixture(params=native.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.isa()
    native._set_isa(request.param)
    yield request.param
    native._set_isa(before)


@dataclass
class Case:
    """A collection and a query with everything that the kernels ask for."""

    query: Query
    raw: np.ndarray  # (T, D) float32
    whole: np.ndarray
    steps: np.ndarray
    centroids: np.ndarray  # whole * steps
    scale: np.ndarray
    values: np.ndarray  # (N, D) float32
    codes: np.ndarray
    packed: np.ndarray
    offsets: np.ndarray
    levels: np.ndarray
    factor: np.ndarray
    nbits: int


def case(
    dim: int = 128,
    code: str = "4 trellis",
    tokens: int = 12,
    lengths: tuple[int, ...] = (1, 80, 7, 0, 33, 300),
    centroids: int = 50,
    limit: int = kernels.QUERY_LIMIT,
    seed: int = 0,
) -> Case:
    levels, nbits = LEVELS[code], int(code[0])
    random = np.random.default_rng([seed, dim, nbits, tokens])
    count = sum(lengths)
    whole = random.integers(-127, 128, (centroids, dim)).astype(np.int8)
    steps = random.uniform(0.5, 1.5, centroids).astype(np.float32) / np.float32(73 * dim**0.5)
    centres = whole * steps[:, None]
    codes = random.integers(0, centroids, count).astype(np.uint16)
    scale = random.uniform(0.5, 1.5, dim).astype(np.float32) / np.float32(63 * dim**0.5)
    index = random.integers(0, 1 << nbits, (count, dim)).astype(np.uint8)
    packed = kernels.pack(index, nbits)
    values = reference.reconstruct(codes, packed, centres, scale, levels, None, nbits, 1)
    raw = random.normal(size=(tokens, dim)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    factor = random.uniform(0.8, 1.2, count).astype(np.float32)
    query = kernels.prepare(raw, whole, steps, scale, limit=limit)
    return Case(
        query,
        raw,
        whole,
        steps,
        centres,
        scale,
        values,
        codes,
        packed,
        offsets,
        levels,
        factor,
        nbits,
    )


def scores(by: ModuleType, c: Case, positions: Any = None, factor: Any = None, threads: int = 1):
    q = c.query
    return by.score(
        q.q8, q.step, q.scores, c.codes, c.packed, c.offsets, positions, c.levels, factor, c.nbits,
        threads,
    )  # fmt: skip


def ranged(query: Query) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return query.scores, query.low, query.high


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 16, 17, 24, 33, 70])
@pytest.mark.parametrize("dim", [1, 5, 48, 128, 1024])
def test_product(isa: str, dim: int, tokens: int) -> None:
    c = case(dim=dim, tokens=tokens, centroids=300)
    steps = np.abs(c.raw).max() / 32_000  # half of the query's largest 16-bit step
    off = 1e-4 + steps * np.abs(c.centroids).sum(axis=1).max()
    assert off < 0.01 * dim**0.5
    for threads in (1, 3):
        got = native.product(c.whole, c.steps, c.raw, threads)
        for one, other in zip(got, reference.product(c.whole, c.steps, c.raw, 1), strict=True):
            np.testing.assert_allclose(one, other, 0, off)
    np.testing.assert_allclose(got[0][:, :tokens], c.centroids @ c.raw.T, 0, off)
    assert not got[0][:, tokens:].any()
    np.testing.assert_array_equal(got[1], got[0].min(axis=0))
    np.testing.assert_array_equal(got[2], got[0].max(axis=0))


@pytest.mark.parametrize("count", [1, 7, 8, 120, 128, 129, 300])
@pytest.mark.parametrize("dim", [1, 5, 48, 128, 1024])
def test_nearest(isa: str, dim: int, count: int) -> None:
    """Whole numbers, so that sums are exact and of equal distances the first is the answer."""
    random = np.random.default_rng([dim, count])
    points = random.integers(-9, 10, (77, dim)).astype(np.float32)
    centroids = random.integers(-9, 10, (count, dim)).astype(np.float32)
    half = (centroids**2).sum(axis=1) / 2
    gaps = ((points[:, None] - centroids) ** 2).sum(axis=2)
    for threads in (1, 3):
        got = kernels.nearest(points, centroids, half, threads=threads)
        np.testing.assert_array_equal(got, gaps.argmin(axis=1))
    np.testing.assert_array_equal(reference.nearest(points, centroids, half, 1), got)
    lists = np.sort(random.integers(0, count, (5, 9)).astype(np.uint32), axis=1)
    cells = random.integers(0, 4, len(points))  # the fifth has none
    order = np.argsort(cells, kind="stable")
    ends = np.searchsorted(cells[order], np.arange(6))
    among = np.take_along_axis(gaps, lists[cells].astype(np.int64), axis=1).argmin(axis=1)
    want = lists[cells, among]
    given = (points, order, ends, centroids, half, lists)
    np.testing.assert_array_equal(kernels.nearest_listed(*given, threads=2), want)
    np.testing.assert_array_equal(reference.nearest_listed(*given, 1), want)


def test_lists_of_centroids_that_do_not_fit() -> None:
    points, half = np.zeros((4, 8), np.float32), np.zeros(3, np.float32)
    centroids = np.zeros((3, 8), np.float32)
    good = {
        "order": np.arange(4),
        "ends": i64(0, 4),
        "lists": np.array([[0, 2]], np.uint32),
    }
    for name, bad in (
        ("order", i64(0, 1, 2, 4)),
        ("order", i64(0, 1, 2)),
        ("ends", i64(0, 5)),
        ("ends", i64(-1, 4)),
        ("ends", i64(0, 2, 4)),
        ("lists", np.array([[0, 3]], np.uint32)),
        ("lists", np.zeros((1, 0), np.uint32)),
        ("lists", np.array([[0, 1]], np.int64)),
    ):
        own = {**good, name: bad}
        with pytest.raises(ValueError, match=name):
            kernels.nearest_listed(points, own["order"], own["ends"], centroids, half, own["lists"])
    with pytest.raises(ValueError, match="half"):
        kernels.nearest(points, centroids, half[:2])
    with pytest.raises(ValueError, match="centroids"):
        kernels.nearest(points, centroids[:0], half[:0])


@every_code
@pytest.mark.parametrize("dim", [1, 5, 32, 48, 96, 100, 128, 160, 384, 1024])
def test_score_by_dimension(isa: str, dim: int, code: str) -> None:
    for tokens in (3, 32):
        c = case(dim, code, tokens)
        for factor in (None, c.factor):
            want = scores(reference, c, None, factor)
            np.testing.assert_allclose(scores(native, c, None, factor), want, 1e-5, 1e-5)


@pytest.mark.parametrize("tokens", [*range(1, 71), 300])
def test_score_by_query_length(isa: str, tokens: int) -> None:
    c = case(tokens=tokens, lengths=(1, 2, 3, 5, 31, 32, 33, 64))
    np.testing.assert_allclose(scores(native, c), scores(reference, c), 1e-5, 1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 6, 31, 32, 33, 63, 65, 127, 1000, 5000])
def test_score_by_document_length(isa: str, length: int) -> None:
    c = case(dim=64, tokens=20, lengths=(length, 1, length))
    np.testing.assert_allclose(scores(native, c), scores(reference, c), 1e-5, 1e-5)


@pytest.mark.parametrize("trellis", [False, True])
@pytest.mark.parametrize("nbits", [1, 2, 4])
@pytest.mark.parametrize("dim", [32, 96, 128, 1024])
@pytest.mark.parametrize("size", ["largest", "7 bits", "alternating", "normal"])
def test_integers_are_exact(isa: str, dim: int, nbits: int, size: str, trellis: bool) -> None:
    """With steps of 1 and no centroid scores the results are the integer sums themselves. The
    largest numbers allowed would leave 16 bits if they were added for too long."""
    random = np.random.default_rng(dim)
    tokens, count = 24, 70
    low, high = (-64, 63) if size == "largest" else (-63, 63)
    levels = np.rint(np.linspace(low, high, 1 << nbits)).astype(np.int8)
    if trellis:
        levels = np.stack([levels, levels[::-1]])
    q8 = {
        "largest": np.full((tokens, dim), 127),
        "7 bits": random.choice([-63, 63], (tokens, dim)),
        "alternating": np.tile([127, -127], (tokens, dim // 2)),
        "normal": np.clip(np.rint(random.normal(size=(tokens, dim)) * 20), -63, 63),
    }[size].astype(np.int8)
    index = random.integers(0, 1 << nbits, (count, dim)).astype(np.uint8)
    index[0], index[1], index[2, ::2] = 0, (1 << nbits) - 1, 0
    none = np.zeros(tokens, np.float32)
    query = Query(q8, np.ones(tokens, np.float32), np.zeros((3, tokens), np.float32), none, none)
    packed = kernels.pack(index, nbits)
    got = kernels.score_tokens(query, np.zeros(count, np.uint16), packed, levels)
    want = q8.astype(np.int64) @ meant(index, levels).astype(np.int64).T
    np.testing.assert_array_equal(got, want)


def meant(symbols: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """What symbols (N, D) stand for, one after the other as TRELLIS in the kernels has it."""
    if levels.ndim == 1:
        return np.asarray(levels[symbols])
    stream = 128 // (levels.shape[1].bit_length() - 1)
    out = np.empty(symbols.shape, np.int8)
    for i, row in enumerate(symbols.tolist()):
        one = two = 0
        for d, symbol in enumerate(row):
            if d % stream == 0:
                one = two = 0
            out[i, d] = levels[one, symbol ^ two]
            one, two = symbol & 1, one
    return out


@pytest.mark.parametrize("positions", [None, [], [4], [5, 0, 5, 1, 3]])
@pytest.mark.parametrize("threads", [1, 2])
def test_positions_and_threads(isa: str, positions: list[int] | None, threads: int) -> None:
    c = case(lengths=(1, 80, 7, 0, 33, 300))
    at = None if positions is None else np.array(positions, np.int64)
    table = kernels.table(c.query).bytes
    calls: list[Callable[[ModuleType], Any]] = [
        lambda by: scores(by, c, at, c.factor, threads),
        lambda by: by.half(
            c.raw, c.values.astype(np.float16).view(np.uint16), c.offsets, at, threads
        ),
        lambda by: by.scan(table, c.codes, c.offsets, at, threads),
        lambda by: by.scan_many([table, table[:, ::-1].copy()], c.codes, c.offsets, at, threads),
    ]
    for call in calls:
        want = call(reference)
        got = call(native)
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, 1e-5, 1e-5)


def test_many_documents_on_two_threads(isa: str) -> None:
    random = np.random.default_rng(1)
    c = case(dim=48, tokens=9, lengths=tuple(random.integers(1, 60, 3000).tolist()))
    at = random.permutation(3000).astype(np.int64)[:2500]
    table = kernels.table(c.query).bytes
    for positions in (None, at):
        want = scores(reference, c, positions)
        np.testing.assert_allclose(scores(native, c, positions, None, 2), want, 1e-5, 1e-5)
        got = kernels.scan_many([table] * 3, c.codes, c.offsets, positions, threads=2)
        want = reference.scan(table, c.codes, c.offsets, positions, 1)
        np.testing.assert_array_equal(got, np.stack([want] * 3))
        np.testing.assert_array_equal(
            kernels.scan(table, c.codes, c.offsets, positions, threads=2), want
        )


@pytest.mark.parametrize("tokens", [1, 8, 15, 16, 17, 32, 33, 64, 70])
def test_scan(isa: str, tokens: int) -> None:
    c = case(dim=32, tokens=tokens, lengths=(1, 2, 3, 4, 5, 6, 0, 9, 400), centroids=300)
    made = kernels.table(c.query)
    want = reference.table(*ranged(c.query), tokens, made.bytes.shape[1], 1)
    np.testing.assert_array_equal(made.bytes, want[0])
    np.testing.assert_allclose(made[1:], want[1:], 1e-6)
    assert made.bytes.max() == 255 and not made.bytes[:, tokens:].any()
    np.testing.assert_allclose(  # what the docstring says of bytes, step and base
        made.bytes[:, :tokens].sum(1) * made.step + made.base,
        c.query.scores.sum(1),
        atol=made.step * tokens / 2 * 1.01,
    )
    got = kernels.scan(made.bytes, c.codes, c.offsets)
    np.testing.assert_array_equal(got, reference.scan(made.bytes, c.codes, c.offsets, None, 1))


@pytest.mark.parametrize("dim", [1, 7, 32, 96, 128, 384, 1024])
def test_half(isa: str, dim: int) -> None:
    for tokens in (1, 8, 13, 16, 32, 41):
        c = case(dim=dim, tokens=tokens, lengths=(1, 2, 3, 4, 5, 7, 8, 150))
        values = c.values.astype(np.float16)
        values[0, 0] = np.float16(6e-8)  # subnormal
        got = kernels.half(c.raw, values, c.offsets)
        want = reference.half(c.raw, values.view(np.uint16), c.offsets, None, 1)
        np.testing.assert_allclose(got, want, 1e-5, 1e-5)


@every_code
@pytest.mark.parametrize("dim", [1, 5, 32, 96, 128, 384, 1024])
def test_reconstruct_is_equal_to_the_last_bit(isa: str, dim: int, code: str) -> None:
    c = case(dim=dim, code=code, lengths=(5000,) if dim < 200 else (100,))
    for threads in (1, 2):
        for factor in (None, c.factor):
            args = (c.codes, c.packed, c.centroids, c.scale, c.levels, factor)
            np.testing.assert_array_equal(
                kernels.reconstruct(*args, threads=threads),
                reference.reconstruct(*args, c.nbits, 1),
            )


STRETCHES = np.linspace(0.8, 1.3, 8, dtype=np.float32)


def quantised(c: Case, stretches: np.ndarray, along: float) -> dict[str, Any]:
    """Arguments of `quantise` for tokens around the centroids, levels in units of their spread."""
    random = np.random.default_rng(7)
    count, dim = c.values.shape
    noise = random.normal(size=(count, dim)) * random.uniform(0.1, 0.5, (count, 1)) / dim**0.5
    levels = c.levels.astype(np.float32)
    plain = levels.ndim == 1
    return {
        "values": (c.centroids[c.codes] + noise).astype(np.float32),
        "centroids": c.centroids,
        "codes": c.codes,
        "scale": np.full(dim, 2.5 / levels.max(), np.float32),
        "boundaries": (levels[1:] + levels[:-1]) / 2 if plain else None,
        "levels": c.levels,
        "stretches": stretches,
        "along": along,
    }


def loss(given: dict[str, Any], packed: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """What `quantise` makes small, for each token."""
    args = (given["codes"], packed, given["centroids"], given["scale"], given["levels"], factor)
    values = given["values"].astype(np.float64)
    error = kernels.reconstruct(*args) - values
    along = (error * values).sum(1) ** 2 / np.maximum((values**2).sum(1), 1e-12)
    return (error**2).sum(1) + given["along"] * along


@every_code
@pytest.mark.parametrize("dim", [1, 5, 32, 96, 128, 384, 1024])
def test_quantise(isa: str, dim: int, code: str) -> None:
    c = case(dim=dim, code=code, lengths=(2000,) if dim < 200 else (100,))
    given = quantised(c, STRETCHES, 20.0)
    packed, factor = kernels.quantise(**given, threads=1)
    again = kernels.quantise(**given, threads=2)
    assert np.array_equal(packed, again[0]) and np.array_equal(factor, again[1])
    want = reference.quantise(*given.values(), c.nbits, 1)
    alike = (packed == want[0]).all(axis=1)  # two stretches may be equally good
    assert alike.mean() > 0.97
    np.testing.assert_allclose(factor[alike], want[1][alike], 1e-3)
    # what is left is the small difference of large sums of floats
    np.testing.assert_allclose(loss(given, packed, factor), loss(given, *want), 5e-2, 1e-6)
    for one in STRETCHES[::3]:
        alone = kernels.quantise(**{**given, "stretches": np.array([one])})
        worse = loss(given, packed, factor) > loss(given, *alone) * 1.03 + 1e-6
        assert not (worse & (alone[1] > 0)).any()  # a factor below 0 cannot be kept
    for bend in (0.98, 1.02):  # the factor is the best one
        assert (loss(given, packed, factor) <= loss(given, packed, factor * bend) + 1e-6).all()


def test_the_path_of_a_trellis_code_is_the_best_there_is(isa: str) -> None:
    """Against all sequences of symbols, for tokens so narrow that they can be tried."""
    c = case(dim=5, code="2 trellis", lengths=(40,))
    given = quantised(c, np.ones(1, np.float32), 0.0)
    packed, _ = kernels.quantise(**given)
    left = given["values"] - c.centroids[c.codes]
    unit = left / np.sqrt((left**2).mean(axis=1, keepdims=True))
    sequences = np.stack(np.meshgrid(*[np.arange(4, dtype=np.uint8)] * 5), -1).reshape(-1, 5)
    coded = meant(sequences, c.levels) * given["scale"]
    error = ((unit[:, None] - coded) ** 2).sum(axis=2)
    own = meant(kernels.unpack(packed, 5, 2), c.levels) * given["scale"]
    np.testing.assert_allclose(((unit - own) ** 2).sum(axis=1), error.min(axis=1), 1e-4, 1e-5)


@pytest.mark.parametrize("nbits", [1, 2, 4])
@pytest.mark.parametrize("dim", [1, 3, 8, 100])
def test_pack(dim: int, nbits: int) -> None:
    index = np.random.default_rng(dim).integers(0, 1 << nbits, (9, dim)).astype(np.uint8)
    packed = kernels.pack(index, nbits)
    assert packed.shape == (9, kernels.packed_bytes(dim, nbits))
    np.testing.assert_array_equal(kernels.unpack(packed, dim, nbits), index)
    with pytest.raises(ValueError, match="bits hold"):
        kernels.pack(index + np.uint8(1 << nbits), nbits)


def test_packing_is_as_documented() -> None:
    assert kernels.pack(np.array([[1, 2, 15]], np.uint8), 4).tolist() == [[0x21, 0x0F]]
    assert kernels.pack(np.array([[1, 2, 3, 0]], np.uint8), 2).tolist() == [[0b00111001]]
    assert kernels.pack(np.array([[1, 0, 0, 1, 0]], np.uint8), 1).tolist() == [[0b01001]]


def test_scores_are_close_to_those_of_the_reconstruction(isa: str) -> None:
    """Against floats, not against the reference: the whole formula, not only our two copies."""
    c = case(lengths=(20, 30), tokens=10, limit=127)
    got = kernels.score(c.query, c.codes, c.packed, c.offsets, None, c.levels)
    similar = c.raw @ c.values.T
    want = [similar[:, :20].max(1).sum(), similar[:, 20:].max(1).sum()]
    np.testing.assert_allclose(got, want, atol=0.1)
    tokens = kernels.score_tokens(c.query, c.codes, c.packed, c.levels)
    assert tokens.shape == (10, 50)
    np.testing.assert_allclose(tokens, similar, atol=0.05)
    with_factor = kernels.score_tokens(c.query, c.codes, c.packed, c.levels, c.factor)
    coarse = c.raw @ c.centroids[c.codes].T
    np.testing.assert_allclose(with_factor, coarse + c.factor * (tokens - coarse), atol=1e-4)


@pytest.mark.parametrize(("tokens", "most"), [(1, 1), (7, 3), (9, 16), (33, 1000)])
def test_highest(tokens: int, most: int) -> None:
    c = case(tokens=tokens)
    scores = np.round(4 * c.query.scores) / 4  # some of them equal
    query = replace(c.query, scores=scores)
    got = kernels.highest(query, most)
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, reference.highest(scores, tokens, most))
    wanted = set()
    for column in scores[:, :tokens].T.tolist():
        ranked = sorted(range(len(column)), key=lambda row: (-column[row], row))
        wanted |= set(ranked[:most])
    assert got.tolist() == sorted(wanted)
    with pytest.raises(ValueError, match="most"):
        kernels.highest(query, 0)


@pytest.mark.parametrize("documents", [0, 1, 64, 65, 1000])
def test_probe(documents: int) -> None:
    random = np.random.default_rng(documents)
    count = 0 if not documents else 500
    docs = random.integers(0, max(documents, 1), count).astype(np.uint32)
    offsets = np.sort(random.integers(0, count + 1, 21)).astype(np.int64)
    for cells in ([], [3], [19, 0, 3, 3]):
        chosen = np.array(cells, np.uint32)
        got = kernels.probe(offsets, docs, chosen, documents)
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, reference.probe(offsets, docs, chosen, documents))
        names = {int(d) for cell in cells for d in docs[offsets[cell] : offsets[cell + 1]]}
        assert got.tolist() == sorted(names)


# ---- what a damaged file or a wrong caller may bring


@pytest.fixture(params=["native", "reference"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "reference":
        monkeypatch.setattr(kernels, "_impl", reference)


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


DAMAGE: list[tuple[str, Callable[[Case], dict[str, Any]]]] = [
    ("codes", lambda c: {"codes": np.full_like(c.codes, 50)}),
    ("codes", lambda c: {"codes": np.append(c.codes[:-1], np.uint16(65535))}),
    ("offsets", lambda c: {"offsets": i64(0, 81, 80, 100)}),
    ("offsets", lambda c: {"offsets": i64(-1, 5)}),
    ("offsets", lambda c: {"offsets": i64(0, len(c.codes) + 1)}),
    ("offsets", lambda c: {"offsets": i64(0, 2**62, 2**63 - 1)}),
    ("offsets", lambda c: {"offsets": i64()}),
    ("offsets", lambda c: {"offsets": c.offsets.astype(np.int32)}),
    ("positions", lambda c: {"positions": i64(0, 6)}),
    ("positions", lambda c: {"positions": i64(-1)}),
    ("positions", lambda c: {"positions": i64(2**62)}),
    ("positions", lambda c: {"positions": np.array([0], np.int32)}),
    ("positions", lambda c: {"positions": np.zeros((1, 1), np.int64)}),
    ("codes", lambda c: {"codes": c.codes.astype(np.uint32)}),
    ("codes", lambda c: {"codes": np.repeat(c.codes, 2)[::2]}),
    ("codes", lambda c: {"codes": c.codes.tolist()}),
]


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_damage_is_an_error_that_names_it(name: str, damage: Callable[[Case], Any]) -> None:
    c = case(lengths=(1, 80, 7, 0, 33, 300), centroids=50)
    given = {"codes": c.codes, "offsets": c.offsets, "positions": None, **damage(c)}
    at = given["offsets"], given["positions"]
    table = kernels.table(c.query).bytes
    for threads in (1, 2):
        with pytest.raises(ValueError, match=name):
            kernels.scan(table, given["codes"], *at, threads=threads)
        with pytest.raises(ValueError, match=name):
            kernels.scan_many([table], given["codes"], *at, threads=threads)
        with pytest.raises(ValueError, match=name):
            kernels.score(c.query, given["codes"], c.packed, *at, c.levels, threads=threads)
        if name != "codes":
            with pytest.raises(ValueError, match=name):
                kernels.half(c.raw, c.values.astype(np.float16), *at, threads=threads)


@pytest.mark.usefixtures("both")
def test_arguments_that_do_not_fit() -> None:
    c = case()
    wrong = {
        "packed": [c.packed[:, :-1].copy(), c.packed[:-1], c.packed.astype(np.int8)],
        "levels": [
            c.levels[:1],
            c.levels[:, :3],
            c.levels.T.copy(),
            c.levels.astype("f"),
            np.linspace(-100, 100, 16).astype(np.int8),
        ],
        "factor": [c.factor[:-1], c.factor.astype(np.float64)],
    }
    for name, values in wrong.items():
        for value in values:
            own = {"packed": c.packed, "levels": c.levels, "factor": None, name: value}
            with pytest.raises(ValueError, match=name):
                kernels.score(
                    c.query, c.codes, own["packed"], c.offsets, None, own["levels"], own["factor"]
                )
            with pytest.raises(ValueError, match=name):
                kernels.score_tokens(c.query, c.codes, own["packed"], own["levels"], own["factor"])
            with pytest.raises(ValueError, match=name):
                kernels.reconstruct(
                    c.codes, own["packed"], c.centroids, c.scale, own["levels"], own["factor"]
                )
    with pytest.raises(ValueError, match="table"):
        kernels.scan(np.zeros((9, 24), np.uint8), c.codes, c.offsets)
    with pytest.raises(ValueError, match="threads"):
        kernels.scan(kernels.table(c.query).bytes, c.codes, c.offsets, threads=-1)
    with pytest.raises(ValueError, match="values"):
        kernels.half(c.raw, c.values, c.offsets)
    with pytest.raises(ValueError, match="contiguous"):
        kernels.half(c.raw[:, ::-1], c.values.astype(np.float16), c.offsets)
    bad = c.codes.copy()
    bad[9] = 999
    given = quantised(c, STRETCHES, 1.0)
    with pytest.raises(ValueError, match="codes: token 9 names centroid 999; there are 50"):
        kernels.quantise(**{**given, "codes": bad})
    with pytest.raises(ValueError, match="codes"):
        kernels.reconstruct(bad, c.packed, c.centroids, c.scale, c.levels)
    plain = {**given, "levels": LEVELS["4 plain"]}
    for limits in (None, np.zeros(3, np.float32), np.arange(15, dtype=np.float32)[::-1].copy()):
        with pytest.raises(ValueError, match="boundaries"):
            kernels.quantise(**{**plain, "boundaries": limits})
    with pytest.raises(ValueError, match="scale"):
        kernels.quantise(**{**given, "scale": 0 * c.scale})
    with pytest.raises(ValueError, match="levels"):
        kernels.quantise(**{**given, "levels": c.levels[:1]})
    for wrong in ([], [0.0], [np.nan]):
        with pytest.raises(ValueError, match="stretches"):
            kernels.quantise(**{**given, "stretches": np.array(wrong, np.float32)})


@pytest.mark.usefixtures("both")
def test_lists_that_do_not_fit() -> None:
    offsets, docs = i64(0, 2, 5), np.array([0, 1, 2, 3, 9], np.uint32)
    for match, args in {
        "cells": (offsets, docs, np.array([2], np.uint32), 10),
        "list_docs": (offsets, docs, np.array([1], np.uint32), 9),
        "list_offsets": (i64(0, 6), docs, np.array([0], np.uint32), 10),
        "documents": (offsets, docs, np.array([0], np.uint32), -1),
    }.items():
        with pytest.raises(ValueError, match=match):
            kernels.probe(*args)
    with pytest.raises(ValueError, match="rise"):
        kernels.probe(i64(0, 3, 2), docs, np.array([1], np.uint32), 10)


def test_queries_that_do_not_fit() -> None:
    c = case()
    with pytest.raises(ValueError, match="NaN"):
        kernels.prepare(np.full_like(c.raw, np.nan), c.whole, c.steps, c.scale)
    with pytest.raises(ValueError, match="tokens"):
        kernels.prepare(c.raw[:0], c.whole, c.steps, c.scale)
    with pytest.raises(ValueError, match="limit"):
        kernels.prepare(c.raw, c.whole, c.steps, c.scale, limit=128)
    with pytest.raises(ValueError, match="-128"):
        replace(c.query, q8=np.full_like(c.query.q8, -128))
    with pytest.raises(ValueError, match="scores"):
        replace(c.query, scores=c.query.scores[:, :-1].copy())


def test_a_zero_query_token_is_fine(isa: str) -> None:
    c = case(tokens=2)
    query = kernels.prepare(np.zeros_like(c.raw), c.whole, c.steps, c.scale)
    got = kernels.score(query, c.codes, c.packed, c.offsets[:3], None, c.levels)
    np.testing.assert_array_equal(got, 0)
    assert not kernels.table(query).bytes.any()


def test_read_only_arrays_are_taken(isa: str) -> None:
    c = case()
    for array in (c.codes, c.packed, c.offsets, c.levels):
        array.flags.writeable = False  # as they come out of a mapped file
    scores(native, c)


def test_missing_extension_is_one_visible_warning() -> None:
    code = (
        "import sys, warnings; sys.modules['lateint.index._native'] = None\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('default')\n"
        "    from lateint.index import kernels\n"
        "    import lateint.index.kernels.query\n"
        "assert [w.category for w in seen] == [RuntimeWarning], seen\n"
        "assert 'C++17' in str(seen[0].message) and kernels.native() is None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_import_costs_little() -> None:
    code = (
        "import numpy, lateint.index, sys, time; start = time.process_time()\n"
        "import lateint.index.kernels; took = time.process_time() - start\n"
        "assert 'torch' not in sys.modules; assert took < 0.1, took\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_threads_of_this_process() -> None:
    assert check.threads(0) >= 1 and check.threads(3) == 3
