"""The pool's quotas against their definition, and the searches against looking at everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.selection import pool as pools
from seedtalk.selection.pool import Front, Pool, contenders, lowest_best


@given(st.lists(st.integers(0, 9), min_size=1, max_size=200), st.integers(0, 5))
def test_the_lazy_search_finds_every_row_near_the_best(values, slack):
    exact = np.array(values, float)
    upper = exact + np.random.default_rng(0).random(len(exact)) * 3
    rows, found = contenders(upper, lambda at: exact[at], float(slack))
    assert sorted(rows.tolist()) == np.flatnonzero(exact >= exact.max() - slack).tolist()
    assert (found == exact[rows]).all()


@given(st.integers(0, 10_000), st.integers(1, 40), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_front_finds_what_a_search_of_all_rows_finds(seed, size, rise):
    """Values move by up to `rise` a step and rows close; the front never misses a leader."""
    rng = np.random.default_rng(seed)
    n = 120
    exact = rng.integers(0, 8, n) / 4
    known, when, now = exact + rng.random(n), np.zeros(n), 0

    def bounds(at):
        return known[at] + rise * (now - when[at])

    def evaluate(at):
        known[at], when[at] = exact[at], now
        return exact[at]

    def outside(bound):
        return bound + rise * (now - chosen)

    front = Front(bounds, evaluate, n)
    front._size = size
    open_rows, chosen = np.ones(n, dtype=bool), 0
    for now in range(60):
        rows, values, renewed = front.contenders(open_rows, outside, 1e-9)
        chosen = now if renewed else chosen
        best = exact[open_rows].max()
        assert sorted(rows) == np.flatnonzero(open_rows & (exact >= best - 1e-9)).tolist()
        assert (values == exact[rows]).all()
        open_rows[rows[0]] = False
        if now % 20 == 0:
            open_rows[rng.integers(0, n, 10)] = False
        exact = exact + rise * (rng.random(n) * 2 - 1)


def test_a_front_looks_at_all_rows_only_when_it_must(monkeypatch):
    monkeypatch.setattr(pools, "_FRONT", 50)
    n, whole = 800, []
    value = np.random.default_rng(0).random(n)

    def bounds(at):
        whole.append(isinstance(at, slice))
        return value[at]

    front, open_rows = Front(bounds, lambda at: value[at], n), np.ones(n, dtype=bool)
    order = np.argsort(-value)
    for pick in range(200):
        rows, _, _ = front.contenders(open_rows, lambda bound: bound, 0.0)
        assert rows.tolist() == [order[pick]]
        open_rows[order[pick]] = False
    assert sum(whole) == 2 * 4  # 200 picks, 50 in a front


def test_reachable_counts_what_quota_and_pool_leave():
    rows = Pool(7, np.array(list("aaabbcc")), max_per_item=2, taken=[0, 3])
    assert rows.reachable() == 1 + 1 + 2
    rows.take(1)
    assert rows.open.tolist() == [False, False, False, False, True, True, True]
    assert Pool(7).reachable() == 7


def feasible(taken, budget, items, groups, most, least):
    """Whether quotas can still be met: by definition, from the rows taken so far."""
    n, need = len(items), 0
    for group in set(groups):
        had = sum(groups[r] == group for r in taken)
        can = 0
        for item in {items[i] for i in range(n) if groups[i] == group}:
            free = sum(items[i] == item and i not in taken for i in range(n))
            left = most - sum(items[r] == item for r in taken) if most else free
            can += max(0, min(free, left))
        lacks = max(0, least - had)
        if lacks > can:
            return False
        need += lacks
    return need <= budget


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_row_is_open_where_the_quotas_can_still_be_met_after_it(data):
    n = data.draw(st.integers(2, 9))
    items = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    groups = np.array(["p", "q", "p", "r"])[items]
    most, least = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
    warm = data.draw(st.lists(st.integers(0, n - 1), max_size=2, unique=True))
    rows = Pool(n, items, most, warm)
    if not rows.reachable():
        return
    budget = data.draw(st.integers(1, rows.reachable()))
    taken = set(warm)
    if not feasible(taken, budget, items, groups, most, least):
        with pytest.raises(InputError, match=r"select\.min_per_group"):
            rows.reserve(groups, least, budget, items)
        return
    rows.reserve(groups, least, budget, items)
    for left in range(budget, 0, -1):
        for row in range(n):
            under = not most or sum(items[r] == items[row] for r in taken) < most
            allowed = row not in taken and under
            allowed = allowed and feasible(taken | {row}, left - 1, items, groups, most, least)
            assert rows.open[row] == allowed
        row = data.draw(st.sampled_from(np.flatnonzero(rows.open).tolist()))
        rows.take(row)
        taken.add(row)
    assert all(sum(groups[r] == g for r in taken) >= least for g in set(groups))


def test_what_groups_cannot_give_is_named_with_its_numbers():
    items, groups = np.array([0, 0, 1, 2, 2]), np.array(["a", "a", "a", "b", "b"])
    with pytest.raises(
        InputError,
        match=r"min_per_group: 3 seeds of group 'b' .*, but it has 1 and can give 1 more",
    ):
        Pool(5, items, 2, [3]).reserve(groups, 3, 4)
    with pytest.raises(
        InputError, match=r"the groups lack 3 seeds \('a' 2, 'b' 1\), over the budget of 2"
    ):
        Pool(5, items, 0, [4]).reserve(groups, 2, 2)
    with pytest.raises(InputError, match=r"item '0' has group 'a' in row 1 and 'b' in row 2"):
        Pool(2).reserve(np.array(["a", "b"]), 1, 2, np.array([0, 0]))


def test_ties_go_to_the_lowest_row():
    rows, values = np.array([7, 3, 5]), np.array([1.0, 1.0 - 1e-13, 0.5])
    assert lowest_best(rows, values) == (3, 1.0 - 1e-13)
