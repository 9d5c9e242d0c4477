"""Running a study: its cells go into DVC's experiment queue, and are waited for.

DVC's queue has a worker of its own, a process in the background that takes the queued experiments
one after the other, each in a temporary copy of what Git and DVC have. So a study outlives the
terminal it was started in; what is in the queue when `run` is called again is waited for.

DVC does not notice a worker that was killed: its experiment stays ``Running`` for ever, and
``dvc exp run --run-all`` would wait as long. `Queue.bury` finds such experiments.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedtalk.errors import InputError, RunError
from seedtalk.studies.collecting import (
    PARAMS,
    Experiment,
    Outputs,
    Stale,
    experiments,
    find,
    git,
    git_file,
)
from seedtalk.studies.declaring import Cell, Study, differing, flags, load_yaml
from seedtalk.texts import visible

POLL = 2.0  # seconds between looks at the queue, at least
SHARE = 0.02  # of a core that looking may take: DVC reads every task there ever was
LOOKS = 3  # at the queue without a cell before it counts as taken out
LINES = 12  # of a failed cell's log that are shown
WAITING, ACTIVE, DONE, FAILED = "Queued", "Running", "Success", "Failed"


@dataclass(frozen=True)
class Standing:
    """Where the cells of a study stand."""

    done: dict[str, Experiment]
    todo: list[Cell]
    reasons: dict[str, str]  # of what is to do: why it is


@dataclass(frozen=True)
class Failure:
    """A cell that failed, and the end of its log."""

    run: str
    reason: str


class Queue:
    """DVC's experiment queue, as far as some cells are in it."""

    def __init__(self, root: Path) -> None:
        from dvc.repo import Repo

        self._root = root
        self._queue: Any = Repo(str(root)).experiments.celery_queue
        # The worker calls `dvc`, the stages call `python`: those of this environment.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        self._environment = {**os.environ, "PATH": path}

    def tasks(self) -> dict[str, tuple[str, str]]:
        """Return status and revision of each named task; of two, that which is not over."""
        found: dict[str, tuple[str, str]] = {}
        order = {FAILED: 0, DONE: 0, WAITING: 1, ACTIVE: 2}
        for task in self._queue.status():
            name, status = task["name"] or task["rev"], task["status"]
            if name not in found or order.get(status, 0) > order.get(found[name][0], 0):
                found[name] = status, task["rev"]
        return found

    def put(self, command: Sequence[str]) -> None:
        """Queue an experiment.

        Raises
        ------
        RunError
            When DVC refuses.
        """
        done = self._dvc(*command)
        if done.returncode:
            raise RunError(f"dvc {' '.join(command[:2])}: {_last(done.stderr or done.stdout)}")

    def start(self, jobs: int) -> None:
        """Start the workers that are not running."""
        # The worker outlives this call: it must not hold its pipes, nor get its Ctrl-C.
        done = subprocess.run(  # noqa: S603 - DVC of this environment
            [sys.executable, "-m", "dvc", "queue", "start", "--jobs", str(jobs)],
            cwd=self._root,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            check=False,
        )
        if done.returncode:
            raise RunError("dvc queue start failed; call it yourself to see why")

    def working(self) -> bool:
        """Whether a worker of this repository is alive."""
        import psutil

        # The name that DVC gives to the workers of one repository.
        digest = hashlib.sha256(self._queue.wdir.encode()).hexdigest()[:6]
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            alive = process.info["status"] != psutil.STATUS_ZOMBIE
            if alive and "queue-worker" in words and any(f"dvc-exp-{digest}-" in w for w in words):
                return True
        return False

    def bury(self) -> list[str]:
        """End what DVC takes to be running although no worker is; return the names."""
        if self.working():
            return []
        dead = [name for name, (status, _) in self.tasks().items() if status == ACTIVE]
        if dead:
            self.kill(dead)
        return dead

    def kill(self, names: Sequence[str]) -> None:
        """End running experiments; what had no process any more is marked as failed."""
        left = list(names)
        for force in ((), (), ("--force",), ("--force",), ()):
            if not left:
                return
            self._dvc("queue", "kill", *force, *left)
            for _ in range(5):
                time.sleep(1)
                left = [n for n, (s, _) in self.tasks().items() if n in names and s == ACTIVE]
                if not left:
                    return

    def remove(self, names: Sequence[str]) -> None:
        """Take experiments that wait or are over out of the queue."""
        if names:
            self._dvc("queue", "remove", *names)

    def stop(self) -> None:
        """Let the worker end after what it is at."""
        self._dvc("queue", "stop")

    def log(self, revision: str) -> str:
        """Return the last lines of a task's output, or where to look for them."""
        info = self._queue.proc.get(revision)
        if info is None or not info.stdout or not Path(info.stdout).is_file():
            return f"no output; it failed before its first stage: {self._queue.wdir}/*.out"
        text = Path(info.stdout).read_text(encoding="utf-8", errors="replace")
        lines = [shown for line in text.splitlines() if (shown := visible(line))]
        once = [line for place, line in enumerate(lines) if line not in lines[:place]]
        return "\n".join(once[-LINES:])

    def _dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - DVC of this environment
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self._root,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the one who waits
            check=False,
        )


