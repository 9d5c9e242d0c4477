"""Item texts, collaborative factors, the composition of blocks and their files."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk import signals
from seedtalk.errors import InputError


def table(**columns):
    return pd.DataFrame(columns)


ITEMS = table(
    item_id=["a", "b", "c", "d"],
    title=["Six Alibis", "Pudding Season", "Grey Ransom", "Moth Liturgy"],
    year=pd.array([1999, None, 2004, 1971], dtype="Int32"),
    genres=[["Crime", "Comedy"], [], ["Crime"], ["Horror"]],
    description=["A heist.", "", "", "Wings."],
)


def likes(*pairs):
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    return table(user_id=list(users), item_id=list(items), liked=[True] * len(pairs))


def test_item_texts_leave_out_what_is_unknown():
    assert signals.item_texts(ITEMS) == [
        "Six Alibis (1999). Crime, Comedy. A heist.",
        "Pudding Season",
        "Grey Ransom (2004). Crime",
        "Moth Liturgy (1971). Horror. Wings.",
    ]


def test_item_texts_survive_parquet(tmp_path):
    from seedtalk.records import read_table, write_table

    write_table(tmp_path / "items.parquet", ITEMS, "items")
    read = read_table(tmp_path / "items.parquet", "items")
    assert signals.item_texts(read) == signals.item_texts(ITEMS)


PAIRS = [("u1", "a"), ("u1", "c"), ("u2", "a"), ("u2", "c"), ("u3", "b"), ("u4", "b"), ("u4", "c")]


def test_full_rank_factors_reproduce_the_scaled_cooccurrence():
    factors = signals.item_factors(likes(*PAIRS), ITEMS, rank=8, seed=0)
    assert factors.dtype == np.float32
    assert factors.shape == (4, 4)  # capped by 4 items and 4 users
    R = np.zeros((4, 4))
    for user, item in PAIRS:
        R[int(user[1]) - 1, "abcd".index(item)] = 1
    R /= np.sqrt(np.outer(R.sum(1), np.maximum(R.sum(0), 1)))
    assert factors @ factors.T == pytest.approx(R.T @ R, abs=1e-6)
    assert (factors[3] == 0).all()  # nobody liked d


def test_factors_put_items_of_the_same_users_together_and_repeat_themselves():
    rng = np.random.default_rng(0)
    items = table(item_id=[f"i{n}" for n in range(20)])
    pairs = [(f"u{u}", f"i{(u % 2) * 10 + n}") for u in range(40) for n in rng.choice(10, 4, False)]
    factors = signals.item_factors(likes(*pairs), items, rank=3, seed=5)
    assert (factors == signals.item_factors(likes(*pairs), items, rank=3, seed=5)).all()
    unit = signals.unit_rows(factors)
    same = unit @ unit.T
    assert same[:10, :10].mean() > 0.5 > abs(same[:10, 10:].mean()) + 0.4
    flipped = signals.item_factors(likes(*pairs[::-1]), items, rank=3, seed=5)
    assert flipped == pytest.approx(factors, abs=1e-5)  # order of the rows says nothing


def test_only_likes_of_known_items_count_and_count_once():
    base = signals.item_factors(likes(*PAIRS), ITEMS, rank=2, seed=0)
    extra = pd.concat(
        [
            likes(*PAIRS, PAIRS[0], ("u1", "elsewhere"), ("u9", "elsewhere")),
            table(user_id=["u1"], item_id=["d"], liked=[False]),
        ]
    )
    assert (signals.item_factors(extra, ITEMS, rank=2, seed=0) == base).all()


def test_without_likes_there_is_one_factor_of_zeros():
    none = table(user_id=["u"], item_id=["a"], liked=[False])
    assert signals.item_factors(none, ITEMS, 8, 0).tolist() == [[0.0]] * 4
    assert signals.item_factors(likes(), ITEMS, 8, 0).tolist() == [[0.0]] * 4


REVIEW = np.array([[3, 4], [0, 0], [0, 2]], np.float32)
METADATA = np.array([[2, 0], [0, 0]], np.float32)
USER = np.array([[0, 0, 5], [1, 2, 2]], np.float32)
ROWS = np.array([0, 1, 0])
ALL = np.arange(3)


def compose(signal, weight=0.5):
    return signals.compose(REVIEW, METADATA, USER, ALL, ROWS, signal, weight)


def test_composition_by_hand():
    assert compose("review").tolist() == REVIEW.tolist()
    assert compose("metadata") == pytest.approx(
        np.array([[0.6, 0.8, 0.5, 0], [0, 0, 0, 0], [0, 1, 0.5, 0]])
    )
    assert compose("user", 3.0) == pytest.approx(
        np.array([[0.6, 0.8, 0, 0, 3], [0, 0, 1, 2, 2], [0, 1, 0, 0, 3]])
    )
    assert compose("user").dtype == np.float32


@given(st.floats(1e-3, 1e3), st.floats(0, 10))
@settings(deadline=None)
def test_the_weight_means_the_same_whatever_the_scale_of_the_blocks(scale, weight):
    scale = np.float32(scale)
    blocks = REVIEW * scale, METADATA * scale, USER * scale
    scaled = signals.compose(*blocks, ALL, ROWS, "user", weight)
    assert scaled == pytest.approx(compose("user", weight), rel=1e-5)
    lengths = np.linalg.norm(scaled[:, 2:], axis=1)
    assert lengths == pytest.approx(np.full(3, weight), rel=1e-5)


@pytest.mark.parametrize("signal", signals.SIGNALS)
def test_some_rows_are_composed_as_all_are(signal):
    some = signals.compose(REVIEW, METADATA, USER, ALL[::2], ROWS[::2], signal, 0.5)
    assert some.tolist() == compose(signal)[::2].tolist()


def test_reviews_that_are_all_wanted_are_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", REVIEW)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert signals.compose(mapped, METADATA, USER, ALL, ROWS, "review", 0.5) is mapped


@pytest.mark.parametrize("signal", signals.SIGNALS)
def test_a_large_composition_goes_to_a_file_without_a_name(tmp_path, monkeypatch, signal):
    rng = np.random.default_rng(0)
    review, user = rng.normal(size=(50, 3)).astype("f4"), rng.normal(size=(7, 2)).astype("f4")
    metadata, rows = rng.normal(size=(7, 3)).astype("f4"), np.flatnonzero(np.arange(50) % 3)
    given = (review, metadata, user, rows, rng.integers(0, 7, len(rows)), signal, 2.0)
    held = signals.compose(*given)
    assert not isinstance(held, np.memmap)
    monkeypatch.setattr(signals, "HELD_BYTES", 100)
    monkeypatch.setattr(signals, "_CHUNK", 8)
    kept = signals.compose(*given, folder=tmp_path)
    assert isinstance(kept, np.memmap)
    assert (kept == held).all()
    assert kept.dtype == np.float32
    assert not list(tmp_path.iterdir())


def test_an_unknown_signal_is_refused():
    with pytest.raises(InputError, match=r"select\.signal: 'plot' is none of review"):
        compose("plot")


def rows(**change):
    columns = {
        "review_id": ["r1", "r2", "r3"],
        "item_id": ["a", "b", "a"],
        "rating": pd.array([0.5, None, 0.25], dtype="Float32"),
        "item_row": np.array([0, 1, 0], np.int32),
        "popularity": np.array([3, 0, 3], np.int32),
        "genre": ["Crime", "", "Crime"],
    }
    return pd.DataFrame(columns | change)


def test_review_rows_point_at_items_and_count_interactions():
    reviews = table(
        review_id=["r1", "r2"],
        item_id=["c", "b"],
        rating=np.array([0.5, np.nan], np.float32),
        text=["", ""],
    )
    made = signals.review_rows(reviews, ITEMS, likes(("u", "c"), ("v", "c"), ("v", "a")))
    assert made["item_row"].tolist() == [2, 1]
    assert made["popularity"].tolist() == [2, 0]
    assert made["genre"].tolist() == ["Crime", ""]  # the first listed, or none
    lost = reviews.assign(item_id=["c", "nowhere"])
    with pytest.raises(InputError, match="reviews, row r2, field 'item_id': 'nowhere' is not"):
        signals.review_rows(lost, ITEMS, likes())


@pytest.mark.parametrize(
    ("least", "expected"), [(0.0, [0, 1, 2]), (0.25, [0, 1, 2]), (0.3, [0, 1]), (1.0, [1])]
)
def test_the_pool_is_the_unrated_and_the_well_rated(least, expected):
    assert signals.pool_rows(rows(), least).tolist() == expected


def test_a_rating_at_the_threshold_is_in_whatever_its_precision():
    rated = rows(rating=np.full(3, 0.7, np.float32))  # a little less than 0.7
    assert signals.pool_rows(rated, 0.7).tolist() == [0, 1, 2]


def test_an_empty_pool_is_refused():
    with pytest.raises(InputError, match=r"select\.min_rating: none of 3 reviews"):
        signals.pool_rows(rows(rating=np.zeros(3, np.float32)), 0.5)


def test_the_genre_is_the_first_listed_also_after_parquet(tmp_path):
    from seedtalk.records import read_table, write_table

    write_table(tmp_path / "items.parquet", ITEMS, "items")
    reviews = table(
        review_id=["r1", "r2"],
        item_id=["a", "b"],
        rating=np.array([0.5, 0.5], np.float32),
        text=["", ""],
    )
    made = signals.review_rows(reviews, read_table(tmp_path / "items.parquet", "items"), likes())
    assert made["genre"].tolist() == ["Crime", ""]


def test_groups_by_genre():
    assert signals.item_groups(rows(), "genre").tolist() == ["Crime", "unknown", "Crime"]


def test_groups_by_popularity_are_thirds_of_the_items():
    # Nine items; the first has fifty reviews, which move no cut.
    item_row = np.array([0] * 50 + list(range(1, 9)))
    counts = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1])
    made = signals.item_groups(
        pd.DataFrame({"item_row": item_row, "popularity": counts[item_row]}), "popularity"
    )
    assert made[49:].tolist() == ["head"] * 3 + ["middle"] * 3 + ["tail"] * 3
    assert set(made[:50]) == {"head"}
    alike = pd.DataFrame({"item_row": [0, 1, 2, 3], "popularity": [2, 2, 2, 5]})
    assert signals.item_groups(alike, "popularity").tolist() == ["tail"] * 3 + ["head"]


def test_the_rows_of_a_warm_start():
    assert signals.rows_of(rows(), ["r3", "r1"], "old.jsonl").tolist() == [2, 0]
    none = signals.rows_of(rows(), [], "old.jsonl")
    assert none.tolist() == [] and none.dtype == np.int64
    with pytest.raises(InputError, match="old.jsonl, row 2, field 'review_id': 'r9' is not in the"):
        signals.rows_of(rows(), ["r3", "r9"], "old.jsonl")
    with pytest.raises(InputError, match="old.jsonl, row 3, field 'review_id': 'r1' stands in"):
        signals.rows_of(rows(), ["r1", "r2", "r1"], "old.jsonl")


def blocks():
    return signals.Blocks(REVIEW, METADATA, USER, rows())


def test_blocks_survive_their_files(tmp_path):
    signals.write_blocks(tmp_path / "e", blocks(), {"encoder": "toy"})
    read = signals.read_blocks(tmp_path / "e")
    for name in ("review", "metadata", "user"):
        assert (getattr(read, name) == getattr(blocks(), name)).all()
    assert read.rows["review_id"].tolist() == ["r1", "r2", "r3"]
    assert read.rows["rating"].isna().tolist() == [False, True, False]
    first = {path.name: path.read_bytes() for path in (tmp_path / "e").iterdir()}
    signals.write_blocks(tmp_path / "e", blocks(), {"encoder": "toy"})
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "e").iterdir()}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda e: (e / "user.npy").unlink(), "user.npy: cannot be read"),
        (lambda e: (e / "review.npy").write_bytes(b"torn"), "review.npy: cannot be read"),
        (lambda e: (e / "rows.parquet").write_bytes(b"torn"), "rows.parquet: cannot be read"),
        (lambda e: np.save(e / "review.npy", REVIEW[:2]), "different sizes"),
        (lambda e: np.save(e / "user.npy", USER[:1]), "different sizes"),
        (
            lambda e: np.save(e / "review.npy", np.array([[0, 1], [0, np.nan], [0, 0]], "f4")),
            r"review.npy, row 2: holds NaN or infinity",
        ),
        (
            lambda e: (
                np.save(e / "metadata.npy", METADATA[:1]),
                np.save(e / "user.npy", USER[:1]),
            ),
            "rows.parquet, field 'item_row': outside the 1 items",
        ),
    ],
)
def test_spoilt_blocks_are_refused_with_their_place(tmp_path, spoil, message):
    folder = tmp_path / "e"
    signals.write_blocks(folder, blocks(), {})
    spoil(folder)
    with pytest.raises(InputError, match=message):
        signals.read_blocks(folder)


def test_blocks_of_an_older_version_are_to_be_remade(tmp_path):
    signals.write_blocks(tmp_path / "e", blocks(), {})
    rows().drop(columns="genre").to_parquet(tmp_path / "e/rows.parquet")
    with pytest.raises(InputError, match=r"(?s)rows.parquet: cannot be read .*--force embed"):
        signals.read_blocks(tmp_path / "e")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 8191, 8192, 9000])
def test_a_matrix_is_checked_in_pieces_up_to_its_end(bad, row):
    X = np.zeros((9001, 2), np.float32)
    signals.check_matrix(X)
    X[row, 1] = bad
    with pytest.raises(InputError, match=f"X, row {row + 1}: holds NaN"):
        signals.check_matrix(X)
