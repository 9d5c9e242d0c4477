import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.records import display_title
from seedtalk.sources.likes import REQUESTS, hold_out, listed

ITEMS = pd.DataFrame(
    {
        "item_id": [f"i{n}" for n in range(12)],
        "title": [f"Title {n}" for n in range(12)],
        "year": pd.array([1980 + n if n % 3 else None for n in range(12)], dtype="Int32"),
    }
)


def interactions(users=20):
    """User n likes the items 0 to n % 12, and has seen all."""
    return pd.DataFrame(
        [
            {"user_id": f"u{user}", "item_id": f"i{item}", "liked": item <= user % 12}
            for user in range(users)
            for item in range(12)
        ]
    )


def test_a_conversation_tells_some_likes_and_asks_for_others():
    made, held_out = hold_out(ITEMS, interactions(), users=5, context=3, targets=2, seed=0)
    assert len(made) == len(held_out) == 5
    titles = dict(
        zip(ITEMS["item_id"], map(display_title, ITEMS["title"], ITEMS["year"]), strict=True)
    )
    for row in made.itertuples():
        user = row.conversation_id.removeprefix("likes-")
        likes = {f"i{n}" for n in range(int(user[1:]) % 12 + 1)}
        seeker, recommender = row.turns
        assert (seeker["role"], recommender["role"]) == ("seeker", "recommender")
        assert len(seeker["items"]) == 3
        assert len(recommender["items"]) == 2
        chosen = {*seeker["items"], *recommender["items"]}
        assert len(chosen) == 5
        assert chosen <= likes
        for item in titles:
            assert (titles[item] in seeker["text"].replace(",", " ,")) or (
                item not in seeker["items"]
            )
        assert all(titles[item] in recommender["text"] for item in recommender["items"])
        assert row.seen == sorted({f"i{n}" for n in range(12)} - chosen)


def test_only_users_with_enough_likes_are_eligible():
    with pytest.raises(InputError) as error:
        hold_out(ITEMS, interactions(), users=50, context=3, targets=2, seed=0)
    assert "ingest.eval_users: 50 users" in error.value.message
    # u4 to u11 and u16 to u19 like at least five items.
    assert "only 12 like at least 5 catalogue items" in error.value.message
    _, held_out = hold_out(ITEMS, interactions(), users=12, context=3, targets=2, seed=0)
    assert held_out == {f"u{n}" for n in [*range(4, 12), *range(16, 20)]}


def test_the_mend_fits_how_many_are_eligible():
    with pytest.raises(InputError, match="set ingest.eval_users to 12 or less, or lower"):
        hold_out(ITEMS, interactions(), users=50, context=3, targets=2, seed=0)
    with pytest.raises(InputError, match="none likes at least 13 .* set ingest.eval_users to 0,"):
        hold_out(ITEMS, interactions(), users=50, context=11, targets=2, seed=0)


def test_more_users_keep_the_ones_there_were():
    few = hold_out(ITEMS, interactions(), users=4, context=2, targets=2, seed=3)
    more = hold_out(ITEMS, interactions(), users=9, context=2, targets=2, seed=3)
    assert few[1] < more[1]
    kept = more[0][more[0]["conversation_id"].isin(few[0]["conversation_id"])]
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), few[0].reset_index(drop=True))


def test_the_seed_decides_and_row_order_does_not():
    rows = interactions(60)
    one = hold_out(ITEMS, rows, users=10, context=2, targets=2, seed=1)[0]
    shuffled = rows.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        hold_out(ITEMS, shuffled, users=10, context=2, targets=2, seed=1)[0], one
    )
    assert not one.equals(hold_out(ITEMS, rows, users=10, context=2, targets=2, seed=2)[0])


def test_requests_differ_in_wording():
    made, _ = hold_out(ITEMS, interactions(200), users=90, context=2, targets=2, seed=0)
    openings = {row[0]["text"].split("Title")[0] for row in made["turns"]}
    assert openings == {request.split("{}")[0] for request in REQUESTS}


def test_no_users_make_no_benchmark():
    made, held_out = hold_out(ITEMS, interactions(), users=0, context=9, targets=9, seed=0)
    assert made.empty
    assert held_out == set()
    assert list(made.columns) == ["conversation_id", "benchmark", "turns", "seen"]


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_context_and_targets_never_meet(context, targets, seed):
    made, _ = hold_out(ITEMS, interactions(), users=1, context=context, targets=targets, seed=seed)
    (turns,) = made["turns"]
    assert not set(turns[0]["items"]) & set(turns[1]["items"])


def test_lists_read_as_sentences():
    assert [listed(["A"]), listed(["A", "B"]), listed(["A", "B", "C"])] == [
        "A",
        "A and B",
        "A, B and C",
    ]