def check_workspace(root: Path, study: Study) -> list[str]:
    """Check that a study can run here; return what the user should know.

    Raises
    ------
    InputError
        When this is no DVC repository under Git with a commit, or a path to copy is missing.
    """
    if not (root / ".dvc").is_dir():
        raise InputError(f"{root}: no DVC repository; run it in the project's folder")
    try:
        git(root, "rev-parse", "HEAD")
    except (InputError, OSError) as error:
        raise InputError(f"{root}: experiments need Git and a first commit ({error})") from error
    for path in study.copy_:
        if not (root / path).exists():
            how = " and ".join(f"`{one}`" for one in study.needs) or "to be fetched or made"
            raise InputError(
                f"studies/{study.name}/study.yaml, field 'copy': {path} is not here; the study "
                f"needs {how}"
            )
    warnings = []
    changed = git(root, "diff", "--name-only", "HEAD", "--", "src", "stages", "dvc.yaml", "prompts")
    if changed:
        names = changed.split()
        warnings.append(
            f"{len(names)} file(s) of the pipeline are changed since the last commit, such as "
            f"{names[0]}: the cells take them along, but no commit holds them"
        )
    new = git(root, "ls-files", "--others", "--exclude-standard", "src", "stages", "prompts")
    if new:
        names = new.split()
        warnings.append(
            f"{len(names)} new file(s) are not in Git, such as {names[0]}: the cells do not see "
            "them; `git add` them"
        )
    return warnings


def standing(root: Path, study: Study, cells: Sequence[Cell], *, again: bool = False) -> Standing:
    """Return which of `cells` are done, and which are to be run and why.

    A cell is done when an experiment of its name and parameters exists whose outputs, as far as
    the study's targets make them, are in DVC's cache. With `again` none is.
    """
    known = experiments(root)
    outputs = Outputs(root, study.targets)
    done: dict[str, Experiment] = {}
    todo: list[Cell] = []
    reasons: dict[str, str] = {}
    for cell in cells:
        found = find(root, cell, known)
        if again and isinstance(found, Experiment):
            reasons[cell.run] = "asked for again"
        elif isinstance(found, Experiment):
            try:
                absent = outputs.absent(outputs.of(found))
                reason = f"{absent[0]} is not in DVC's cache" if absent else ""
            except InputError as error:
                reason = error.message
            if not reason:
                done[cell.run] = found
                continue
            reasons[cell.run] = reason
        elif isinstance(found, Stale):
            reasons[cell.run] = str(found)
        else:
            reasons[cell.run] = "not run"
        todo.append(cell)
    return Standing(done, todo, reasons)


def command(study: Study, cell: Cell, params: Any, *, again: bool = False) -> list[str]:
    """Return the arguments of `dvc` that queue a cell."""
    words = ["exp", "run", "--queue", "--name", cell.run]
    words += ["--force"] if again else []
    for path in study.copy_:
        words += ["--copy-paths", str(path)]
    return [*words, *flags(cell.overrides, params), *study.targets]


def shown(words: Sequence[str]) -> str:
    """Return a command as a shell takes it."""
    return shlex.join(["dvc", *words])


def run(
    root: Path,
    study: Study,
    cells: Sequence[Cell],
    *,
    jobs: int,
    again: bool,
    say: Callable[[str], None],
) -> list[Failure]:
    """Queue `cells` and wait for them; return those that failed.

    Cells of the same name and parameters that are in the queue already are waited for. On
    KeyboardInterrupt the cells are taken out of the queue and the running one is ended.

    Parameters
    ----------
    root
        The DVC repository.
    study, cells
        The study and those of its cells to run, profiles put in.
    jobs
        Experiments at a time.
    again
        Run every stage even where DVC's run cache knows its result.
    say
        Told of every step, a line each.

    Raises
    ------
    RunError
        When DVC refuses a cell.
    """
    queue = Queue(root)
    wanted = [cell.run for cell in cells]
    try:
        _enqueue(root, study, cells, queue, again, say)
        others = [n for n, (s, _) in queue.tasks().items()
                  if s in (WAITING, ACTIVE) and n not in wanted]  # fmt: skip
        if others:
            say(f"{len(others)} other experiment(s) in DVC's queue run along, such as {others[0]}")
        queue.start(jobs)
        return _wait(root, study, cells, queue, jobs, say)
    except KeyboardInterrupt:
        say("stopping: what runs is ended, what waits is taken out of the queue")
        _withdraw(queue, wanted)
        raise


