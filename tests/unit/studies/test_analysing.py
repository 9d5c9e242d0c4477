import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, ttest_1samp

from seedtalk.errors import InputError
from seedtalk.evaluation.intervals import over_runs
from seedtalk.studies import analysing
from seedtalk.studies.analysing import analyse, detectable, draw_means, holm, two_sided
from seedtalk.studies.reading import Cell, Collected

COLUMNS = ["run", "benchmark", "system", "conversation_id", "metric", "value", "weight"]


def collected(scores, measures=(), levels=("a", "ref"), budgets=("1",), seeds=(0, 1), lacking=()):
    """A study of `levels` by `budgets`; runs are named level-budget-seed."""
    study = SimpleNamespace(
        factors={"method": dict.fromkeys(levels), "budget": dict.fromkeys(budgets)},
        seeds=list(seeds),
        scores=SimpleNamespace(benchmarks=["b"], systems=["s"]),
        measures=["m"],
        compare=SimpleNamespace(
            factor="method", reference="ref", along="budget", metric="recall@5", metrics=[]
        ),
    )
    cells = tuple(
        Cell((("method", level), ("budget", budget)))
        for level, budget in itertools.product(levels, budgets)
    )
    places = {
        f"{cell.of('method')}-{cell.of('budget')}-{seed}": (cell, seed)
        for cell in cells
        for seed in seeds
    }
    places = {run: place for run, place in places.items() if run not in lacking}
    frame = pd.DataFrame(
        [[run, "b", "s", c, "recall@5", v, w] for run, c, v, w in scores if run in places],
        columns=COLUMNS,
    )
    rows = pd.DataFrame(measures, columns=["run", "measure", "value"])
    return Collected("x", Path("x"), study, cells, pd.DataFrame(), rows, frame, places)


def scored(levels=("a", "ref"), budgets=("1",), seeds=(0, 1), count=12, gain=0.0):
    rng = np.random.default_rng(0)
    return [
        (
            f"{level}-{budget}-{seed}",
            f"c{number}",
            float(rng.random() + (gain if level == "a" else 0)),
            float(1 + number % 3),
        )
        for level in levels
        for budget in budgets
        for seed in seeds
        for number in range(count)
    ]


def test_holm_by_hand():
    # 0.01 * 4, 0.03 * 3, then 0.04 * 2 = 0.08 lifted to 0.09, then 0.5.
    assert holm([0.04, 0.01, 0.5, 0.03]) == pytest.approx([0.09, 0.04, 0.5, 0.09])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_as_the_step_down_procedure(values):
    """Brute force: go up from the smallest and stop at the first that is not under its share."""
    adjusted = holm(values)
    for level in (0.01, 0.05, 0.3):
        rejected, order = set(), sorted(range(len(values)), key=lambda n: values[n])
        for rank, place in enumerate(order):
            if min(1.0, values[place] * (len(values) - rank)) >= level:
                break
            rejected.add(place)
        assert {n for n, value in enumerate(adjusted) if value < level} == rejected


def test_draws_equal_a_loop_over_seeds_and_conversations():
    rng = np.random.default_rng(1)
    size = rng.integers(0, 4, (6, 3)).astype(float)
    total = size * rng.random((6, 3))
    mean, draws = draw_means(total, size, resamples=40, seed=2)
    assert mean == pytest.approx(total.sum() / size.sum())
    conversations = analysing._counts(6, 40, 2, 0)
    seeds = analysing._counts(3, 40, 2, 1)
    for number in range(40):
        above = below = 0.0
        for c, s in itertools.product(range(6), range(3)):
            times = conversations[number, c] * seeds[number, s]
            above += times * total[c, s]
            below += times * size[c, s]
        assert draws[number] == pytest.approx(above / below if below else mean)


