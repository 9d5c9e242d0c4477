"""The fast ways give what the plain ones give: values, gradients, and who sees whom."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.students.families import tiny_model
from torch.nn.functional import cross_entropy

from seedtalk.students import kernels

FAMILIES = ["llama", "qwen2", "gemma2", "cohere", "granite"]


def gradients(model):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def close(expected, found):
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        scale = tensor.abs().max().clamp_min(1e-6)
        assert ((tensor - found[name]).abs().max() / scale).item() < 1e-4, name


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layer_gives_the_plain_layers_values_and_gradients(shape, bias):
    plain = torch.nn.Linear(7, 5, bias=bias)
    fast = kernels.speed_up(copy.deepcopy(plain))
    x = torch.randn(shape)
    found = []
    for layer in (plain, fast):
        given_x = x.clone().requires_grad_()
        y = layer(given_x)
        (y * torch.arange(5.0)).sum().backward()
        found.append((y, given_x.grad, *(p.grad for p in layer.parameters())))
    for expected, other in zip(*found, strict=True):
        torch.testing.assert_close(other, expected)


def test_linear_layers_keep_names_and_kinds():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    before = model.state_dict()
    fast = kernels.speed_up(copy.deepcopy(model))
    assert fast.state_dict().keys() == before.keys()
    assert all(isinstance(fast[i], torch.nn.Linear) for i in (0, 2))
    assert kernels.speed_up(fast)[0].__class__ is fast[2].__class__, "twice is once"
    other = copy.deepcopy(fast)
    other[0].weight.data.zero_()
    assert fast[0].weight.abs().sum() > 0
    half = fast.to(torch.float64)(torch.ones(1, 3, dtype=torch.float64))
    assert half.dtype == torch.float64


def test_another_processor_is_left_alone(monkeypatch):
    kernels._onednn.cache_clear()
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    try:
        layer = kernels.speed_up(torch.nn.Linear(3, 4))
        assert type(layer) is torch.nn.Linear
    finally:
        kernels._onednn.cache_clear()


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    cap=st.sampled_from([0.0, 0.7, 30.0]),
    scale=st.sampled_from([1.0, 0.25, 3.0]),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_head_loss_is_that_of_the_logits(rows, cap, scale, bias, seed):
    draw = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, 6, generator=draw) for n in (rows, 50))
    shift = torch.randn(50, generator=draw) if bias else None
    targets = torch.randint(0, 50, (rows,), generator=draw)
    inputs = [t.requires_grad_() for t in (hidden, weight, shift) if t is not None]
    logits = torch.nn.functional.linear(hidden, weight, shift) * scale
    if cap:
        logits = (logits / cap).tanh() * cap
    expected = cross_entropy(logits, targets, reduction="sum")
    wanted = torch.autograd.grad(3 * expected, inputs)
    chunk, kernels.HEAD_VALUES = kernels.HEAD_VALUES, 50 * 16  # 16 rows at a time
    try:
        found = kernels._head_function().apply(hidden, weight, shift, targets, scale, cap)
    finally:
        kernels.HEAD_VALUES = chunk
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    for one, other in zip(torch.autograd.grad(3 * found, inputs), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_head_takes_no_gradients_that_nobody_asks_for(family, monkeypatch):
    model, calls = tiny_model(family), []
    model.requires_grad_(True)
    product = kernels._product
    monkeypatch.setattr(kernels, "_product", lambda *a, **k: calls.append(1) or product(*a, **k))
    loss, head = kernels.head_loss(model), model.get_output_embeddings()
    hidden = torch.randn(5, head.weight.shape[1])
    asked = loss(hidden, torch.arange(5))
    assert asked.requires_grad and len(calls) == 2, "logits, and the gradient of the weights"
    calls.clear()
    with torch.no_grad():
        assert torch.equal(loss(hidden, torch.arange(5)), asked)
    assert len(calls) == 1


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), seed=st.integers(0, 99), half=st.booleans())
def test_loss_of_some_logits_is_that_of_all_at_once(rows, seed, half):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 3, 7, generator=draw)
    logits = logits.bfloat16() if half else logits
    targets = torch.randint(0, 7, (rows, 3), generator=draw)
    kept = torch.rand(rows, 3, generator=draw) < 0.6
    chunk, kernels.HEAD_VALUES = kernels.HEAD_VALUES, 7 * 17
    try:
        found = kernels.logits_loss(logits, targets, kept)
    finally:
        kernels.HEAD_VALUES = chunk
    expected = cross_entropy(logits[kept].float(), targets[kept], reduction="sum")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_row_gives_loss_and_gradients_of_its_parts(family):
    model = tiny_model(family)
    parts = [torch.randint(3, 300, (n,)) for n in (9, 17, 4)]
    total = torch.zeros(())
    for ids in parts:
        total = total + cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="sum")
    total.backward()
    expected = gradients(model)

    kernels.speed_up(model)
    kernels.pack_attention(model)
    hidden = model.get_decoder()(
        input_ids=torch.cat(parts)[None],
        position_ids=torch.cat([torch.arange(len(ids)) for ids in parts])[None],
        parts=[0, 9, 26, 30],
        use_cache=False,
    ).last_hidden_state[0]
    kept = torch.ones(30, dtype=torch.bool)
    kept[[8, 25, 29]] = False  # the last of each part predicts nothing
    found = kernels.head_loss(model)(
        hidden[kept], torch.cat([ids[1:] for ids in parts])
    )  # fmt: skip
    torch.testing.assert_close(found, total, rtol=1e-5, atol=0)
    found.backward()
    close(expected, gradients(model))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_no_part_sees_another(family):
    model = tiny_model(family)
    kernels.pack_attention(model)
    row = torch.randint(3, 300, (1, 20))
    positions = torch.cat([torch.arange(12), torch.arange(8)])[None]
    embedded = model.get_input_embeddings()(row).detach().requires_grad_()
    hidden = model.get_decoder()(
        inputs_embeds=embedded, position_ids=positions, parts=[0, 12, 20], use_cache=False
    ).last_hidden_state
    hidden[0, 15].square().sum().backward()
    seen = embedded.grad[0].abs().sum(-1) > 0
    assert seen.nonzero().flatten().tolist() == [12, 13, 14, 15]


def test_gemma_sees_its_window_only():
    model = tiny_model("gemma2", layers=1)  # the first layer slides: five positions
    kernels.pack_attention(model)
    row = torch.randint(3, 300, (1, 9))
    embedded = model.get_input_embeddings()(row).detach().requires_grad_()
    hidden = model.get_decoder()(inputs_embeds=embedded, use_cache=False).last_hidden_state
    hidden[0, 8].square().sum().backward()
    seen = embedded.grad[0].abs().sum(-1) > 0
    assert seen.nonzero().flatten().tolist() == [4, 5, 6, 7, 8]


def test_heads_that_are_not_known_are_not_guessed():
    model = tiny_model("llama")
    assert kernels.head_loss(model) is not None
    model.config.output_router_logits = True
    assert kernels.head_loss(model) is None
