"""The ledger alone: a run that must not make a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seedtalk.errors import RunError
from seedtalk.params import Teacher
from seedtalk.teacher.answers import Failure, Outcome
from seedtalk.teacher.ledger import Ledger
from seedtalk.teacher.openai import keys_of, reread, standing


def answer_all(
    bodies: Sequence[Mapping[str, Any]], params: Teacher, ledger: Ledger
) -> Iterator[Outcome]:
    """Answer every request from the ledger.

    The keys are those of the `openai` backend with the same endpoint, model and prompt.

    Returns
    -------
    iterator
        As that of `openai.answer_all`.

    Raises
    ------
    RunError
        When the ledger lacks an answer.
    """
    keys = keys_of(bodies, params)
    failures: dict[str, Failure] = {}
    misses = 0
    for key, body in zip(keys, bodies, strict=True):
        outcome = standing(key, body, params, ledger).outcome
        misses += outcome is None
        if isinstance(outcome, Failure):
            failures[key] = outcome
    if misses:
        raise RunError(
            f"teacher.backend=replay: the ledger has no answer to {misses} of {len(bodies)} "
            "requests; ask them with teacher.backend=openai, or restore the ledger, the prompt "
            "and teacher.base_url they were asked with"
        )
    ledger.scope(keys)
    return reread(bodies, keys, failures, params, ledger)
