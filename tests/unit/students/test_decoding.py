"""Scores and searches of titles against running every title by itself."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.toy import toy_items
from tests.unit.students.families import tokenizer
from tokenizers import pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from seedtalk.errors import InputError
from seedtalk.students.decoding import TitleScorer, groups, title_tokens
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


REQUESTS = [
    MESSAGES,
    context_messages([{"role": "seeker", "text": "horror"}]),
    context_messages(
        [{"role": "seeker", "text": "Something with a very long title, or two. " * 4}]
    ),
]


def one_by_one(student, messages, titles, normalise="sum"):
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


FAMILIES = {  # name: architecture, tokenizer, options
    "llama": (LlamaConfig, ("llama3", True), {}),
    "qwen2": (Qwen2Config, ("chatml", True), {}),
    "qwen2-window": (
        Qwen2Config,
        ("chatml", True),
        {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "mistral-window": (MistralConfig, ("chatml", False), {"sliding_window": 24}),
    "gemma2": (
        Gemma2Config,
        ("gemma", False),
        {
            "sliding_window": 24,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """A random model of each family, wide enough to prefer something, and its tokenizer."""
    config, (chat, joining), options = FAMILIES[request.param]
    made = tokenizer(chat, joining)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(
            config(
                vocab_size=len(made),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.3,
                **options,
            )
        )
    return model.eval(), made


@pytest.mark.parametrize("normalise", ["mean", "sum"])
def test_every_family_scores_and_searches_as_one_by_one(family, normalise):
    titles = TITLES[::3] + TITLES[-8:]
    scorer = TitleScorer(*family, titles, normalise=normalise, nodes=64)
    expected = [one_by_one(family, messages, titles, normalise) for messages in REQUESTS]
    assert np.ptp(expected[0]) > 1
    for found, wanted in zip(scorer.score(REQUESTS), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    for beam in (0, len(titles)):
        for found, wanted in zip(scorer.search(REQUESTS, 7, beam=beam), expected, strict=True):
            np.testing.assert_allclose(found.scores, np.sort(wanted)[::-1][:7], atol=1e-4)
            np.testing.assert_allclose(wanted[found.titles], found.scores, atol=1e-4)


@pytest.mark.parametrize("nodes", [15, 60])
def test_small_passes_do_not_change_the_scores(student, nodes):
    whole = TitleScorer(*student, TITLES).score(REQUESTS)
    parts = TitleScorer(*student, TITLES, nodes=nodes).score(REQUESTS)
    for found, wanted in zip(parts, whole, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_candidates_are_scored_in_their_order(student):
    scorer = TitleScorer(*student, TITLES)
    whole = scorer.score(REQUESTS)
    chosen = [[17, 3, 40, 3, 44], [], [2]]
    for found, rows, wanted in zip(scorer.score(REQUESTS, chosen), chosen, whole, strict=True):
        np.testing.assert_allclose(found, wanted[rows], atol=1e-5)


def test_repeated_scoring_leaves_no_trace(student):
    scorer = TitleScorer(*student, TITLES, nodes=50)
    first = scorer.score(REQUESTS)
    scorer.search(REQUESTS, 5, also=[[1], [], [2, 3]])
    for found, wanted in zip(scorer.score(REQUESTS), first, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_neighbours_do_not_change_an_answer(student):
    scorer = TitleScorer(*student, TITLES)
    together = scorer.search(REQUESTS, 9, beam=6, also=[[4, 8], [], [1]])
    for row, also in enumerate([[4, 8], [], [1]]):
        (alone,) = scorer.search([REQUESTS[row]], 9, beam=6, also=[also])
        assert alone.titles.tolist() == together[row].titles.tolist()
        np.testing.assert_allclose(alone.scores, together[row].scores, atol=1e-5)
        np.testing.assert_allclose(alone.also, together[row].also, atol=1e-5)


@pytest.mark.parametrize(("family", "joining"), [("chatml", False), ("chatml", True)])
def testtitle_tokens_are_those_of_the_whole_text(family, joining):
    made = tokenizer(family, joining)
    scorer = TitleScorer(None, made, TITLES)
    paths = title_tokens(made, TITLES)[0]
    prompt = token_ids(made, render(made, MESSAGES, answer=True) + "1.")
    prompt = prompt[: len(prompt) - scorer._overhang]
    for title, path in zip(TITLES, paths, strict=True):
        text = render(made, MESSAGES, answer=True) + f"1. {title}\n"
        assert [*prompt, *path] == token_ids(made, text)
    if joining:
        last = {made.decode([path[-1]]) for path in paths}
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
    np.testing.assert_allclose(scorer.score([MESSAGES])[0], expected, atol=1e-4)


def test_long_context_is_cut(student):
    long = context_messages([{"role": "seeker", "text": "word " * 3000 + "the end"}])
    (scores,) = TitleScorer(*student, TITLES[:3], max_context=64).score([long])
    assert np.isfinite(scores).all()


def test_groups_hold_every_prompt_once_and_few_tokens():
    lengths = [40, 3, 200, 1, 90, 90, 90, 90, 2, 5, 30, 31, 32, 33, 34]
    parts = groups(lengths, 100)
    assert sorted(place for part in parts for place in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[i] for i in part) <= 4 * 100
    assert max(map(len, parts)) == 8
    assert parts[0] == [3, 8, 1, 9, 10, 11, 12, 13]
    assert groups([], 100) == []


TEXTS = st.lists(
    st.text("ab é’", min_size=1, max_size=7).filter(str.strip), min_size=1, max_size=12
)


@given(
    titles=TEXTS,
    depth=st.integers(1, 12),
    normalise=st.sampled_from(["sum", "mean"]),
    correction=st.sampled_from([0.0, 0.4, 1.0]),
    data=st.data(),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_search_until_certain_is_exact(student, titles, depth, normalise, correction, data):
    scorer = TitleScorer(*student, titles, normalise=normalise, correction=correction)
    barred = data.draw(st.lists(st.sampled_from(range(len(titles))), unique=True))
    (exact,) = scorer.score([MESSAGES])
    (found,) = scorer.search([MESSAGES], depth, beam=0, exclude=[barred])
    left = [title for title in range(len(titles)) if title not in barred]
    order = sorted(left, key=lambda title: (-exact[title], title))[:depth]
    assert set(found.titles.tolist()) <= set(left)
    assert len(set(found.titles.tolist())) == len(order) == len(found.titles)
    np.testing.assert_allclose(found.scores, exact[order], atol=1e-5)
    np.testing.assert_allclose(exact[found.titles], found.scores, atol=1e-5)
    ranked = list(zip(-found.scores, found.titles, strict=True))
    assert ranked == sorted(ranked)


def test_search_until_certain_leaves_most_of_a_catalogue_alone(student):
    words = ["Signal", "Harbour", "Quiet", "Orchard", "Moth", "Zeppelin", "Glove", "Teeth"]
    titles = [f"{a} {b} {c}" for a in words for b in words for c in words]
    model, made = student
    wide = AutoModelForCausalLM.from_config(model.config)  # narrow weights tell titles little apart
    with torch.no_grad():
        for weight in wide.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) / 2)
    scorer = TitleScorer(wide.eval(), made, titles)
    ran = []
    run = scorer._run_once
    scorer._run_once = lambda state, nodes: (ran.append(len(nodes[0])), run(state, nodes))
    (found,) = scorer.search([MESSAGES], 3, beam=0)
    spent = sum(ran)
    (exact,) = scorer.score([MESSAGES])
    np.testing.assert_allclose(found.scores, np.sort(exact)[::-1][:3], atol=1e-4)
    assert spent < len(scorer.trie) / 2


def test_correction_takes_off_a_share_of_what_an_empty_request_gives(student, tmp_path):
    base = one_by_one(student, context_messages([]), TITLES, "mean")
    expected = one_by_one(student, MESSAGES, TITLES, "mean") - 0.7 * base
    options = {"normalise": "mean", "correction": 0.7, "cache_dir": tmp_path}
    scorer = TitleScorer(*student, TITLES, **options)
    np.testing.assert_allclose(scorer.score([MESSAGES])[0], expected, atol=1e-4)
    (found,) = scorer.search([MESSAGES], 5, beam=0)
    np.testing.assert_allclose(found.scores, np.sort(expected)[::-1][:5], atol=1e-4)
    (again,) = scorer.search([MESSAGES], 5, beam=len(TITLES))
    assert again.titles.tolist() == found.titles.tolist()


def test_scores_after_an_empty_request_are_kept_by_weights_and_titles(
    student, tmp_path, monkeypatch
):
    runs = []
    run = TitleScorer._run_titles
    monkeypatch.setattr(
        TitleScorer, "_run_titles", lambda *args: (runs.append(args), run(*args))[1]
    )
    options = {"correction": 1.0, "cache_dir": tmp_path}
    first = TitleScorer(*student, TITLES, **options)
    second = TitleScorer(*student, TITLES, normalise="mean", **options)
    np.testing.assert_array_equal(first.prior, second.prior)
    assert len(runs) == 1
    TitleScorer(*student, TITLES[:5], **options)
    model, made = student
    other = AutoModelForCausalLM.from_config(model.config)
    TitleScorer(other, made, TITLES, **options)
    assert len(runs) == 3
    assert len(list((tmp_path / "popularity").iterdir())) == 3
    shutil.rmtree(tmp_path / "popularity")
    np.testing.assert_array_equal(TitleScorer(*student, TITLES, **options).prior, first.prior)


def test_narrow_beam_scores_what_it_finds_rightly(student):
    scorer = TitleScorer(*student, TITLES)
    exact = scorer.score(REQUESTS)
    for found, wanted in zip(scorer.search(REQUESTS, 4, beam=2), exact, strict=True):
        assert len(set(found.titles.tolist())) == len(found.titles) > 0
        np.testing.assert_allclose(found.scores, wanted[found.titles], atol=1e-4)


def test_titles_asked_for_beside_are_scored_found_or_not(student):
    scorer = TitleScorer(*student, TITLES)
    exact = scorer.score(REQUESTS)
    also = [list(range(len(TITLES))), [], [5, 5]]
    found = scorer.search(REQUESTS, 3, beam=2, also=also)
    for one, rows, wanted in zip(found, also, exact, strict=True):
        np.testing.assert_allclose(one.also, wanted[rows], atol=1e-4)


def test_excluded_titles_are_not_named(student):
    scorer = TitleScorer(*student, TITLES)
    best = scorer.search([MESSAGES], 3, beam=100)[0].titles.tolist()
    rest = scorer.search([MESSAGES], 100, exclude=[best], beam=100)[0].titles.tolist()
    assert not set(best) & set(rest)
    assert len(rest) == len(TITLES) - 3
    (none,) = scorer.search([MESSAGES], 3, exclude=[range(len(TITLES))])
    assert none.titles.tolist() == []


def test_equal_titles_rank_by_their_index(student):
    scorer = TitleScorer(*student, ["Grey Ransom", "Six Alibis", "Grey Ransom", "Grey Ransom"])
    (found,) = scorer.search([MESSAGES], 4)
    places = [found.titles.tolist().index(title) for title in (0, 2, 3)]
    assert places == list(range(places[0], places[0] + 3))


def test_catalogue_faults_are_input_errors(student):
    with pytest.raises(InputError, match="no titles"):
        TitleScorer(*student, [])
    with pytest.raises(InputError, match="title 2: blank"):
        TitleScorer(*student, ["Heat", "  "])
