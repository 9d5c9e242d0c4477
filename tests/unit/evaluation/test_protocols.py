import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.evaluation.protocols import asked_turns, digest, queries, read_turns
from seedtalk.params import load_params

DEFAULT = load_params(Path(__file__).parents[3] / "params.yaml").evaluate
ITEMS = pd.DataFrame({"item_id": [f"i{n:02d}" for n in range(30)]})


def seeker(text, *items):
    return {"role": "seeker", "text": text, "items": list(items)}


def recommender(text, *items):
    return {"role": "recommender", "text": text, "items": list(items)}


def conversations(*rows, benchmark="talk"):
    return pd.DataFrame(
        [[name, benchmark, turns, seen] for name, turns, seen in rows],
        columns=["conversation_id", "benchmark", "turns", "seen"],
    )


def ask(frame, candidates=0, max_conversations=0, seed=0, benchmark="talk", items=ITEMS):
    options = DEFAULT.model_copy(
        update={"candidates": candidates, "max_conversations": max_conversations}
    )
    return queries(frame, benchmark, items, options, seed)


LONG = (
    "c1",
    [
        recommender("Hello, seen i09?", "i09"),  # nobody has asked: no query
        seeker("I liked i03", "i03"),
        recommender("Try i01, i02 or the odd one", "i02", "i01", "i02", "unknown"),
        seeker("No i04 please", "i04"),
        recommender("i03, i02 and i04 are fine", "i03", "i02", "i04"),  # nothing new
        recommender("And i05", "i05"),
        seeker("Thanks"),
        recommender("Bye"),
    ],
    [],
)


def test_turns_become_queries():
    first, second = ask(conversations(LONG))
    assert (first.conversation_id, first.turn, second.turn) == ("c1", 2, 5)
    assert first.context == LONG[1][:2]
    assert first.mentioned == ["i09", "i03"]
    assert first.targets == ["i02", "i01"]  # catalogue items only, each once
    assert second.context == LONG[1][:5]
    assert second.mentioned == ["i09", "i03", "i02", "i01", "unknown", "i04"]
    assert second.targets == ["i05"]


def test_the_whole_catalogue_but_mentioned_and_seen():
    first, second = ask(conversations((*LONG[:2], ["i20", "i01"])))
    known = {"i09", "i03", "i20"}
    assert first.candidates == [i for i in ITEMS["item_id"] if i not in known]  # i01 is a target
    assert "i01" not in second.candidates


def test_what_is_asked_of_a_real_conversation():
    """Several turns in a row, a seeker who repeats, a suggestion turned down and made again."""
    turns = [
        seeker("Hi, I like i03", "i03"),
        recommender("Did you see i01?", "i01"),
        recommender("Or i02? i01 is the better one", "i02", "i01"),
        seeker("i01 was awful. Something like i03", "i01", "i03"),
        recommender("Then i04 and i03's sequel i05", "i04", "i03", "i05", "i04"),
        seeker("I know i05. And i06?", "i05", "i06"),
        recommender("i06 is great, so is i01", "i06", "i01"),
        recommender("Have a nice day"),
        recommender("Only the odd one is left", "unknown"),
    ]
    asked = ask(conversations(("c", turns, [])))
    assert [(q.turn, q.targets) for q in asked] == [
        (1, ["i01"]),
        (2, ["i02"]),  # each turn by itself; i01 is known from the turn before
        (4, ["i04", "i05"]),
    ]
    assert asked[1].context == turns[:2]
    assert asked[2].mentioned == ["i03", "i01", "i02"]  # turned down or not
    assert not {"i01", "i02", "i03"} & set(asked[2].candidates)
    found = list(asked_turns(read_turns(turns), set(ITEMS["item_id"])))
    assert [(a.turn, a.fresh, a.repeated) for a in found] == [
        (1, ["i01"], []),
        (2, ["i02"], ["i01"]),
        (4, ["i04", "i05"], ["i03"]),
        (6, [], ["i06", "i01"]),  # He et al.'s condition discussion only: no query
    ]
    assert found[3].mentioned == ["i03", "i01", "i02", "i04", "i05", "i06"]


TURNS = st.lists(
    st.tuples(
        st.sampled_from(["seeker", "recommender"]),
        st.lists(st.sampled_from(["i01", "i02", "i03", "i04", "odd"]), max_size=4),
    ),
    max_size=9,
)


@settings(max_examples=150, deadline=None)
@given(TURNS)
def test_asked_turns_follow_their_definition(drawn):
    """Every mention of a recommender after the seeker's first turn, once a turn, new or not."""
    turns = [{"role": role, "text": "", "items": items} for role, items in drawn]
    catalogue = {"i01", "i02", "i03", "i04"}
    first = next((n for n, turn in enumerate(turns) if turn["role"] == "seeker"), len(turns))
    wanted = {}
    for place, turn in enumerate(turns):
        if turn["role"] == "recommender" and place > first and catalogue & set(turn["items"]):
            before = {item for earlier in turns[:place] for item in earlier["items"]}
            named = catalogue & set(turn["items"])
            wanted[place] = (named - before, named & before, before)
    found = {
        a.turn: (set(a.fresh), set(a.repeated), set(a.mentioned))
        for a in asked_turns(turns, catalogue)
    }
    assert found == wanted
    for asked in asked_turns(turns, catalogue):
        ids = asked.fresh + asked.repeated
        assert len(ids) == len(set(ids))
        assert len(asked.mentioned) == len(set(asked.mentioned))


