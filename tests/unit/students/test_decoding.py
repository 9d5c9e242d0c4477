"""Packed title scores against running every title by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.toy import toy_items
from tests.unit.students.families import tokenizer
from tokenizers import pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from seedtalk.errors import InputError
from seedtalk.students.decoding import TitleScorer, beam_titles
from seedtalk.students.templates import context_messages, render, token_ids

TITLES = [f"{item['title']} ({item['year']})" for item in toy_items()] + [
    "The",
    "The Night",
    "The Night Ferry",
    "Six Alibis",
    "Six Alibis",
    "12 Angry Plumbers (1957)",
    "...And a Goat (1979)",
    "¿Qué? (2001)",
    "M",
]
MESSAGES = context_messages(
    [
        {"role": "seeker", "text": "I liked The Copper Android and Six Alibis."},
        {"role": "recommender", "text": "1. Grey Ransom"},
        {"role": "seeker", "text": "Something older?"},
    ]
)


def one_by_one(student, messages, titles, normalise="mean"):
    """Score each title in a run of its own over the plain text."""
    model, made = student
    prompt = render(made, messages, answer=True) + "1."
    scores = []
    for title in titles:
        start = len(token_ids(made, prompt))
        ids = token_ids(made, f"{prompt} {title}\n")
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        parts = [logprobs[i - 1, ids[i]].item() for i in range(start, len(ids))]
        scores.append(sum(parts) / (len(parts) if normalise == "mean" else 1))
    return np.array(scores)


@pytest.mark.parametrize("normalise", ["mean", "sum"])
def test_packed_scores_equal_one_by_one(student, normalise):
    scorer = TitleScorer(*student, TITLES)
    expected = one_by_one(student, MESSAGES, TITLES, normalise)
    np.testing.assert_allclose(scorer.score(MESSAGES, normalise=normalise), expected, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 60])
def test_chunks_do_not_change_the_scores(student, chunk):
    whole = TitleScorer(*student, TITLES).score(MESSAGES)
    parts = TitleScorer(*student, TITLES, chunk=chunk).score(MESSAGES)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_candidates_are_scored_in_their_order(student):
    scorer = TitleScorer(*student, TITLES)
    whole = scorer.score(MESSAGES)
    chosen = [17, 3, 40, 3, 44]
    np.testing.assert_allclose(scorer.score(MESSAGES, chosen), whole[chosen], atol=1e-5)
    assert scorer.score(MESSAGES, []).shape == (0,)


def test_repeated_scoring_leaves_no_trace(student):
    scorer = TitleScorer(*student, TITLES, chunk=50)
    first = scorer.score(MESSAGES)
    scorer.score(context_messages([{"role": "seeker", "text": "horror"}]))
    np.testing.assert_array_equal(scorer.score(MESSAGES), first)


@pytest.mark.parametrize(("family", "joining"), [("chatml", False), ("chatml", True)])
def test_title_tokens_are_those_of_the_whole_text(family, joining):
    made = tokenizer(family, joining)
    scorer = TitleScorer(None, made, TITLES)
    prompt = token_ids(made, render(made, MESSAGES, answer=True) + "1.")
    prompt = prompt[: len(prompt) - scorer._overhang]
    for title, path in zip(TITLES, scorer.paths, strict=True):
        text = render(made, MESSAGES, answer=True) + f"1. {title}\n"
        assert [*prompt, *path] == token_ids(made, text)
    if joining:
        last = {made.decode([path[-1]]) for path in scorer.paths}
        assert ")\n" in last, "the family this stands for joins a bracket and its line's end"


def test_tokens_joined_across_the_border_belong_to_the_title(student):
    # No word borders at all: the list's number joins the title's first letters.
    made = tokenizer("chatml")
    raw = made.backend_tokenizer
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.train_from_iterator(
        ["1. The Quiet Orchard", "1. Teeth"] * 9,
        trainers.BpeTrainer(
            vocab_size=290,
            special_tokens=made.all_special_tokens,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=made.chat_template,
    )
    model, titles = student[0], ["The Quiet Orchard (1971)", "Teeth", "M"]
    scorer = TitleScorer(model, made, titles)
    assert scorer._overhang > 0
    opened = render(made, MESSAGES, answer=True)
    start = len(token_ids(made, opened + "1.")) - scorer._overhang
    expected = []
    for title in titles:
        ids = token_ids(made, f"{opened}1. {title}\n")
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected.append(sum(logprobs[i - 1, ids[i]].item() for i in range(start, len(ids))))
    np.testing.assert_allclose(scorer.score(MESSAGES, normalise="sum"), expected, atol=1e-4)


def test_long_context_is_cut(student):
    long = context_messages([{"role": "seeker", "text": "word " * 3000 + "the end"}])
    scores = TitleScorer(*student, TITLES[:3], max_context=64).score(long)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("normalise", ["mean", "sum"])
def test_beam_is_exact_when_it_holds_every_title(student, normalise):
    scorer = TitleScorer(*student, TITLES)
    exact = scorer.score(MESSAGES, normalise=normalise)
    order = sorted(range(len(TITLES)), key=lambda i: (-exact[i], i))
    found = beam_titles(scorer, MESSAGES, len(TITLES), beam=len(TITLES), normalise=normalise)
    np.testing.assert_allclose([s for _, s in found], exact[order], atol=1e-4)
    np.testing.assert_allclose(exact[[i for i, _ in found]], exact[order], atol=1e-4)
    top = beam_titles(scorer, MESSAGES, 5, beam=len(TITLES), normalise=normalise)
    assert top == found[:5]


def test_narrow_beam_scores_what_it_finds_rightly(student):
    scorer = TitleScorer(*student, TITLES)
    exact = scorer.score(MESSAGES)
    found = beam_titles(scorer, MESSAGES, 4, beam=4)
    assert len(found) == 4
    assert len({i for i, _ in found}) == 4
    for index, score in found:
        assert score == pytest.approx(exact[index], abs=1e-4)


def test_excluded_titles_are_not_named(student):
    scorer = TitleScorer(*student, TITLES)
    best = [i for i, _ in beam_titles(scorer, MESSAGES, 3, beam=100)]
    rest = [i for i, _ in beam_titles(scorer, MESSAGES, 100, exclude=best, beam=100)]
    assert not set(best) & set(rest)
    assert len(rest) == len(TITLES) - 3
    assert beam_titles(scorer, MESSAGES, 3, exclude=range(len(TITLES))) == []


def test_catalogue_faults_are_input_errors(student):
    with pytest.raises(InputError, match="no titles"):
        TitleScorer(*student, [])
    with pytest.raises(InputError, match="title 2: blank"):
        TitleScorer(*student, ["Heat", "  "])
