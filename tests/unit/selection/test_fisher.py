"""Fisher selection against references: determinants and traces in full, and exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.selection import fisher, select


def full_gain(A, x, F, criterion):
    grown = A + np.outer(x, x)
    if criterion == "logdet":
        return np.linalg.slogdet(grown)[1] - np.linalg.slogdet(A)[1]
    return np.trace(np.linalg.solve(A, F)) - np.trace(np.linalg.solve(grown, F))


def reference(X, budget, ridge, criterion, warm=()):
    """Return picks and gains with every candidate's determinant or trace computed anew."""
    X = X.astype(np.float64)
    A = ridge * np.eye(X.shape[1]) + X[list(warm)].T @ X[list(warm)]
    F = X.T @ X / len(X)
    taken, rows, gains = set(warm), [], []
    for _ in range(budget):
        values = [-np.inf if i in taken else full_gain(A, x, F, criterion) for i, x in enumerate(X)]
        row = int(np.argmax(values))
        rows.append(row)
        gains.append(values[row])
        taken.add(row)
        A = A + np.outer(X[row], X[row])
    return rows, gains


@pytest.mark.parametrize("criterion", fisher.CRITERIA)
@pytest.mark.parametrize("seed", range(10))
def test_the_updates_pick_what_full_determinants_and_traces_pick(seed, criterion):
    rng = np.random.default_rng(seed)
    n, d = 30 + 7 * seed, 2 + seed
    X = (rng.normal(size=(n, d)) * np.linspace(2, 0.2, d)).astype(np.float32)
    ridge = [1e-2, 1.0, 30.0][seed % 3]
    expected, gains = reference(X, 25, ridge, criterion)
    chosen = select(X, 25, "fisher", ridge=ridge, criterion=criterion)
    assert chosen.indices.tolist() == expected
    assert chosen.gains == pytest.approx(gains, rel=1e-7, abs=1e-10)


def exact_terms(A, F, x):
    """Return g = x'A^-1 x and x'A^-1 F A^-1 x in exact fractions."""
    d = len(x)
    rows = [[*A[i], x[i]] for i in range(d)]
    for i in range(d):  # A is positive definite: no pivoting
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for j in range(d):
            if j != i:
                rows[j] = [a - rows[j][i] * b for a, b in zip(rows[j], rows[i], strict=True)]
    u = [row[-1] for row in rows]
    g = sum(a * b for a, b in zip(x, u, strict=True))
    q = sum(u[i] * F[i][j] * u[j] for i in range(d) for j in range(d))
    return g, q


def exact_reference(X, budget, ridge, criterion):
    rows = [[Fraction(int(v)) for v in row] for row in X]
    n, d = len(rows), len(rows[0])
    A = [[Fraction(ridge) if i == j else Fraction(0) for j in range(d)] for i in range(d)]
    F = [[sum(r[i] * r[j] for r in rows) / n for j in range(d)] for i in range(d)]
    picked = []
    for _ in range(budget):
        best, chosen = None, -1
        for i in (i for i in range(n) if i not in picked):
            g, q = exact_terms(A, F, rows[i])
            value = g if criterion == "logdet" else q / (1 + g)
            if best is None or value > best:
                best, chosen = value, i
        picked.append(chosen)
        x = rows[chosen]
        A = [[A[i][j] + x[i] * x[j] for j in range(d)] for i in range(d)]
    return picked


@pytest.mark.parametrize("criterion", fisher.CRITERIA)
@pytest.mark.parametrize("seed", range(8))
def test_exact_ties_go_to_the_lowest_row(seed, criterion):
    """Small integers tie all the time (copies, signs, zeros); fractions settle who is equal."""
    X = np.random.default_rng(seed).integers(-1, 2, size=(24, 3)).astype(np.float32)
    found = select(X, 24, "fisher", criterion=criterion, ridge=1.0).indices
    assert found.tolist() == exact_reference(X, 24, 1, criterion)


