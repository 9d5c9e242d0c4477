"""Real dialogues for training: what is taken, left out and counted."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from tests import domain
from tests.unit.test_curation import embed, good, run

from seedtalk import real
from seedtalk.errors import InputError, RunError
from seedtalk.evaluation.protocols import queries

FILMS = ["f01", "f02", "f04", "f05", "f06", "f08", "f09", "f11", "f12"]
WORDS = (
    "glacier lantern parade orchard thunder velvet harbour cinnamon marble whisper falcon "
    "meadow copper riddle juniper compass saddle violin ember quarry"
).split()


def turn(role, text, *items):
    return {"role": role, "text": text, "items": list(items)}


def conversation(name, *turns, benchmark="own"):
    return {"conversation_id": name, "benchmark": benchmark, "turns": list(turns), "seen": []}


def talk(number, benchmark="own"):
    """Two recommendations to words of its own; the second names an earlier item again."""
    word, other = WORDS[number % len(WORDS)], WORDS[(7 * number + 3) % len(WORDS)]
    one, two = FILMS[number % 9], FILMS[(number + 4) % 9]
    return conversation(
        f"t{number:03d}",
        turn("seeker", f"Good evening, number {number} wants a {word} film with {other} in it"),
        turn("recommender", f"{number} {word}: have you seen this {other} one?", one),
        turn("seeker", f"Yes {number}, the {other} was good but no {word}"),
        turn("recommender", f"Then {other} {number} again, or rather {word}", one, two),
        benchmark=benchmark,
    )


def table(*rows):
    return pd.DataFrame(list(rows))


def own(count=12):
    return table(*(talk(number) for number in range(count)))


def options(train_on="both", **changes):
    wanted = {"train_on": train_on, "real": "own", "real_conversations": 0} | changes
    return domain.params(curate=wanted).curate


def mixed(conversations, params=None, evaluated=None, seed=0):
    curated, _ = run(good())
    return real.mixed(
        curated,
        conversations,
        domain.conversations() if evaluated is None else evaluated,
        domain.items(),
        params or options(),
        seed=seed,
        encode=embed,
    )


def reals(curated):
    return [d for d in [*curated.train, *curated.valid] if d.style == "real"]


def test_a_dialogue_is_the_context_and_the_new_items_of_the_turn():
    kept = {d.dialogue_id: d for d in reals(mixed(own()))}
    assert len(kept) == 24
    first, second = kept["own-t000-1"], kept["own-t000-3"]
    assert first.targets == ["f01"] and first.item_id == "f01"
    assert [(m.role, m.content) for m in first.messages[1:]] == [
        ("user", talk(0)["turns"][0]["text"]),
        ("assistant", "1. The Copper Lantern"),
    ]
    assert second.targets == ["f06"]  # the other was named before
    assert [m.role for m in second.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert second.messages[-1].content == "1. Night Ferry: The Crossing"
    assert second.messages[2].content == talk(0)["turns"][1]["text"]


def test_targets_and_contexts_are_those_an_evaluation_would_pose():
    conversations = own()
    params = domain.params(evaluate={"candidates": 0}).evaluate
    posed = queries(conversations, "own", domain.items(), params, 0)
    kept = {d.dialogue_id: d for d in reals(mixed(conversations))}
    assert {f"own-{q.conversation_id}-{q.turn}": q.targets for q in posed} == {
        name: dialogue.targets for name, dialogue in kept.items()
    }


def test_the_year_stands_as_the_parameters_say():
    always = reals(mixed(own(), options(years="always")))
    assert {d.messages[-1].content for d in always if d.targets == ["f01"]} == {
        "1. The Copper Lantern (1987)"
    }
    ambiguous = reals(mixed(own()))
    assert {d.messages[-1].content for d in ambiguous if d.targets == ["f09"]} == {
        "1. Marigold Street (1965)"
    }


def test_synthetic_dialogues_stay_and_the_summary_counts_the_real_ones():
    alone, _ = run(good())
    both = mixed(own())
    assert [d for d in both.train if d.style != "real"] == alone.train
    assert [d for d in both.valid if d.style != "real"] == alone.valid
    assert both.provenance == alone.provenance
    counts = both.summary["real"]
    assert counts == {
        "conversations": "own",
        "read": 12,
        "with_new_items": 12,
        "sampled": 12,
        "dropped": {"contaminated": 0, "near_duplicate": 0},
        "kept": 12,
        "dialogues": 24,
        "train": sum(d.style == "real" for d in both.train),
        "valid": sum(d.style == "real" for d in both.valid),
    }
    assert both.summary | {"real": None} == alone.summary
    assert alone.summary["real"] is None


def test_alone_leaves_the_synthetic_ones_out_and_accounts_for_them():
    curated, groundings = run(good(), curate={"train_on": "real", "real": "own"})
    assert not curated.train and not curated.valid
    assert {r.reason for r in curated.rejected} == {"left_out"}
    assert [p.verdict for p in curated.provenance] == ["quarantined"] * len(groundings)
    assert curated.summary["kept"] == 0 and curated.summary["quarantined"]["left_out"] == 12
    whole = real.mixed(
        curated, own(), domain.conversations(), domain.items(), options("real"),
        seed=0, encode=embed,
    )  # fmt: skip
    assert {d.style for d in [*whole.train, *whole.valid]} == {"real"}
    json.dumps(whole.summary, allow_nan=False)


def test_no_conversation_is_on_both_sides_and_both_hold_some():
    curated = mixed(own(20), options(valid_fraction=0.3))
    sides = [
        {d.dialogue_id.rsplit("-", 1)[0] for d in part if d.style == "real"}
        for part in (curated.train, curated.valid)
    ]
    assert not sides[0] & sides[1]
    assert [len(side) for side in sides] == [14, 6]


def test_a_smaller_sample_is_part_of_a_larger_one_and_the_seed_moves_it():
    def names(count, seed=0):
        curated = mixed(own(20), options(real_conversations=count), seed=seed)
        assert curated.summary["real"]["sampled"] == count
        return {d.dialogue_id.rsplit("-", 1)[0] for d in reals(curated)}

    few, many = names(5), names(11)
    assert few < many and len(few) == 5 and len(many) == 11
    assert names(5, seed=1) != few
    every = mixed(own(20), options(real_conversations=999)).summary["real"]
    assert every["sampled"] == 20


def test_the_rows_order_does_not_matter():
    one, two = mixed(own(20)), mixed(own(20)[::-1])
    assert one.train == two.train and one.valid == two.valid


def evaluated(*texts):
    turns = [turn("seeker", text) for text in texts]
    return table(conversation("e1", *turns, benchmark="test"))


def test_a_run_of_words_shared_with_an_evaluation_drops_the_conversation():
    shared = talk(3)["turns"][2]["text"]
    theirs = evaluated(f"Hello. {shared}")
    curated = mixed(own(), options(contamination_ngram=6), theirs)
    (dropped,) = [r for r in curated.rejected if r.dialogue_id.startswith("own-")]
    assert (dropped.dialogue_id, dropped.reason) == ("own-t003", "contaminated")
    assert "is in e1" in dropped.detail and dropped.text.startswith("seeker: Good evening")
    assert not [d for d in reals(curated) if d.dialogue_id.startswith("own-t003")]
    assert curated.summary["real"]["dropped"] == {"contaminated": 1, "near_duplicate": 0}
    assert curated.summary["real"]["kept"] == 11


def test_the_same_conversation_in_other_order_is_contamination_but_an_opening_is_not():
    params = options(contamination_ngram=99, contamination_similarity=0.9)
    first, third = talk(3)["turns"][0]["text"], talk(3)["turns"][2]["text"]
    whole = mixed(own(), params, evaluated(third, first))
    assert whole.summary["real"]["dropped"]["contaminated"] == 1
    assert "cosine" in next(r for r in whole.rejected if r.dialogue_id == "own-t003").detail
    opening = mixed(own(), params, evaluated(first, "Then I would rather hear about trains."))
    assert opening.summary["real"]["dropped"]["contaminated"] == 0


def test_a_conversation_told_twice_is_taken_once():
    rows = [talk(number) for number in range(8)]
    rows.append(talk(2) | {"conversation_id": "t999"})
    curated = mixed(table(*rows))
    (dropped,) = [r for r in curated.rejected if r.dialogue_id.startswith("own-")]
    assert (dropped.dialogue_id, dropped.reason) == ("own-t999", "near_duplicate")
    assert dropped.detail == "of t002, similarity 1.00"


def test_control_characters_do_not_reach_the_student():
    row = talk(0)
    row["turns"][0]["text"] += "\x1b[2J\u202e"
    told = next(d for d in reals(mixed(table(row, talk(1)))) if d.dialogue_id == "own-t000-1")
    assert "\x1b" not in told.messages[1].content and "\u202e" not in told.messages[1].content


def test_conversations_without_new_items_are_an_input_error():
    row = conversation("t1", turn("seeker", "hello"), turn("recommender", "Heat", "nope"))
    with pytest.raises(InputError, match=r"curate\.real: in no conversation of 'own'"):
        mixed(table(row))


def test_too_few_left_is_a_failed_run_that_says_why():
    with pytest.raises(RunError, match=r"1 of 1 real conversations .*'contaminated': 0"):
        mixed(own(1))


def test_parts_are_told_apart_by_name():
    rows = table(*own(3).to_dict("records"), talk(7, "test"), *evaluated("x").to_dict("records"))
    theirs, mine = real.parted(rows, options())
    assert set(mine["benchmark"]) == {"own"} and set(theirs["benchmark"]) == {"test"}
    theirs, mine = real.parted(rows, domain.params().curate)
    assert len(theirs) == len(rows) and not len(mine)
    elsewhere = options("transfer", transfer="books.jsonl")  # then `real` is only a name
    theirs, mine = real.parted(rows, elsewhere)
    assert len(theirs) == len(rows) and not len(mine)
    with pytest.raises(InputError, match=r"no conversations 'other'; there are: own, test"):
        real.parted(rows, options(real="other"))
    with pytest.raises(InputError, match="there are: none"):
        real.parted(rows.iloc[:0], options())


def test_real_conversations_do_not_contaminate_the_synthetic_ones():
    """A synthetic dialogue may say what a conversation says that is learnt from too."""
    text = json.loads(good()[0])["messages"][0]["content"]
    rows = table(
        conversation("t1", turn("seeker", text), turn("recommender", "x", "f01")),
        *domain.conversations().to_dict("records"),
    )
    theirs, _ = real.parted(rows, options())
    assert run(good(), conversations=theirs)[0].summary["quarantined"]["contaminated"] == 0
    assert run(good(), conversations=rows)[0].summary["quarantined"]["contaminated"] == 1
