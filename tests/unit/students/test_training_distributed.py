"""Fine-tuning on several processes: the losses of one, one writer, and a killed run goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.unit.students.test_training import EXACT, PARAMS, TRAIN, VALID, KilledError

from seedtalk.errors import InputError, RunError
from seedtalk.params import Finetune
from seedtalk.records import write_jsonl
from seedtalk.students import kernels, processes
from seedtalk.students.processes import Processes, join, levelled, relaunch, share
from seedtalk.students.training import finetune

ROOT = Path(__file__).parents[3]
PATIENCE = 300  # seconds until processes that wait for each other are given up
TRAINED = EXACT.model_copy(update={"batch_size": 4, "gradient_accumulation": 1})


def learn(rank: int, count: int, port: int, job: dict, told: Path) -> None:
    """Be one process of several: run in a fresh interpreter."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    rows = []
    if job.pop("headless", False):
        kernels.head_loss = lambda _model: None
    kill_at = job.pop("kill_at", None)

    def on_step(step):
        rows.append(step.step)
        if step.step == kill_at:
            raise KilledError

    history = finetune(TRAIN, VALID, on_step=on_step, seed=0, **job)
    (told / f"{rank}.json").write_text(json.dumps({"rows": rows, "history": history.rows()}))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Run a job on `count` processes; return what each told, and None for one that failed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.unit.students.test_training_distributed"])

    def run(count: int, job: dict) -> list:
        told = tmp_path_factory.mktemp("told")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started = [
            context.Process(target=learn, args=(rank, count, port, job, told))
            for rank in range(count)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(PATIENCE)
        stuck = [process for process in started if process.is_alive()]
        for process in stuck:
            process.kill()
        assert not stuck, "the processes wait for each other"
        files = [told / f"{rank}.json" for rank in range(count)]
        return [json.loads(f.read_text()) if f.is_file() else None for f in files]

    return run


def job(root: Path, student: Path, params: Finetune, tuning: str, **more) -> dict:
    return {
        "base": str(student),
        "params": params,
        "tuning": tuning,
        "out": root / "out",
        "cache_dir": root / "cache",
        **more,
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize(
    ("params", "tuning", "headless"),
    [
        (EXACT, "lora", False),  # 2 x 2 a step: a forward pass of 2 for each process
        (TRAINED.model_copy(update={"packing": True}), "lora", False),
        (TRAINED, "full", True),  # 4 x 1 a step: the batch is halved; the model's own loss
    ],
)
def test_two_processes_learn_what_one_learns(
    together, student_folder, tmp_path, monkeypatch, params, tuning, headless
):
    """21 examples, 4 a step: of the last step's one, the second process has none."""
    told = together(2, job(tmp_path / "two", student_folder, params, tuning, headless=headless))
    assert told[0]["history"] == told[1]["history"]
    assert told[0]["rows"] and not told[1]["rows"], "the main process alone hands rows on"
    if headless:
        monkeypatch.setattr(kernels, "head_loss", lambda _model: None)
    one = finetune(TRAIN, VALID, seed=0, **job(tmp_path / "one", student_folder, params, tuning))
    assert len(told[0]["history"]) == len(one.steps) > 3
    for row, alone in zip(told[0]["history"], one.rows(), strict=True):
        assert [value == "" for value in row] == [value == "" for value in alone]
        for value, other in zip(row, alone, strict=True):
            assert value == "" or float(value) == pytest.approx(float(other), rel=1e-5)
    found, wanted = (weights(tmp_path / name / "out") for name in ("two", "one"))
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-4, msg=name)
    names = [sorted(p.name for p in (tmp_path / n / "out").iterdir()) for n in ("two", "one")]
    assert names[0] == names[1]
    assert not list((tmp_path / "two/cache/checkpoints").iterdir())


def test_a_killed_run_of_two_goes_on_to_the_same_weights(together, student_folder, tmp_path):
    """With dropout: each process's random state is restored."""
    told = together(2, job(tmp_path / "whole", student_folder, PARAMS, "lora"))
    killed = together(2, job(tmp_path / "killed", student_folder, PARAMS, "lora", kill_at=5))
    assert killed == [None, None], "one that fails takes the other with it"
    assert not (tmp_path / "killed/out").exists()
    assert list((tmp_path / "killed/cache/checkpoints").glob("*/checkpoint-3"))
    resumed = together(2, job(tmp_path / "killed", student_folder, PARAMS, "lora"))
    assert resumed[0]["history"] == told[0]["history"]
    assert resumed[0]["rows"][0] > 3, "it goes on from its last look"
    found, wanted = (weights(tmp_path / name / "out") for name in ("killed", "whole"))
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name


def test_what_others_are_learning_is_not_learnt_beside_them(student_folder, tmp_path, monkeypatch):
    held = []

    def locked(path, **options):
        held.append(FileLock(path))
        held[0].acquire()
        return FileLock(path, **options)

    monkeypatch.setattr("filelock.FileLock", locked)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match="another run is learning the same"):
        finetune(TRAIN, VALID, seed=0, **job(tmp_path, student_folder, EXACT, "lora"))
    held[0].release()