@pytest.mark.parametrize("criterion", fisher.CRITERIA)
def test_a_tiny_ridge_does_not_drown_later_picks_in_rounding(criterion):
    rng = np.random.default_rng(0)
    X = rng.integers(-3, 4, size=(40, 4)).astype(np.float32)
    ridge = 2.0**-30  # the gains fall by nine orders once the space is spanned
    rows = select(X, 30, "fisher", criterion=criterion, ridge=ridge).indices
    assert rows.tolist() == exact_reference(X, 30, Fraction(1, 2**30), criterion)


def test_unit_rows_near_a_tie_are_told_apart():
    """Unit rows in float32 differ in length by rounding only, and that decides the first pick."""
    X = np.random.default_rng(1).normal(size=(500, 64)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    length = np.array([np.dot(x, x) for x in X.astype(np.float64)])
    assert select(X, 1, "fisher").indices.tolist() == [int(np.argmax(length))]


@pytest.mark.parametrize("criterion", fisher.CRITERIA)
def test_degenerate_pools(criterion):
    zeros = select(np.zeros((4, 3), np.float32), 4, "fisher", criterion=criterion)
    assert zeros.indices.tolist() == [0, 1, 2, 3]
    assert zeros.gains.tolist() == [0, 0, 0, 0]
    constant = select(np.ones((4, 3), np.float32), 4, "fisher", criterion=criterion)
    assert constant.indices.tolist() == [0, 1, 2, 3]
    mixed = np.array([[0, 0], [1, 0], [0, 0], [2, 0]], np.float32)
    assert select(mixed, 4, "fisher", criterion=criterion).indices.tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize("criterion", fisher.CRITERIA)
def test_a_warm_start_is_part_of_the_information(criterion):
    X = np.random.default_rng(4).normal(size=(40, 5)).astype(np.float32)
    expected, _ = reference(X, 10, 1.0, criterion, warm=[3, 8])
    found = select(X, 10, "fisher", criterion=criterion, warm_start=[3, 8])
    assert found.indices.tolist() == expected
    whole = select(X, 12, "fisher", criterion=criterion).indices
    rest = select(X, 10, "fisher", criterion=criterion, warm_start=whole[:2])
    assert rest.indices.tolist() == whole[2:].tolist()


def test_by_hand():
    # A = I, x = (3, 4): the gain is ln(1 + 25).
    found = select(np.array([[1, 0], [3, 4]], np.float32), 2, "fisher", ridge=1.0)
    assert found.indices.tolist() == [1, 0]
    # Then A = [[10, 12], [12, 17]], det 26; x = (1, 0): x'A^-1 x = 17/26.
    assert found.gains == pytest.approx([np.log(26), np.log(1 + 17 / 26)])


def test_log_det_gains_add_up_and_never_grow():
    X = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    chosen = select(X, 120, "fisher", ridge=0.5)
    picked = X[chosen.indices].astype(np.float64)
    whole = np.linalg.slogdet(0.5 * np.eye(12) + picked.T @ picked)[1] - 12 * np.log(0.5)
    assert chosen.gains.sum() == pytest.approx(whole)
    assert (np.diff(chosen.gains) <= 1e-12).all()


def test_the_eager_and_the_lazy_log_determinant_agree():
    X = np.random.default_rng(5).normal(size=(200, 8)).astype(np.float32)
    state = fisher.Gains(X, 1.0, "logdet", np.array([], dtype=np.int64))
    open_rows = np.ones(200, dtype=bool)
    for row in select(X, 60, "fisher").indices:
        assert state.best(open_rows) == row
        open_rows[row] = False
        state.take(int(row), open_rows)


@pytest.mark.parametrize("criterion", fisher.CRITERIA)
@given(st.data())
@settings(max_examples=40, deadline=None)
def test_picks_are_exact_on_small_integers(criterion, data):
    n, d = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 3))
    rows = st.lists(st.integers(-2, 2), min_size=d, max_size=d)
    X = np.array(data.draw(st.lists(rows, min_size=n, max_size=n)), np.float32)
    budget = data.draw(st.integers(1, n))
    ridge = data.draw(st.sampled_from([Fraction(1, 4), Fraction(1), Fraction(64)]))
    found = select(X, budget, "fisher", criterion=criterion, ridge=float(ridge)).indices
    assert found.tolist() == exact_reference(X, budget, ridge, criterion)


