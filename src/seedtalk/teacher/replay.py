"""The ledger alone: a run that must not make a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seedtalk.errors import RunError
from seedtalk.params import Teacher
from seedtalk.teacher.answers import Outcome
from seedtalk.teacher.ledger import Ledger
from seedtalk.teacher.openai import keys_of, standing


def answer_all(
    bodies: Sequence[Mapping[str, Any]], params: Teacher, ledger: Ledger
) -> list[Outcome]:
    """Answer every request from the ledger.

    The keys are those of the `openai` backend with the same endpoint, model and prompt.

    Raises
    ------
    RunError
        When the ledger lacks an answer.
    """
    outcomes = [
        standing(key, body, params, ledger).outcome
        for key, body in zip(keys_of(bodies, params), bodies, strict=True)
    ]
    answers = [outcome for outcome in outcomes if outcome is not None]
    misses = len(outcomes) - len(answers)
    if misses:
        raise RunError(
            f"teacher.backend=replay: the ledger has no answer to {misses} of {len(bodies)} "
            "requests; ask them with teacher.backend=openai, or restore the ledger, the prompt "
            "and teacher.base_url they were asked with"
        )
    return answers
