"""Running: what is asked of DVC and how its queue is followed; once through the real one."""

import os
import signal
import time

import psutil
import pytest
import yaml
from tests.unit.studies.workshop import STUDY, make

from seedtalk.errors import InputError, RunError
from seedtalk.studies import running
from seedtalk.studies.collecting import Experiment, Stale
from seedtalk.studies.declaring import read_study

PARAMS = {"seed": 0, "select": {"method": "js", "budget": 1}, "evaluate": {"cutoffs": [1]}}


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "toy" / "study.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({**STUDY, "copy": ["corpora/toy"]}, sort_keys=False))
    return read_study(path)


class FakeQueue:
    """A queue in which each look at the tasks lets one thing happen."""

    def __init__(self, outcomes, running=(), alive=True):
        self.outcomes = dict(outcomes)  # run: Success, Failed, killed
        self.state = {}
        self.commands, self.killed, self.removed, self.started = [], [], [], 0
        self.stopped = False
        self.alive = alive
        self.busy = None
        for name in running:
            self.state[name] = "Running"

    def put(self, command):
        self.commands.append(command)
        self.state[command[command.index("--name") + 1]] = "Queued"

    def start(self, jobs):
        self.started += 1
        self.alive = True

    def working(self):
        return self.alive

    def tasks(self):
        if self.started and self.alive:
            if self.busy is None:
                self.busy = next((n for n, s in self.state.items() if s == "Queued"), None)
                if self.busy:
                    self.state[self.busy] = "Running"
            else:
                outcome = self.outcomes.get(self.busy, "Success")
                if outcome == "interrupt":
                    raise KeyboardInterrupt
                if outcome == "killed":
                    self.alive = False
                else:
                    self.state[self.busy] = outcome
                self.busy = None
        return {name: (state, f"rev-{name}") for name, state in self.state.items()}

    def bury(self):
        if self.alive:
            return []
        dead = [name for name, state in self.state.items() if state == "Running"]
        self.kill(dead)
        return dead

    def kill(self, names):
        self.killed += names
        for name in names:
            self.state[name] = "Failed"

    def remove(self, names):
        self.removed += names
        for name in names:
            self.state.pop(name)

    def stop(self):
        self.stopped = True

    def log(self, revision):
        return f"log of {revision}"