def test_seeds_are_drawn_and_one_seed_is_none():
    # Conversations agree, seeds differ: all that varies is which seeds are drawn.
    total = np.array([[0.0, 1.0]] * 30)
    _, draws = draw_means(total, np.ones_like(total), resamples=400)
    assert set(np.round(draws, 9)) == {0.0, 0.5, 1.0}
    _, draws = draw_means(np.full((30, 1), 0.7), np.ones((30, 1)), resamples=50)
    assert np.allclose(draws, 0.7)


def test_one_seed_agrees_with_the_normal_interval_and_the_t_test():
    rng = np.random.default_rng(4)
    values = rng.normal(0.04, 1.0, (900, 1))
    _, draws = draw_means(values, np.ones_like(values), resamples=4000)
    assert draws.std() == pytest.approx(values.std() / 30, rel=0.06)
    assert two_sided(draws) == pytest.approx(ttest_1samp(values[:, 0], 0.0).pvalue, abs=0.03)


def test_two_sided_by_hand():
    assert two_sided(np.array([1.0] * 9)) == pytest.approx(0.2)  # (1 + 0) * 2 / 10
    assert two_sided(np.array([-1.0] * 3 + [1.0] * 16)) == pytest.approx(0.4)
    assert two_sided(np.zeros(99)) == 1.0


@pytest.mark.parametrize("shared", [True, False])
def test_covers_the_truth_with_three_seeds(shared):
    hits = 0
    for trial in range(120):
        rng = np.random.default_rng(trial)
        each = rng.normal(0, 0.02, 3) + rng.normal(0, 0.2, (40, 3))
        if shared:
            total = each + rng.normal(0, 0.1, (40, 1))
            size = np.ones_like(total)
        else:
            size = np.kron(np.eye(3), np.ones((40, 1)))
            total = size * np.tile(each, (3, 1))
        _, draws = draw_means(total, size, resamples=400, seed=trial)
        low, high = np.quantile(draws, [0.025, 0.975])
        hits += low <= 0 <= high
    assert hits / 120 >= 0.9


def test_a_null_difference_is_seldom_called():
    called = 0
    for trial in range(150):
        rng = np.random.default_rng([trial, 7])
        total = rng.normal(0, 0.2, (40, 1))
        _, draws = draw_means(total, np.ones_like(total), resamples=400, seed=trial)
        called += two_sided(draws) < 0.05
    assert 0.01 <= called / 150 <= 0.11


def test_detectable_is_found_four_times_in_five():
    error = 0.03
    power = 1 - norm.cdf(norm.ppf(0.975) - detectable(error) / error)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert detectable(error) == pytest.approx(2.8016 * error, rel=1e-4)


def test_means_and_paired_differences_are_those_of_a_loop():
    scores = scored(budgets=("1", "2"))
    study = collected(scores, budgets=("1", "2"))
    found = analyse(study, resamples=50).headline
    table = {(run, c): (v, w) for run, c, v, w in scores}
    for point in found.points:
        name = f"{point.cell.of('method')}-{point.cell.of('budget')}"
        rows = [vw for (run, _), vw in table.items() if run.rsplit("-", 1)[0] == name]
        wanted = sum(v * w for v, w in rows) / sum(w for _, w in rows)
        assert point.estimate.mean == pytest.approx(wanted)
        assert (point.estimate.seeds, point.estimate.conversations) == (2, 12)
    pairs = [
        (v - table[run.replace("a-", "ref-"), c][0], w)
        for (run, c), (v, w) in table.items()
        if run.startswith("a-")
    ]
    (whole,) = found.overall
    assert whole.estimate.mean == pytest.approx(
        sum(d * w for d, w in pairs) / sum(w for _, w in pairs)
    )
    assert (whole.cells, whole.unpaired, len(found.each)) == (2, 0, 2)