def _enqueue(
    root: Path,
    study: Study,
    cells: Sequence[Cell],
    queue: Queue,
    again: bool,
    say: Callable[[str], None],
) -> None:
    queue.bury()
    tasks = queue.tasks()
    over, ended = [], []
    for cell in cells:
        status, revision = tasks.get(cell.run, ("", ""))
        if status in (WAITING, ACTIVE) and _made_of(root, revision, cell):
            continue
        if status == ACTIVE:
            ended.append(cell.run)
        if status:
            over.append(cell.run)
    queue.kill(ended)
    queue.remove(over)
    waiting = {name for name, (status, _) in queue.tasks().items() if status in (WAITING, ACTIVE)}
    params = load_yaml((root / PARAMS).read_text(encoding="utf-8"))
    known = experiments(root)
    head = git(root, "rev-parse", "HEAD").strip()
    fresh = [cell for cell in cells if cell.run not in waiting]
    for number, cell in enumerate(fresh, 1):
        if not again:
            # DVC refuses a name that is taken; --force would pass its run cache by.
            for old in known.get(cell.run, ()):
                if old.baseline == head:
                    git(root, "update-ref", "-d", old.ref)
        say(f"queueing {cell.run} ({number}/{len(fresh)})")
        queue.put(command(study, cell, params, again=again))


def _wait(
    root: Path,
    study: Study,
    cells: Sequence[Cell],
    queue: Queue,
    jobs: int,
    say: Callable[[str], None],
) -> list[Failure]:
    """Follow the cells until each is done or has failed."""
    left = {cell.run: cell for cell in cells}
    failures: list[Failure] = []
    began = time.monotonic()
    active: set[str] = set()
    restarts = 0
    unseen: Counter[str] = Counter()
    while left:
        looked = time.process_time()
        alive = queue.working()  # before the look: what ends in between is seen as ended
        tasks = queue.tasks()
        for run in [run for run in left if tasks.get(run, ("", ""))[0] == ACTIVE]:
            if run not in active:
                active.add(run)
                say(f"{run}: running")
        known = None
        for run, cell in list(left.items()):
            status, revision = tasks.get(run, ("", ""))
            # DVC reads its running tasks before the waiting ones: one that begins is in neither.
            unseen[run] = 0 if status else unseen[run] + 1
            if status in (WAITING, ACTIVE) or 0 < unseen[run] < LOOKS:
                continue
            known = known or experiments(root)
            good = status == DONE and isinstance(find(root, cell, known), Experiment)
            del left[run]
            over = len(cells) - len(left)
            if good:
                seconds = (time.monotonic() - began) / over
                rest = f"; about {duration(seconds * len(left))} left" if left else ""
                say(f"[{over}/{len(cells)}] {run}: done{rest}")
            else:
                reason = queue.log(revision) if revision else "it was taken out of DVC's queue"
                failures.append(Failure(run, reason))
                say(f"[{over}/{len(cells)}] {run}: failed")
        if left and not alive and not queue.working():
            dead = queue.bury()
            for run in dead:
                if run in left:
                    del left[run]
                    failures.append(Failure(run, "its process was killed (too little memory?)"))
                    say(f"[{len(cells) - len(left)}/{len(cells)}] {run}: killed")
            if left:
                restarts += 1
                if restarts > len(cells) + 3:
                    raise RunError("DVC's queue worker does not stay up; see `dvc queue start -v`")
                queue.start(jobs)
        if left:
            look = time.process_time() - looked
            time.sleep(POLL if any(unseen[run] for run in left) else pause(look))
    return failures


def pause(look: float) -> float:
    """Return the seconds to wait after a look that took `look` seconds of a core."""
    return max(POLL, look / SHARE)


def _withdraw(queue: Queue, names: Sequence[str]) -> None:
    tasks = queue.tasks()
    waiting = [n for n in names if tasks.get(n, ("", ""))[0] == WAITING]
    queue.remove(waiting)
    tasks = queue.tasks()  # one of them may just have begun
    queue.kill([n for n in names if tasks.get(n, ("", ""))[0] == ACTIVE])
    if not any(status in (WAITING, ACTIVE) for status, _ in queue.tasks().values()):
        queue.stop()


def _made_of(root: Path, revision: str, cell: Cell) -> bool:
    return not differing(load_yaml(git_file(root, revision, PARAMS)), cell.overrides)


def duration(seconds: float) -> str:
    """Return a time as a person says it: ``45 s``, ``12 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _last(text: str) -> str:
    lines = [shown for line in text.splitlines() if (shown := visible(line))]
    return "\n".join(lines[-LINES:])
