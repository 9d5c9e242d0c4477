"""Drafted greedy decoding against plain greedy decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.unit.students.families import tokenizer
from transformers import AutoModelForCausalLM, DynamicCache, Gemma2Config, LlamaConfig

from seedtalk.students import listing
from seedtalk.students.decoding import OPENING
from seedtalk.students.listing import Lister, _pack
from seedtalk.students.templates import context_messages, format_answer, token_ids

TITLES = [
    "Signal Harbour (1995)",
    "The Quiet Orchard (1971)",
    "The Quiet Moth",
    "M",
    "Ünder (2001)",
]
REQUESTS = [
    context_messages([{"role": "seeker", "text": text}])
    for text in ("The harbour!", "Something quiet, a long one, please. " * 5, "M", "horror")
]


def random_model(made, config=LlamaConfig, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config(
                vocab_size=len(made),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                initializer_range=0.3,
                eos_token_id=made.eos_token_id,
                pad_token_id=made.pad_token_id,
                **options,
            )
        )
    return model.eval()


def greedy(lister, prompt, most):
    """Return what the likeliest token each time makes, no cache, one request, no draft."""
    ids, lines = list(prompt), 0
    while len(ids) - len(prompt) < most and lines < lister.count:
        with torch.inference_mode():
            token = int(lister.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in lister.ends:
            break
        ids.append(token)
        lines += "\n" in lister.tokenizer.decode([token])
    return ids[len(prompt) :]


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def lister(request):
    if request.param == "llama":
        made = tokenizer("chatml", joining=True)
        model = random_model(made)
    else:
        made = tokenizer("gemma")
        model = random_model(
            made, Gemma2Config, seed=2, sliding_window=24, head_dim=8, query_pre_attn_scalar=8
        )
    return Lister(model, made, TITLES, count=3)


def test_the_text_is_that_of_plain_greedy_decoding(lister, monkeypatch):
    monkeypatch.setattr(listing, "SPARE", 5)  # packs the cache every few tokens
    prompts = [lister.prompt(messages) for messages in REQUESTS]
    expected = [greedy(lister, prompt, 16 * 3) for prompt in prompts]
    assert lister.tokens(prompts) == expected
    assert [lister.tokens([prompt])[0] for prompt in prompts] == expected
    texts = lister.write(REQUESTS)
    assert texts[0] == OPENING + lister.tokenizer.decode(expected[0], skip_special_tokens=True)


@pytest.fixture(scope="module")
def tuned():
    """A model that has learnt one list by heart."""
    made = tokenizer("chatml", joining=True)
    model = random_model(made)
    lister = Lister(model, made, TITLES, count=4)
    text = format_answer(TITLES[:3])
    prompts = [lister.prompt(messages) for messages in REQUESTS]
    answer = [*token_ids(made, text.removeprefix(OPENING) + "\n"), made.eos_token_id]
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(60):
        for prompt in prompts[:2]:
            ids = torch.tensor([[*prompt, *answer]])
            labels = ids.clone()
            labels[0, : len(prompt)] = -100
            model(ids, labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    model.eval()
    return lister, text


def test_a_learnt_list_is_written_in_fewer_passes(tuned, monkeypatch):
    lister, text = tuned
    passes = []
    run = listing.forward
    monkeypatch.setattr(listing, "forward", lambda *args: (passes.append(1), run(*args))[1])
    found = lister.write(REQUESTS[:2])
    assert [one.strip() for one in found] == [text, text]
    assert len(passes) < len(lister.tokens([lister.prompt(REQUESTS[0])])[0]) / 2


def test_an_answer_ends_after_its_lines(tuned):
    lister, text = tuned
    short = Lister(lister.model, lister.tokenizer, TITLES, count=2)
    assert short.write(REQUESTS[:1]) == ["\n".join(text.splitlines()[:2]) + "\n"]


def test_an_answer_ends_after_its_tokens(lister, monkeypatch):
    monkeypatch.setattr(listing, "TITLE_TOKENS", 4)
    monkeypatch.setattr(lister, "ends", set())
    found = lister.tokens([lister.prompt(messages) for messages in REQUESTS])
    assert max(map(len, found)) == 12


def test_packing_keeps_what_is_live_in_order(monkeypatch):
    monkeypatch.setattr(listing, "SPARE", 2)
    cache = DynamicCache()
    keys = torch.arange(2 * 6, dtype=torch.float32).reshape(2, 1, 6, 1)
    cache.update(keys, keys + 100, 0)
    positions = np.array([[-1, 0, 1, -1, 2, 3], [0, -1, -1, 1, -1, 2]])
    packed = _pack(cache, positions)
    assert packed.tolist() == [[0, 1, 2, 3], [-1, 0, 1, 2]]
    assert cache.layers[0].keys[0, 0, :, 0].tolist() == [1, 2, 4, 5]
    assert cache.layers[0].keys[1, 0, 1:, 0].tolist() == [6, 9, 11]
    assert cache.layers[0].values[1, 0, 1:, 0].tolist() == [106, 109, 111]
    assert _pack(cache, packed) is packed