def test_a_clear_gain_is_ahead_and_holm_is_over_the_levels():
    scores = scored(("a", "b", "ref"), gain=1.5, count=30)
    found = analyse(collected(scores, levels=("a", "b", "ref"))).headline
    a, b = found.overall
    assert (a.verdict, b.verdict) == ("ahead", "too close to call")
    assert [a.adjusted, b.adjusted] == pytest.approx(holm([a.p, b.p]))
    assert a.agreeing == 2
    mirrored = [(run, c, -v, w) for run, c, v, w in scores]
    found = analyse(collected(mirrored, levels=("a", "b", "ref"))).headline
    assert found.overall[0].verdict == "behind"


def test_equal_scores_are_no_difference():
    scores = [
        (f"{level}-1-{seed}", f"c{n}", 0.5 + n / 100, 1.0)
        for level in ("a", "ref")
        for seed in (0, 1)
        for n in range(5)
    ]
    (one,) = analyse(collected(scores)).headline.overall
    assert (one.p, one.estimate.low, one.estimate.high) == (1.0, 0.0, 0.0)
    assert (one.verdict, one.detectable) == ("too close to call", 0.0)


def test_only_what_both_answered_is_compared_and_the_rest_counted():
    scores = [row for row in scored() if not (row[0] == "ref-1-0" and row[1] in ("c0", "c1"))]
    study = collected(scores, lacking=("ref-1-1",))
    analysis = analyse(study, resamples=50)
    (one,) = analysis.headline.overall
    assert (one.estimate.seeds, one.estimate.conversations, one.unpaired) == (1, 10, 14)
    assert analysis.missing == ["ref, 1: seed 1 not run", "measure m in no run"]


def test_cells_that_lack_the_same_seeds_are_told_together():
    three = {"budgets": ("1", "2"), "seeds": (0, 1, 2)}

    def missing(*lacking):
        return analyse(collected(scored(**three), lacking=lacking, **three), resamples=20).missing

    everywhere = [f"{level}-{budget}-2" for level in ("a", "ref") for budget in "12"]
    assert missing(*everywhere)[0] == "all 4 cells: seed 2 not run"
    assert missing("a-1-1", "a-1-2", "ref-2-1", "ref-2-2", "a-2-0", "a-2-1", "a-2-2")[:2] == [
        "a, 1; ref, 2: seeds 1, 2 not run",
        "a, 2: not run",
    ]


def test_weights_must_be_the_same():
    scores = [(r, c, v, w * (2 if (r, c) == ("a-1-1", "c3") else 1)) for r, c, v, w in scored()]
    with pytest.raises(InputError, match=r"scores.parquet, row a-1-1, field 'weight'.*c3"):
        analyse(collected(scores), resamples=20)


def test_measures_by_level_are_t_intervals_over_the_seeds_means_of_cells():
    values = {"a-1-0": 1.0, "a-1-1": 2.0, "a-2-0": 3.0, "a-2-1": 6.0, "ref-1-0": 5.0}
    measures = [(run, "m", value) for run, value in values.items()]
    found = analyse(
        collected(scored(budgets=("1", "2")), measures, budgets=("1", "2")), resamples=20
    ).measured
    by = {(m.level, m.cell.of("budget") if m.cell else None): m for m in found}
    wanted = over_runs([[2.0], [4.0]])[0]
    whole = by["a", None]
    assert (whole.mean, whole.low, whole.high) == (wanted["mean"], wanted["low"], wanted["high"])
    assert (by["a", "2"].mean, by["a", "2"].seeds) == (4.5, 2)
    assert (by["ref", None].mean, by["ref", None].low, by["ref", None].seeds) == (5.0, None, 1)
    assert ("ref", "2") not in by


def test_the_order_of_rows_and_runs_changes_nothing():
    scores = scored()
    first = analyse(collected(scores), resamples=100).headline
    again = analyse(collected(scores[::-1]), resamples=100).headline
    for one, two in zip(first.overall, again.overall, strict=True):
        assert one.estimate.low == pytest.approx(two.estimate.low)
        assert one.p == two.p


def test_no_scores_is_said():
    analysis = analyse(collected([]), resamples=20)
    assert analysis.headline is None
    assert "no scores of s on b in recall@5" in analysis.missing
