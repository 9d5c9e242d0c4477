import asyncio
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import domain

from seedtalk.errors import RunError
from seedtalk.teacher import budget
from seedtalk.teacher.answers import Usage
from seedtalk.teacher.ledger import Ledger
from seedtalk.teacher.prices import Price

BODY = {"model": "m", "messages": [{"role": "user", "content": "four é"}], "max_tokens": 10}
PRICE = Price(1e6, 2e6)  # 1 and 2 USD a token
MOST = 7 + 16 + 20  # 7 bytes, 16 for the message's frame, 10 tokens of answer at twice the price


def teacher(**values):
    return domain.params(teacher=values).teacher


@pytest.mark.parametrize(
    ("price", "usage", "batch", "usd"),
    [
        (PRICE, Usage(3, 4), False, 11.0),
        (PRICE, Usage(3, None), False, None),
        (PRICE, Usage(None, 4), False, None),
        (None, Usage(3, 4), False, None),
        (Price(0.0, 0.0), Usage(3, 4), False, 0.0),
        (Price(0.15, 0.6), Usage(1000, 500), False, 0.00045),
        (Price(0.15, 0.6, batch_factor=0.5), Usage(1000, 500), True, 0.000225),
        (Price(0.15, 0.6, batch_factor=0.5), Usage(1000, 500), False, 0.00045),
        (Price(2e6, 0, cached_input=5e5), Usage(10, 0, cached=4), False, 14.0),
        (Price(2e6, 0), Usage(10, 0, cached=4), False, 20.0),  # no price of its own
        (Price(2e6, 0, cached_input=5e5), Usage(10, 0, cached=40), False, 5.0),  # not over input
        # Whether the discounts add up is the vendor's to say: the dearer is taken.
        (Price(2e6, 0, cached_input=5e5, batch_factor=0.5), Usage(10, 0, cached=4), True, 10.0),
        (Price(0.0001, 0.0), Usage(1, 0), False, 1e-9),  # up, to a billionth
        (Price(0.1, 0.2), Usage(3, 0), False, 3e-7),  # 0.1 * 3 in floats is over 0.3
    ],
)
def test_a_call_costs_its_tokens(price, usage, batch, usd):
    assert budget.cost(price, usage, batch) == usd


def test_the_reservation_is_never_under_the_cost():
    assert budget.most(PRICE, BODY) == MOST
    assert budget.most(None, BODY) == 0.0
    assert budget.most(Price(1e6, 2e6, batch_factor=0.5), BODY, batch=True) == MOST / 2


def test_a_schema_of_the_answer_is_reserved_for_too():
    schema = {"type": "json_schema", "json_schema": {"name": "dialogue"}}
    more = budget.most_input(BODY | {"response_format": schema}) - budget.most_input(BODY)
    assert more >= len('{"type": "json_schema", "json_schema": {"name": "dialogue"}}')
    assert budget.request_bytes(BODY | {"response_format": schema}) - 7 == more


def test_the_least_the_likely_and_the_most_tokens_are_in_this_order():
    assert budget.least_input(BODY) == 2
    assert budget.request_bytes(BODY) == 7
    assert budget.most_input(BODY) == 7 + 16


prices = st.builds(
    Price,
    st.floats(0, 100),
    st.floats(0, 100),
    st.none() | st.floats(0, 200),
    st.floats(0.01, 1),
)


@given(
    prices,
    st.text(max_size=50),
    st.integers(1, 5000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.booleans(),
)
def test_what_a_call_may_cost_bounds_what_it_costs(price, text, tokens, share, cached, batch):
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    read = int(share * len(text.encode("utf-8", "replace")))
    usage = Usage(read, tokens, cached=int(cached * read))
    assert budget.cost(price, usage, batch) <= budget.most(price, body, batch)


def exactly(price, usage):
    return (
        Fraction(repr(price.input)) * usage.input + Fraction(repr(price.output)) * usage.output
    ) / 10**6


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.decimals("0.001", "60", places=3), st.decimals("0.001", "60", places=3)),
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), min_size=1, max_size=40),
    st.decimals("0.000001", "0.5", places=6),
)
def test_no_rounding_lets_the_exact_sum_pass_a_cap(tmp_path_factory, price, usages, cap):
    price = Price(*map(float, price))
    with Ledger(tmp_path_factory.mktemp("l") / "l.sqlite") as ledger:
        ledger.scope(map(str, range(len(usages))))
        exact = Fraction(0)
        for number, usage in enumerate(usages):
            usd = budget.cost(price, Usage(*usage))
            row = ledger.reserve(str(number), "e", "m", usd, max_calls=0, max_usd=float(cap))
            fits = exact + exactly(price, Usage(*usage)) <= Fraction(cap)
            if row is not None:
                ledger.receive(row, "{}", usd)
                exact += exactly(price, Usage(*usage))
                assert fits
        assert exact <= Fraction(cap)
        assert exact <= Fraction(repr(ledger.spent().usd)) <= exact + Fraction(len(usages), 10**9)


def test_a_cap_can_be_used_up_to_the_last_cent(tmp_path):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.scope(map(str, range(31)))
        rows = [ledger.reserve(str(n), "e", "m", 0.1, max_calls=0, max_usd=3.0) for n in range(31)]
        assert rows[-1] is None and None not in rows[:-1]  # thirty times 0.1 is 3, not a bit more