def many(count, start=0):
    return conversations(
        *(
            (f"c{n:03d}", [seeker("Hi", "i00"), recommender("So", "i01", "i02")], ["i03"])
            for n in range(start, start + count)
        )
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 28), st.integers(0, 5))
def test_sampled_candidates(candidates, seed):
    for query in ask(many(5), candidates=candidates, seed=seed):
        assert len(query.candidates) == len(set(query.candidates)) == candidates
        assert query.candidates == sorted(query.candidates)
        assert set(query.targets) <= set(query.candidates)
        assert not {"i00", "i03"} & set(query.candidates)


def test_the_sample_is_uniform():
    drawn = pd.Series([i for q in ask(many(600), candidates=12) for i in q.candidates])
    others = drawn.value_counts().drop(["i01", "i02"])
    assert len(others) == 26
    expected = 600 * 10 / 26
    assert ((others - expected).abs() < 5 * expected**0.5).all()


def test_a_conversation_keeps_its_sample_whatever_else_there_is():
    few = {q.conversation_id: q for q in ask(many(3), candidates=10)}
    lots = {q.conversation_id: q for q in ask(many(50).iloc[::-1], candidates=10)}
    assert all(lots[name] == query for name, query in few.items())
    samples = {tuple(q.candidates) for q in lots.values()}
    assert len(samples) > 45
    other = {q.conversation_id: q for q in ask(many(3), candidates=10, seed=1)}
    assert any(other[name].candidates != query.candidates for name, query in few.items())


def test_the_sample_does_not_depend_on_the_process():
    program = (
        "from tests.unit.evaluation.test_protocols import ask, digest, many;"
        "print(digest(ask(many(4), candidates=10)))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {digest(ask(many(4), candidates=10))}


def test_conversations_are_sampled_among_those_with_queries():
    frame = pd.concat([many(40), conversations(("b", [seeker("Hi"), recommender("Ho")], []))])
    small = {q.conversation_id for q in ask(frame, max_conversations=5)}
    large = {q.conversation_id for q in ask(frame, max_conversations=20)}
    assert (len(small), len(large)) == (5, 20)
    assert small < large
    assert small != {q.conversation_id for q in ask(frame, max_conversations=5, seed=1)}
    assert len({q.conversation_id for q in ask(frame, max_conversations=99)}) == 40


def test_only_the_named_benchmark():
    frame = pd.concat([many(2), conversations(LONG, benchmark="other")])
    assert {q.conversation_id for q in ask(frame, benchmark="other")} == {"c1"}


def test_an_unknown_benchmark_lists_those_there():
    frame = pd.concat([many(2), conversations(LONG, benchmark="other")])
    with pytest.raises(InputError, match="'redial' is not among.*other, talk"):
        ask(frame, benchmark="redial")
    with pytest.raises(InputError, match="there are: none"):
        ask(conversations())


def test_no_query_is_an_error():
    with pytest.raises(InputError, match="no recommender turn mentions a new catalogue item"):
        ask(conversations(("c", [seeker("Hi", "i01"), recommender("i01!", "i01")], [])))


@pytest.mark.parametrize("candidates", [1, 2, 29, 500])
def test_impossible_candidates_are_named(candidates):
    with pytest.raises(InputError, match=rf"evaluate.candidates: {candidates} .*c000, turn 1"):
        ask(many(2), candidates=candidates)


def test_the_digest_is_of_everything_asked():
    asked = ask(many(3), candidates=10)
    assert digest(asked) == digest(ask(many(3), candidates=10))
    changed = many(3)
    changed.at[0, "turns"] = [seeker("Hey", "i00"), recommender("So", "i01", "i02")]
    others = [
        ask(many(2), candidates=10),
        ask(many(3), candidates=11),
        ask(many(3), candidates=10, seed=1),
        ask(changed, candidates=10),
    ]
    assert len({digest(asked), *map(digest, others)}) == 5


def test_the_digest_is_of_one_json_document():
    """Written piece by piece, read as the whole: another order of queries is another digest."""
    import hashlib
    import json
    from dataclasses import asdict

    asked = ask(many(3), candidates=10)
    text = json.dumps([asdict(query) for query in asked], sort_keys=True)
    assert digest(asked) == hashlib.sha256(text.encode()).hexdigest()
    assert digest([]) == hashlib.sha256(b"[]").hexdigest()
    assert digest(asked[::-1]) != digest(asked)


def test_reads_what_parquet_gives_back(tmp_path):
    from seedtalk.records import read_table, write_table

    write_table(tmp_path / "c.parquet", conversations(LONG), "conversations")
    back = read_table(tmp_path / "c.parquet", "conversations")
    assert ask(back, candidates=8) == ask(conversations(LONG), candidates=8)