def test_the_untouched_student_is_written_once(tmp_path, monkeypatch):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    finetune([], [], seed=0, **job(tmp_path, Path("base"), EXACT, "zero-shot"))
    assert not (tmp_path / "out").exists()


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 16))
def test_a_step_is_shared_equally_or_not_at_all(batch, accumulation, count):
    if batch * accumulation % count:
        with pytest.raises(InputError, match=f"a multiple of {count}"):
            share(batch, accumulation, count)
        return
    part, passes = share(batch, accumulation, count)
    assert part * passes * count == batch * accumulation
    assert 1 <= part <= batch
    # No larger forward pass would do.
    assert all(batch * accumulation // count % size for size in range(part + 1, batch + 1)) or (
        part == min(batch, part * passes)
    )
    if count == 1:
        assert (part, passes) == (batch, accumulation)


@given(st.integers(1, 30), st.integers(1, 8))
def test_fillings_make_whole_steps_and_have_nothing_to_predict(count, size):
    examples = [{"input_ids": [7, number], "labels": [-100, number]} for number in range(count)]
    found = levelled(examples, size, Processes(1, 2))
    assert found[:count] == examples
    assert len(found) % size == 0 and len(found) - count < size
    assert all(filling == {"input_ids": [7], "labels": [-100]} for filling in found[count:])
    assert levelled(examples, size, Processes()) is examples


def test_accelerate_may_not_part_the_model(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    join(Processes())
    with pytest.raises(InputError, match="FSDP"):
        join(Processes(0, 2))


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    join(Processes(5, 6))  # of three machines
    assert taken == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="--num_processes 2"):
        join(Processes(2, 3))


class TestLaunch:
    def test_the_program_becomes_the_command_with_itself_behind(self, monkeypatch):
        became = []
        monkeypatch.setattr(os, "execve", lambda *call: became.append(call))
        environ = {"SEEDTALK_LAUNCH": "accelerate launch --config_file 'my gpus.yaml'", "A": "b"}
        relaunch(environ, ["stages/finetune.py", "--student", "toy"])
        [(program, command, given)] = became
        assert program == shutil.which("accelerate")
        assert command[1:4] == ["launch", "--config_file", "my gpus.yaml"]
        assert command[4:] == ["stages/finetune.py", "--student", "toy"]
        assert given == {"A": "b"}, "what is launched does not launch"

    @pytest.mark.parametrize(
        "environ",
        [{}, {"SEEDTALK_LAUNCH": ""}, {"SEEDTALK_LAUNCH": "accelerate", "LOCAL_RANK": "0"}],
    )
    def test_nothing_is_launched_unasked_or_twice(self, monkeypatch, environ):
        monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("launched"))
        relaunch(environ, ["stages/finetune.py"])

    @pytest.mark.parametrize(
        ("command", "said"), [("no-such-launcher -n 2", "no command"), ("'", "not a command")]
    )
    def test_a_command_that_is_none_is_named(self, command, said):
        with pytest.raises(InputError, match=f"{processes.LAUNCH}: {said}"):
            relaunch({"SEEDTALK_LAUNCH": command}, ["x"])


def test_the_stage_under_accelerate(student_folder, tmp_path):
    """As `dvc repro` calls it: one student, one history, one MLflow run."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["models"]["toy"] = str(student_folder)
    params["students"] = ["toy"]
    params["finetune"] |= {"epochs": 1, "evaluations": 1, "batch_size": 4, "answer_titles": 0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    write_jsonl(tmp_path / "artifacts/dialogues/train.jsonl", TRAIN)
    write_jsonl(tmp_path / "artifacts/dialogues/valid.jsonl", VALID)
    stage = [str(ROOT / "stages/finetune.py"), "--student", "toy", "--tuning", "lora"]
    environ = dict(os.environ) | {"DVC_ROOT": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    environ |= {"SEEDTALK_LAUNCH": "accelerate launch --cpu --num_processes 2 --num_machines 1"}
    environ |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"}
    environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    done = subprocess.run(
        [sys.executable, *stage], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("toy-lora: 14 dialogues, validation loss") == 1
    assert (tmp_path / "models/toy-lora/adapter_model.safetensors").is_file()
    assert (tmp_path / "results/train/toy-lora.csv").is_file()
    assert list((tmp_path / ".cache/checkpoints").iterdir()) == []
    import sqlite3

    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        assert store.execute("select status from runs").fetchall() == [("FINISHED",)]
