"""Fine-tuning on several processes, one a GPU: who one is, who learns what, who writes.

The processes are those that ``accelerate launch`` (or torchrun) starts. They share each step of
the optimiser, so that their number changes the time that a training takes and nothing else.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from seedtalk.errors import InputError
from seedtalk.students.templates import IGNORED

LAUNCH = "SEEDTALK_LAUNCH"
# Ways to part a model that accelerate may be configured to; here each process holds a whole one.
PARTED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")


@dataclass(frozen=True)
class Processes:
    """The processes that learn one student together, and which of them this is."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0


def processes() -> Processes:
    """Read from the environment which process this is; one by itself where nobody launched it."""
    if "LOCAL_RANK" not in os.environ:
        return Processes()
    return Processes(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def relaunch(environ: MutableMapping[str, str], arguments: Sequence[str]) -> None:
    """Become the command of ``SEEDTALK_LAUNCH`` with this program behind it, where it is set.

    So ``dvc repro``, whose command is the plain stage, trains on the machine's GPUs: how many
    there are is the machine's business, not a parameter's.

    Parameters
    ----------
    environ
        The environment; the variable is taken out, so that what is launched does not launch.
    arguments
        The program with its arguments, as `sys.argv`.

    Raises
    ------
    InputError
        When the command is not to be found.
    """
    try:
        command = shlex.split(environ.pop(LAUNCH, ""))
    except ValueError as error:
        raise InputError(f"{LAUNCH}: not a command ({error})") from error
    if not command or "LOCAL_RANK" in environ:
        return
    program = shutil.which(command[0])
    if program is None:
        raise InputError(
            f"{LAUNCH}: no command '{command[0]}'; "
            "set it to such as 'accelerate launch --num_processes 2'"
        )
    sys.stdout.flush()
    # The command is the user's own, from the user's own environment.
    os.execve(program, [*command, *arguments], dict(environ))  # noqa: S606


def join(group: Processes) -> None:
    """Take the GPU that is this process's own.

    Raises
    ------
    InputError
        When there are fewer GPUs than processes, or accelerate is told to part the model.
    """
    if group.count == 1:
        return
    import torch

    for way in PARTED:
        if os.environ.get(f"ACCELERATE_USE_{way}", "false").lower() in ("1", "true"):
            raise InputError(
                f"accelerate is set to {way}: a student is trained whole in each process; "
                "launch with --multi_gpu, or mend the file of `accelerate config`"
            )
    if torch.cuda.is_available():
        place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= there:
            raise InputError(
                f"there are {there} GPUs for more processes than that; "
                f"launch with --num_processes {there}"
            )
        torch.cuda.set_device(place)


def share(batch_size: int, accumulation: int, count: int) -> tuple[int, int]:
    """Return the batch size and the accumulation of each process.

    A step of the optimiser is over ``batch_size * accumulation`` examples, however many processes
    there are. Each takes an equal part, in forward passes of at most `batch_size` examples.

    Raises
    ------
    InputError
        When the examples of a step cannot be shared equally.
    """
    whole = batch_size * accumulation
    if whole % count:
        raise InputError(
            f"the {whole} examples of a step cannot be shared by {count} processes; make "
            f"finetune.batch_size * finetune.gradient_accumulation a multiple of {count}"
        )
    part = whole // count
    batch = max(size for size in range(1, min(batch_size, part) + 1) if part % size == 0)
    return batch, part // batch


def levelled(
    examples: list[dict[str, list[int]]], size: int, group: Processes
) -> list[dict[str, list[int]]]:
    """Fill a last short batch up, so that every process has as many batches.

    accelerate would fill it with examples from the beginning, which then count twice. A filling
    is one token long: it has no token to predict, so that no loss counts it.

    Parameters
    ----------
    examples
        In the order in which they are learnt.
    size
        Examples that the processes take together.
    group
        One by itself needs no filling.
    """
    if group.count == 1 or not examples:
        return examples
    filling = {"input_ids": examples[0]["input_ids"][:1], "labels": [IGNORED]}
    return examples + [filling] * (-len(examples) % size)


def together(model: Any, loss: Any) -> Any:
    """Wrap `model` so that calling it gives the loss, and going back averages the gradients.

    DistributedDataParallel does the latter only for what went through it, and the loss does not
    go through the model's own forward pass.
    """
    import torch

    class Learner(torch.nn.Module):
        """The model as what owns the weights, its loss as what is computed."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: dict[str, Any]) -> Any:
            return loss(inputs)

    place = [torch.cuda.current_device()] if torch.cuda.is_available() else None
    return torch.nn.parallel.DistributedDataParallel(
        Learner(), device_ids=place, broadcast_buffers=False
    )