@pytest.mark.parametrize("criterion", fisher.CRITERIA)
def test_rows_one_float32_step_apart_are_told_apart(criterion):
    rng = np.random.default_rng(3)
    near = rng.normal(size=(1, 3)).astype(np.float32)
    X = np.repeat(near, 12, axis=0)
    X.view(np.int32)[:] += rng.integers(-3, 4, size=X.shape)
    exact = X.astype(np.float64).view()
    picked = select(X, 12, "fisher", criterion=criterion).indices.tolist()
    assert picked == fraction_floats(exact, 12, criterion)


def fraction_floats(X, budget, criterion):
    """Return the exact picks of rows of any floats, scaled to whole numbers."""
    scale = 2**40
    whole = np.array([[int(Fraction(float(v)) * scale) for v in row] for row in X], dtype=object)
    return exact_reference(whole, budget, Fraction(scale) ** 2, criterion)


def long_run(X, budget, ridge):
    """Return the picks of log det with every value made anew from the inverse at every pick."""
    X = X.astype(np.float64)
    inverse, taken = np.eye(X.shape[1]) / ridge, []
    for _ in range(budget):
        values = np.einsum("ij,ij->i", X @ inverse, X)
        values[taken] = -np.inf
        taken.append(int(np.argmax(values)))
        A = ridge * np.eye(X.shape[1]) + X[taken].T @ X[taken]
        inverse = np.linalg.inv(A)
    return taken


@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_a_long_run_keeps_to_the_reference(monkeypatch, spread):
    """Every way to a value is taken: rank-one updates, values made anew, fronts chosen anew."""
    from seedtalk.selection import pool, tables

    monkeypatch.setattr(pool, "_FRONT", 16)
    calls = {"along": 0, "spread": 0}
    for name in calls:
        real = getattr(tables.HostTable, name)

        def counted(self, *given, real=real, name=name):
            calls[name] += 1
            return real(self, *given)

        monkeypatch.setattr(tables.HostTable, name, counted)
    rng = np.random.default_rng(1)
    X = rng.normal(size=(900, 6)) * np.exp(-spread * rng.random((900, 1)))
    X = X.astype(np.float32)
    assert select(X, 400, "fisher", ridge=0.1).indices.tolist() == long_run(X, 400, 0.1)
    assert min(calls.values()) > 10


def test_the_lazy_search_updates_a_part_of_the_pool(monkeypatch):
    from seedtalk.selection import tables

    seen = []
    real = tables.HostTable.along
    monkeypatch.setattr(
        tables.HostTable,
        "along",
        lambda self, z, known, at: seen.append(len(at)) or real(self, z, known, at),
    )
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 10)) * rng.random((4000, 1))
    select(X.astype(np.float32), 200, "fisher")
    assert 200 < sum(seen) < 0.1 * 4000 * 200


@pytest.mark.parametrize("criterion", fisher.CRITERIA)
def test_a_ridge_that_rounding_swallows_is_refused(criterion):
    X = 1e8 * np.ones((4, 2), np.float32)
    with pytest.raises(InputError, match=r"select\.ridge: 1 is lost .* set it to 2e\+03 or more"):
        select(X, 2, "fisher", criterion=criterion, ridge=1.0)
    X = np.full((4, 2), 1e200)
    with pytest.raises(InputError, match=r"select\.ridge"):
        select(X, 2, "fisher", criterion=criterion)


@pytest.mark.parametrize("power", [16, 18, 20])
@pytest.mark.parametrize("seed", range(4))
def test_values_that_collapse_are_made_anew(seed, power):
    """The first pick takes all but a trillionth of every value; what is left decides by little."""
    rng = np.random.default_rng(seed)
    X = np.zeros((14, 4), np.float32)
    X[:, 0] = rng.permutation(14) + 2.0**power
    X[np.arange(14), rng.integers(1, 4, 14)] = rng.choice([-1, 1], 14)
    X[X[:, 0].argmax(), 1:] = 0
    found = select(X, 4, "fisher", ridge=1.0).indices
    assert found.tolist() == exact_reference(X, 4, 1, "logdet")