def caps(ledger, writer, price=PRICE, **values):
    return budget.Budget(ledger, writer, teacher(**values), price, "e")


def run(tmp_path, scenario, keys="abcdef"):
    async def main():
        with Ledger(tmp_path / "l.sqlite") as ledger:
            ledger.scope(keys)
            async with ledger.writer() as writer:
                await asyncio.wait_for(scenario(ledger, writer), 10)

    asyncio.run(main())


def test_it_waits_for_calls_in_flight_before_it_gives_up(tmp_path):
    async def scenario(ledger, writer):
        shared = caps(ledger, writer, max_usd=50.0)
        first = await shared.reserve("a", BODY)  # 43 of 50
        waiting = asyncio.create_task(shared.reserve("b", BODY))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await writer.receive(first, "{}", 5.0)
        await shared.release()
        second = await waiting
        await writer.receive(second, "{}", 30.0)
        await shared.release()
        with pytest.raises(budget.CapReachedError, match="max_usd=50 reached: 2 calls, 35") as it:
            await shared.reserve("c", BODY)
        assert "next call may cost 43.0000" in it.value.message

    run(tmp_path, scenario)


def test_a_cap_on_calls_does_not_wait(tmp_path):
    async def scenario(ledger, writer):
        shared = caps(ledger, writer, price=None, max_calls=1)
        await shared.reserve("a", BODY)
        with pytest.raises(budget.CapReachedError, match="max_calls=1 reached"):
            await asyncio.wait_for(shared.reserve("b", BODY), 1)

    run(tmp_path, scenario)


@pytest.mark.parametrize("room", [0, 1, 3])
def test_those_who_ask_at_once_all_learn_that_the_cap_is_reached(tmp_path, room):
    """Nobody waits for a call that was never sent, and nobody gives up beside one that was."""

    async def scenario(ledger, writer):
        shared = caps(ledger, writer, max_usd=max(0.5, room * MOST))

        async def call(key):
            row = await shared.reserve(key, BODY)
            await asyncio.sleep(0.02)
            await writer.receive(row, "{}", float(MOST))  # as dear as can be
            await shared.release()

        results = await asyncio.gather(*map(call, "abcdef"), return_exceptions=True)
        assert sum(result is None for result in results) == room
        assert all(isinstance(r, budget.CapReachedError) for r in results if r is not None)
        assert ledger.spent().calls == room

    run(tmp_path, scenario)


def test_calls_that_cost_less_than_reserved_make_room_for_all_others(tmp_path):
    async def scenario(ledger, writer):
        shared = caps(ledger, writer, max_usd=MOST + 5.5)

        async def call(key):
            row = await shared.reserve(key, BODY)
            await writer.receive(row, "{}", 1.0)
            await shared.release()

        await asyncio.gather(*map(call, "abcdef"))
        assert ledger.spent() == budget_spent(6, 6.0)

    run(tmp_path, scenario)


def budget_spent(calls, usd):
    from seedtalk.teacher.ledger import Spent

    return Spent(calls, usd)


def test_once_reached_it_stays_reached(tmp_path):
    async def scenario(ledger, writer):
        shared = caps(ledger, writer, max_usd=MOST - 1.0)
        with pytest.raises(budget.CapReachedError):
            await shared.reserve("a", BODY)
        small = BODY | {"max_tokens": 1}
        with pytest.raises(budget.CapReachedError):
            await shared.reserve("b", small)  # the run is at its end, whatever would still fit
        assert ledger.spent().calls == 0

    run(tmp_path, scenario)


def test_a_ledger_that_cannot_be_written_keeps_nobody_waiting(tmp_path):
    async def scenario(ledger, writer):
        shared = caps(ledger, writer, max_usd=MOST + 1.0)
        row = await shared.reserve("a", BODY)
        waiting = asyncio.create_task(shared.reserve("b", BODY))
        await asyncio.sleep(0.05)

        async def broken(*_, **__):
            raise RunError("the disk is full")

        shared._writer = type("Broken", (), {"reserve": broken})()
        with pytest.raises(RunError, match="disk is full"):
            await shared.reserve("c", BODY)
        await shared.release()  # of row, whose settling failed too
        with pytest.raises(RunError, match="disk is full"):
            await waiting
        assert row is not None

    run(tmp_path, scenario)


def test_a_call_settled_while_another_is_refused_makes_room_for_it(tmp_path):
    """Refused for the last call in flight, which was settled before the refusal arrived."""

    async def scenario(ledger, writer):
        shared = caps(ledger, writer, max_usd=MOST + 1.0)
        row = await shared.reserve("a", BODY)

        class Late:
            async def reserve(self, *told, **more):
                refused = await writer.reserve(*told, **more)
                if refused is None:
                    await writer.receive(row, "{}", 0.5)
                    await shared.release()
                return refused

        shared._writer = Late()
        assert await shared.reserve("b", BODY) is not None

    run(tmp_path, scenario)


def test_a_caller_that_is_cancelled_gives_its_place_back(tmp_path):
    async def scenario(ledger, writer):
        shared = caps(ledger, writer, max_usd=MOST - 1.0)
        gone = asyncio.create_task(shared.reserve("a", BODY))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises((asyncio.CancelledError, budget.CapReachedError)):
            await gone
        with pytest.raises(budget.CapReachedError):
            await shared.reserve("b", BODY)

    run(tmp_path, scenario)