@pytest.fixture
def ran(monkeypatch, tmp_path, study):
    """Run cells of `study` through a fake queue."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    deleted = []

    def git(root, *arguments):
        deleted.extend(arguments[2:] if arguments[0] == "update-ref" else ())
        return "head\n"

    monkeypatch.setattr(running, "git", git)
    monkeypatch.setattr(running, "POLL", 0)
    monkeypatch.setattr(running, "SHARE", 1e9)
    monkeypatch.setattr(running, "experiments", lambda root: {})
    monkeypatch.setattr(running, "_made_of", lambda root, revision, cell: True)
    monkeypatch.setattr(
        running, "find", lambda root, cell, known: Experiment(cell.run, "ref", "c", "head")
    )

    def go(queue, count=3, again=False):
        monkeypatch.setattr(running, "Queue", lambda root: queue)
        said = []
        cells = study.cells()[:count]
        failures = running.run(tmp_path, study, cells, jobs=1, again=again, say=said.append)
        return failures, said

    go.deleted = deleted
    go.root = tmp_path
    return go


def test_the_command_of_a_cell(study):
    cell = study.cells()[0]
    assert running.command(study, cell, PARAMS) == [
        *["exp", "run", "--queue", "--name", "toy-js-10-s0", "--copy-paths", "corpora/toy"],
        *["-S", "evaluate.cutoffs=[1,5,10]", "-S", "select.method=js", "-S", "select.budget=10"],
        *["-S", "seed=0", "baseline"],
    ]
    assert "--force" in running.command(study, cell, PARAMS, again=True)
    assert "'evaluate.cutoffs=[1,5,10]'" in running.shown(running.command(study, cell, PARAMS))


def test_every_cell_is_queued_and_waited_for(ran):
    queue = FakeQueue({})
    failures, said = ran(queue)
    assert not failures
    assert [command[4] for command in queue.commands] == [
        "toy-js-10-s0",
        "toy-js-20-s0",
        "toy-random-10-s0",
    ]
    assert [line.split(":")[0] for line in said if line.startswith("[")] == [
        "[1/3] toy-js-10-s0",
        "[2/3] toy-js-20-s0",
        "[3/3] toy-random-10-s0",
    ]


def test_a_failed_cell_is_told_and_the_others_go_on(ran):
    failures, said = ran(FakeQueue({"toy-js-20-s0": "Failed"}))
    assert failures == [running.Failure("toy-js-20-s0", "log of rev-toy-js-20-s0")]
    assert any("[3/3] toy-random-10-s0: done" in line for line in said)


def test_success_without_the_experiment_is_no_success(ran, monkeypatch):
    monkeypatch.setattr(running, "find", lambda *a: None)
    failures, _ = ran(FakeQueue({}), count=1)
    assert [failure.run for failure in failures] == ["toy-js-10-s0"]


def test_a_killed_worker_costs_its_cell_only(ran):
    queue = FakeQueue({"toy-js-10-s0": "killed"})
    failures, _ = ran(queue)
    assert [failure.run for failure in failures] == ["toy-js-10-s0"]
    assert "killed" in failures[0].reason
    assert queue.started == 2
    assert queue.killed == ["toy-js-10-s0"]


def test_a_cell_that_is_between_waiting_and_running_is_not_given_up(ran):
    queue = FakeQueue({})
    see, blinks = queue.tasks, iter([False] * 4 + [True] * 2 + [False] * 50)

    def tasks():
        return {} if next(blinks) else see()

    queue.tasks = tasks
    failures, said = ran(queue)
    assert not failures
    assert sum(line.startswith("[") for line in said) == 3


def test_a_cell_that_was_taken_out_is_told(ran):
    queue = FakeQueue({})
    see = queue.tasks
    queue.tasks = lambda: {n: t for n, t in see().items() if n != "toy-js-20-s0"}
    failures, said = ran(queue)
    assert failures == [running.Failure("toy-js-20-s0", "it was taken out of DVC's queue")]
    assert any("toy-random-10-s0: done" in line for line in said)


def test_a_worker_that_does_not_stay_up(ran):
    queue = FakeQueue({})
    queue.tasks = lambda: {n: ("Queued", n) for n in ("toy-js-10-s0",)}
    queue.working = lambda: False
    queue.bury = list
    with pytest.raises(RunError, match="does not stay up"):
        ran(queue, count=1)


def test_what_is_in_the_queue_is_waited_for_not_queued_again(ran):
    queue = FakeQueue({}, running=["toy-js-10-s0"])
    queue.busy = "toy-js-10-s0"
    failures, _ = ran(queue)
    assert not failures
    assert [command[4] for command in queue.commands] == ["toy-js-20-s0", "toy-random-10-s0"]


def test_what_a_dead_worker_left_is_queued_anew(ran):
    queue = FakeQueue({}, running=["toy-js-10-s0"], alive=False)
    failures, _ = ran(queue)
    assert not failures
    assert queue.killed == queue.removed == ["toy-js-10-s0"]
    assert len(queue.commands) == 3


def test_what_was_queued_with_other_parameters_is_queued_anew(ran, monkeypatch):
    monkeypatch.setattr(running, "_made_of", lambda root, revision, cell: False)
    queue = FakeQueue({}, running=["toy-js-10-s0"])
    ran(queue, count=1)
    assert queue.killed == queue.removed == ["toy-js-10-s0"]
    assert len(queue.commands) == 1


@pytest.mark.parametrize("again", [False, True])
def test_an_old_experiment_makes_room_but_not_where_dvc_replaces_it(ran, monkeypatch, again):
    old = [
        Experiment("toy-js-10-s0", "refs/here", "c1", "head"),
        Experiment("toy-js-10-s0", "refs/elsewhere", "c2", "other"),
    ]
    monkeypatch.setattr(running, "experiments", lambda root: {"toy-js-10-s0": old})
    ran(FakeQueue({}), count=1, again=again)
    assert ran.deleted == ([] if again else ["refs/here"])


def test_ctrl_c_empties_the_queue(ran):
    queue = FakeQueue({"toy-js-20-s0": "interrupt"})
    original, counted = queue.tasks, []

    def tasks():
        try:
            return original()
        except KeyboardInterrupt:
            counted.append(1)
            queue.started = 0  # nothing moves from here on
            queue.busy = None
            raise

    queue.tasks = tasks
    with pytest.raises(KeyboardInterrupt):
        ran(queue)
    assert counted
    assert queue.removed == ["toy-random-10-s0"]
    assert queue.killed == ["toy-js-20-s0"]
    assert queue.stopped


def test_standing(monkeypatch, tmp_path, study):
    cells = study.cells()
    here, gone, broken = (Experiment(cell.run, "r", "c", "b") for cell in cells[:3])
    answers = [here, gone, broken, Stale(here, ("select.budget",)), None, here]
    found = dict(zip((cell.run for cell in cells), answers, strict=True))

    class Outputs:
        def __init__(self, root, targets):
            assert targets == ("baseline",)

        def of(self, experiment):
            if experiment is broken:
                raise InputError("no such stage")
            return experiment

        def absent(self, outs):
            return ["models/x"] if outs is gone else []

    monkeypatch.setattr(running, "experiments", lambda root: {})
    monkeypatch.setattr(running, "find", lambda root, cell, known: found[cell.run])
    monkeypatch.setattr(running, "Outputs", Outputs)
    standing = running.standing(tmp_path, study, cells)
    assert list(standing.done) == [cells[0].run, cells[5].run]
    assert [standing.reasons[cell.run] for cell in standing.todo] == [
        "models/x is not in DVC's cache",
        "no such stage",
        "made of other parameters (select.budget)",
        "not run",
    ]
    again = running.standing(tmp_path, study, cells, again=True)
    assert not again.done
    assert again.reasons[cells[0].run] == "asked for again"


def test_the_workspace_is_checked(tmp_path, study, monkeypatch):
    with pytest.raises(InputError, match="no DVC repository"):
        running.check_workspace(tmp_path, study)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(InputError, match="first commit"):
        running.check_workspace(tmp_path, study)
    told = {"diff": "src/a.py\n", "ls-files": "stages/b.py\n"}
    monkeypatch.setattr(running, "git", lambda root, name, *rest: told.get(name, ""))
    with pytest.raises(InputError, match="corpora/toy is not here; .*to be fetched or made"):
        running.check_workspace(tmp_path, study)
    told_how = study.model_copy(update={"needs": ("make toys",)})
    with pytest.raises(InputError, match="corpora/toy is not here; .*needs `make toys`"):
        running.check_workspace(tmp_path, told_how)
    (tmp_path / "corpora" / "toy").mkdir(parents=True)
    changed, new = running.check_workspace(tmp_path, study)
    assert "src/a.py" in changed
    assert "git add" in new and "stages/b.py" in new
    told.clear()
    assert running.check_workspace(tmp_path, study) == []


def test_waiting_takes_a_fiftieth_of_a_core_at_most():
    assert running.pause(0.001) == running.POLL
    assert running.pause(0.6) == pytest.approx(30)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (3599, "1 h 0 min"), (4800, "1 h 20 min")],
)
def test_duration(seconds, told):
    assert running.duration(seconds) == told


def kill_all(path) -> int:
    """Kill every process that works in the folder; return how many."""
    count = 0
    for process in psutil.process_iter(["cwd"]):
        if str(process.info["cwd"] or "").startswith(str(path)) and process.pid != os.getpid():
            process.send_signal(signal.SIGKILL)
            count += 1
    return count


@pytest.mark.slow
def test_a_study_is_killed_and_goes_on(tmp_path):
    shop = make(tmp_path / "shop")
    shop.declare(set={**STUDY["set"], "teacher.model": "broken"})
    (shop.path / "wait").touch()
    part = ("run", "toy", "--seed", "0", "--only", "budget=10")
    first = shop.start(*part)
    until = time.monotonic() + 120
    while not (shop.path / "waits").exists():
        assert time.monotonic() < until and first.poll() is None, first.communicate()
        time.sleep(0.2)
    try:
        assert kill_all(shop.path) >= 3  # who waits, the worker, the stage
    finally:
        (shop.path / "wait").unlink()
    first.communicate()
    assert shop.refs() == {}

    told = shop.study(*part, code=1)  # the one of `random` fails by its parameters
    assert "score.py: the teacher is broken" in told
    assert "1 cell(s) failed" in told
    assert list(shop.refs()) == ["toy-js-10-s0"]
    folder = shop.path / "studies" / "toy"
    rows = (folder / "runs.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["run", "toy-js-10-s0"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "not run" in shop.study("collect", "toy")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "quality" not in (folder / "measures.csv").read_text()
