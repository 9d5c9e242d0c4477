import asyncio

import pytest
from tests import domain

from seedtalk.errors import InputError
from seedtalk.teacher import budget
from seedtalk.teacher.answers import Usage
from seedtalk.teacher.ledger import Ledger

BODY = {"model": "m", "messages": [{"role": "user", "content": "four é"}], "max_tokens": 10}


def teacher(**values):
    return domain.params(teacher=values).teacher


PRICED = {"usd_per_million_input": 1e6, "usd_per_million_output": 2e6}  # 1 and 2 USD a token


def test_a_call_costs_its_tokens():
    assert budget.cost(teacher(**PRICED), Usage(3, 4)) == 11.0
    assert budget.cost(teacher(**PRICED), Usage(3, None)) is None
    assert budget.cost(teacher(), Usage(3, 4)) is None


def test_the_reservation_is_never_under_the_cost():
    # 7 bytes, 16 for the message's frame, 10 tokens of answer at twice the price
    assert budget.most(teacher(**PRICED), BODY) == 7 + 16 + 20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_usd": 1.0}, "price of 'extractive' is unknown"),
        ({"usd_per_million_input": 1.0}, "both or neither"),
    ],
)
def test_an_unknown_price_is_an_error(values, message):
    with pytest.raises(InputError, match=message):
        budget.priced(teacher(**values))


def test_it_waits_for_calls_in_flight_before_it_gives_up(tmp_path):
    async def run():
        with Ledger(tmp_path / "l.sqlite") as ledger:
            ledger.scope(["a", "b", "c"])
            caps = budget.Budget(ledger, teacher(max_usd=50.0, **PRICED), "e")
            first = await caps.reserve("a", BODY)  # 43 of 50
            waiting = asyncio.create_task(caps.reserve("b", BODY))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            ledger.price(first, 5.0)
            await caps.release()
            second = await asyncio.wait_for(waiting, 1)
            ledger.price(second, 30.0)
            await caps.release()
            with pytest.raises(budget.CapReachedError, match="max_usd=50 reached: 2 calls, 35"):
                await caps.reserve("c", BODY)

    asyncio.run(run())


def test_a_cap_on_calls_does_not_wait(tmp_path):
    async def run():
        with Ledger(tmp_path / "l.sqlite") as ledger:
            ledger.scope(["a", "b"])
            caps = budget.Budget(ledger, teacher(max_calls=1), "e")
            await caps.reserve("a", BODY)
            with pytest.raises(budget.CapReachedError, match="max_calls=1 reached"):
                await asyncio.wait_for(caps.reserve("b", BODY), 1)

    asyncio.run(run())
