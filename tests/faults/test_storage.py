"""What the ledger does when the disk under it fails: real files, real limits."""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests import domain
from tests.faults.server import CONTENT, completion, requests, say, teacher

from seedtalk import teacher as layer
from seedtalk.cli import main
from seedtalk.errors import RunError
from seedtalk.teacher.ledger import Ledger, Spent, request_key, store, upkeep

CAPS = {"max_calls": 0, "max_usd": 0.0}


def body(n):
    return {"model": "m", "messages": [{"role": "user", "content": f"question {n}"}]}


def key(n):
    return request_key("openai", "e", body(n))


def stock(path, count, size=300, usd=0.5):
    """Write a ledger of answered requests."""
    with Ledger(path) as ledger, ledger.transaction():
        for n in range(count):
            row = ledger.reserve(key(n), "e", "m", usd, body=body(n), **CAPS)
            ledger.receive(row, completion(f"answer {n} " + "x" * size).decode())


def answered(path, count):
    """Return the requests, of so many, that the ledger has an answer to."""
    with Ledger(path) as ledger:
        return {
            n
            for n in range(count)
            for raw in ledger.received(key(n))
            if f"answer {n} " in json.loads(raw)["choices"][0]["message"]["content"]
        }


def flip(path, offset, bit):
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def generate(endpoint, tmp_path, rows, **values):
    return layer.generate(rows, teacher(endpoint, **values), seed=0, cache_dir=tmp_path)


# --- a bit flip ---------------------------------------------------------------------------


def test_a_flipped_bit_in_an_answer_asks_that_request_again_and_no_other(endpoint, tmp_path):
    lines, _ = generate(endpoint, tmp_path, requests(8))
    path = tmp_path / "ledger.sqlite"
    raw = path.read_bytes()
    assert not (tmp_path / "ledger.sqlite-wal").exists()
    flip(path, raw.rindex(b"choices"), 0)
    again, summary = generate(endpoint, tmp_path, requests(8))
    assert again == lines and summary["answered"] == 8
    assert endpoint.total == 9 and sorted(endpoint.calls.values()) == [1] * 7 + [2]
    with Ledger(path) as ledger:
        ledger.scope(k for (k,) in ledger.rows("SELECT key FROM requests"))
        assert ledger.spent().calls == 9  # the damaged one was paid for


def test_any_flipped_bit_of_the_file_is_noticed_or_harms_no_answer(tmp_path):
    """A hundred bits all over the file: no wrong answer is served, none is lost in silence."""
    stock(tmp_path / "whole.sqlite", 40)
    whole = tmp_path / "whole.sqlite"
    rng = random.Random(1)
    outcomes = set()
    for trial in range(100):
        path = tmp_path / "l.sqlite"
        for file in tmp_path.glob("l.sqlite*"):
            file.unlink()
        shutil.copy(whole, path)
        flip(path, rng.randrange(path.stat().st_size), rng.randrange(8))
        try:
            with Ledger(path) as ledger:
                faults = list(upkeep.faults(ledger))
            found = answered(path, 40)
        except RunError as error:
            outcomes.add("refused")
            assert "the ledger cannot be used" in error.message or "seedtalk" in error.message
        else:
            assert faults or len(found) == 40, trial
            outcomes.add("named" if faults else "harmless")
    assert {"named", "harmless"} <= outcomes


def tear_page(path, text):
    """Overwrite the header of the page that holds a text, as a torn write leaves it."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[16:18], "big")
    page = raw.index(text) // size
    with path.open("r+b") as file:
        file.seek(page * size)
        file.write(b"\xff" * 16)


def test_a_torn_page_stops_the_run_and_mending_saves_the_rest(endpoint, tmp_path):
    path = tmp_path / "ledger.sqlite"
    generate(endpoint, tmp_path, requests(30))
    spent = endpoint.total
    tear_page(path, b"recommendations")
    with pytest.raises(RunError, match=r"damaged.*nothing is paid for.*seedtalk ledger mend"):
        generate(endpoint, tmp_path, requests(30))
    assert endpoint.total == spent  # no call was made in the dark
    with Ledger(path) as ledger:
        assert any(fault.startswith("file: ") for fault in upkeep.faults(ledger))
    saved = upkeep.mend(path)
    assert 0 < saved.lost < 30 and saved.answers == 30 - saved.lost
    _, summary = generate(endpoint, tmp_path, requests(30))
    assert summary["answered"] == 30 and endpoint.total == 30 + saved.lost
    with Ledger(path) as ledger:
        assert list(upkeep.faults(ledger)) == []


def test_a_header_that_is_gone_stops_the_run_and_leaves_the_file(endpoint, tmp_path):
    path = tmp_path / "ledger.sqlite"
    generate(endpoint, tmp_path, requests(2))
    with path.open("r+b") as file:
        file.write(b"\0" * 32)
    before = path.read_bytes()
    with pytest.raises(RunError, match="the file is damaged"):
        generate(endpoint, tmp_path, requests(3))
    with pytest.raises(RunError, match="nothing can be read of it"):
        upkeep.mend(path)
    assert endpoint.total == 2 and path.read_bytes() == before


# --- torn writes --------------------------------------------------------------------------

KILLED_WRITER = """
    import os, signal, sys
    from pathlib import Path
    from tests.faults.test_storage import *
    path = Path(sys.argv[1])
    ledger = Ledger(path)
    for n in range(20):
        row = ledger.reserve(key(n), "e", "m", 0.5, body=body(n), **CAPS)
        ledger.receive(row, completion(f"answer {n} " + "x" * 300).decode())
    os.kill(os.getpid(), signal.SIGKILL)
"""


def child(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=domain.ROOT,
        env=os.environ | {"PYTHONPATH": str(domain.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_a_torn_log_loses_its_torn_end_alone(tmp_path):
    path = tmp_path / "killed.sqlite"
    done = child(KILLED_WRITER, path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    log = tmp_path / "killed.sqlite-wal"
    size = log.stat().st_size
    assert size > 50_000  # nothing of it is in the file yet
    before = 21
    for cut in (0, 100, 5_000, size // 2, size - 1):
        for part in tmp_path.glob("l.sqlite*"):
            part.unlink()
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", tmp_path / f"l.sqlite{end}")
        torn = tmp_path / "l.sqlite-wal"
        with torn.open("r+b") as file:
            file.truncate(size - cut)
        found = answered(tmp_path / "l.sqlite", 20)
        assert found == set(range(len(found))) and len(found) <= before  # a prefix, in order
        before = len(found)
        with Ledger(tmp_path / "l.sqlite") as ledger:
            assert list(upkeep.faults(ledger)) == []
        assert len(found) == 20 or cut > 0
    assert before == 0


def test_a_log_torn_in_its_middle_is_cut_there(tmp_path):
    path = tmp_path / "l.sqlite"
    assert child(KILLED_WRITER, path).returncode == -signal.SIGKILL
    log = tmp_path / "l.sqlite-wal"
    flip(log, log.stat().st_size // 2, 3)
    found = answered(path, 20)
    assert found == set(range(len(found))) and 5 < len(found) < 15
    with Ledger(path) as ledger:
        assert list(upkeep.faults(ledger)) == []


# --- a full disk --------------------------------------------------------------------------


def in_flight(ledger, count, size, fill):
    """Reserve calls, fill the disk, settle them all; return what each call and a next one met."""

    async def run():
        async with ledger.writer() as group:
            rows = [
                await group.reserve(key(n), "e", "m", 0.5, body=body(n), **CAPS)
                for n in range(count)
            ]
            fill()
            results = await asyncio.gather(
                *(
                    group.receive(row, completion(f"answer {n} " + "x" * size).decode())
                    for n, row in enumerate(rows)
                ),
                return_exceptions=True,
            )
            try:
                await group.reserve(key(count), "e", "m", 0.5, body=body(count), **CAPS)
            except RunError as error:
                return results, error
            return results, None

    return asyncio.run(run())


def succeeds(*command):
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if (
        mount is None
        or subprocess.run([mount, *options], capture_output=True, check=False).returncode
    ):
        pytest.skip("no right to mount a small disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_loses_no_answer_in_flight(small_disk):
    path = small_disk / "ledger.sqlite"

    def fill():
        filler = (small_disk / "filler").open("wb", buffering=0)
        with filler as file, contextlib.suppress(OSError):
            while file.write(b"\1" * 4096):
                pass

    with Ledger(path) as ledger:
        results, refused = in_flight(ledger, 64, 20_000, fill)
    assert results == [None] * 64
    assert refused is not None and "the disk is full" in refused.message
    (small_disk / "filler").unlink()
    assert answered(path, 64) == set(range(64))
    with Ledger(path) as ledger:
        assert list(upkeep.faults(ledger)) == []
        ledger.scope(key(n) for n in range(65))
        assert ledger.spent() == Spent(64, 32.0)


def test_a_disk_without_room_makes_no_call(small_disk, endpoint):
    with (small_disk / "filler").open("wb") as file:
        file.write(b"\1" * (6 << 20))
    with pytest.raises(RunError, match=r"the disk is full.*free some space"):
        generate(endpoint, small_disk, requests(3))
    assert endpoint.total == 0
    (small_disk / "filler").unlink()
    assert generate(endpoint, small_disk, requests(3))[1]["answered"] == 3


def test_a_run_on_a_disk_that_fills_up_ends_with_1_and_goes_on_later(small_disk, endpoint):
    big = completion(CONTENT, padding="x" * 100_000)
    endpoint.default = [say(body=big)]
    with pytest.raises(RunError, match="the disk is full"):
        generate(endpoint, small_disk, requests(150), concurrency=8, timeout=60.0)
    first = endpoint.total
    assert 10 < first < 150
    cache = small_disk.parent / "larger"
    cache.mkdir()
    for file in small_disk.glob("ledger.sqlite*"):
        if file.is_file():
            shutil.copy(file, cache / file.name)
    endpoint.default = [say()]
    _, summary = generate(endpoint, cache, requests(150), timeout=60.0)
    assert summary["answered"] == 150 and endpoint.total == 150  # none was asked twice


LIMITED = """
    import resource, signal, sys
    from pathlib import Path
    from seedtalk.teacher.ledger import writer
    from tests.faults.test_storage import *
    path = Path(sys.argv[1])
    stock(path, 10)
    writer.SPARE = 1 << 10
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    with Ledger(path) as ledger:
        results, refused = in_flight(ledger, 40, 20_000, limit)
        assert all(isinstance(error, RunError) for error in results), results
        assert refused is not None
        print(refused.message)
"""


def test_a_file_that_may_not_grow_keeps_what_it_holds(tmp_path):
    path = tmp_path / "l.sqlite"
    done = child(LIMITED, path, 200_000)
    assert done.returncode == 0, done.stderr
    assert "the ledger cannot be used" in done.stdout
    assert answered(path, 50) == set(range(10))
    with Ledger(path) as ledger:
        assert list(upkeep.faults(ledger)) == []
        ledger.scope(key(n) for n in range(50))
        assert ledger.spent().calls == 50  # what was sent is not forgotten


def test_a_database_at_its_limit_says_so(tmp_path):
    stock(tmp_path / "l.sqlite", 5)
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ((pages,),) = ledger.rows("PRAGMA page_count")
        ledger.db.execute(f"PRAGMA max_page_count={pages}")
        row = ledger.reserve(key(9), "e", "m", 0.5, body=body(9), **CAPS)
        with pytest.raises(RunError, match=r"the disk is full.*free some space"):
            ledger.receive(row, "x" * 100_000)
        ledger.scope([key(9)])
        assert ledger.spent() == Spent(1, 0.5)
    assert answered(tmp_path / "l.sqlite", 5) == set(range(5))


# --- read-only and in the way -------------------------------------------------------------


def test_a_folder_in_the_file_s_place_stops_the_run(endpoint, tmp_path):
    (tmp_path / "ledger.sqlite").mkdir()
    with pytest.raises(RunError, match="cannot be opened for writing"):
        generate(endpoint, tmp_path, requests(2))
    assert endpoint.total == 0


def test_a_file_in_the_folder_s_place_stops_the_run(endpoint, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(RunError, match=r"cannot be opened for writing.*make the file"):
        generate(endpoint, tmp_path / "cache", requests(2))
    assert endpoint.total == 0


@pytest.fixture
def read_only(tmp_path):
    """A function that makes a folder read-only, for root too."""
    mounted = []

    def make(folder):
        if os.geteuid():
            for file in (*folder.iterdir(), folder):
                file.chmod(file.stat().st_mode & ~0o222)
            return
        for options in (
            ["--bind", str(folder), str(folder)],
            ["-o", "remount,ro,bind", str(folder)],
        ):
            done = subprocess.run(["mount", *options], capture_output=True, check=False)
            if done.returncode:
                pytest.skip("root writes anywhere here, and may not mount")
            mounted.append(folder)

    yield make
    for folder in set(mounted):
        subprocess.run(["umount", str(folder)], check=True)
    for folder in [tmp_path, *tmp_path.iterdir()]:
        folder.chmod(0o755)


def test_a_read_only_folder_stops_the_run_and_keeps_the_answers(endpoint, tmp_path, read_only):
    cache = tmp_path / "cache"
    generate(endpoint, cache, requests(3))
    before = (cache / "ledger.sqlite").read_bytes()
    read_only(cache)
    with pytest.raises(RunError, match=r"cannot be opened for writing.*writable"):
        generate(endpoint, cache, requests(5))
    assert endpoint.total == 3 and (cache / "ledger.sqlite").read_bytes() == before


def test_a_read_only_empty_folder_makes_no_call(endpoint, tmp_path, read_only):
    cache = tmp_path / "cache"
    cache.mkdir()
    read_only(cache)
    with pytest.raises(RunError, match="cannot be opened for writing"):
        generate(endpoint, cache, requests(2))
    assert endpoint.total == 0


def test_a_file_that_turns_read_only_under_a_run_stops_it(endpoint, tmp_path, monkeypatch):
    """Whatever the file system: SQLite itself is told to refuse writes."""
    opened = Ledger.__init__

    def refusing(self, path, **options):
        opened(self, path, **options)
        self.db.execute("PRAGMA query_only=ON")

    generate(endpoint, tmp_path, requests(2))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "__init__", refusing)
        with pytest.raises(RunError, match="cannot be opened for writing"):
            generate(endpoint, tmp_path, requests(4))
    assert endpoint.total == 2
    assert generate(endpoint, tmp_path, requests(4))[1]["answered"] == 4 == endpoint.total


def test_lock_files_in_the_way_stop_the_run(endpoint, tmp_path):
    (tmp_path / "ledger.sqlite.locks").write_text("")
    with pytest.raises(RunError, match="cannot be locked"):
        generate(endpoint, tmp_path, requests(2))
    assert endpoint.total == 0


# --- read where it cannot be written -------------------------------------------------------

ENDS = ("", "-wal", "-shm")


def state(folder):
    """Return all there is in a folder: names, bytes and times."""
    return {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns)
        for file in folder.iterdir()
        if file.is_file()
    }


@pytest.fixture(params=["mount", "told"])
def sealed(request, read_only, monkeypatch):
    """A function that makes a folder one that cannot be written, or has it looked like one."""

    def make(folder):
        if request.param == "mount":
            read_only(folder)
        else:
            monkeypatch.setattr(store, "is_writable", lambda path: False)

    return make


def project(folder, endpoint, rows, **values):
    """Write the files that the commands read."""
    group = teacher(endpoint, **values).model_dump(mode="json")
    group["prices"] = str(domain.ROOT / "prices.yaml")
    domain.write_params(folder / "params.yaml", teacher=group)
    (folder / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def commands(folder):
    """Run every command that reads the ledger of a folder; return what they print."""
    ledger = str(folder / ".cache" / "ledger.sqlite")
    files = ["--params", f"{folder}/params.yaml", "--requests", f"{folder}/requests.jsonl"]
    told = []
    for arguments in (
        ["ledger", "stats", "--json", "--ledger", ledger],
        ["ledger", "verify", "--ledger", ledger],
        ["ledger", "export", "--ledger", ledger],
        ["ledger", "gc", "--dry-run", "--failed", "--ledger", ledger],
        ["cost", "--json", *files],
    ):
        done = CliRunner().invoke(main, arguments)
        assert (done.exit_code, done.exception) == (0, None), done.output
        told.append(done.output)
    return told


def older(path):
    """Put the tables of version 1 in a ledger's place, filled under the same keys."""
    old = path.with_name("old.sqlite")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(old)) as target, target:
        target.executescript(
            "CREATE TABLE attempts (id INTEGER PRIMARY KEY, key TEXT NOT NULL, "
            "attempt INTEGER NOT NULL, endpoint TEXT NOT NULL, model TEXT NOT NULL, "
            "state TEXT NOT NULL, body TEXT, digest TEXT, error TEXT, usd REAL NOT NULL, "
            "UNIQUE (key, attempt)); PRAGMA user_version=1;"
        )
        for row in source.execute(
            "SELECT key, attempt, endpoint, model, state, body, error, usd FROM attempts"
        ).fetchall():
            digest = hashlib.sha256(row[5].encode()).hexdigest()
            target.execute(
                "INSERT INTO attempts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row[:6], digest, *row[6:]),
            )
    old.replace(path)


def pending(folder):
    """Leave the ledger of a folder as a killed run does: its last commits in the log alone."""
    path = folder / "ledger.sqlite"
    with Ledger(path) as ledger:
        row = ledger.reserve(key(99), "e", "m", 0.0, body=body(99), **CAPS)
        ledger.receive(row, completion("in the log").decode())
        held = {end: Path(f"{path}{end}").read_bytes() for end in ENDS}
    for end in ENDS:
        Path(f"{path}{end}").write_bytes(held[end])


@pytest.mark.parametrize("left", ["nothing", "log", "log without its index", "version 1"])
def test_what_cannot_be_written_is_read_and_left_as_it_is(
    endpoint, tmp_path, sealed, monkeypatch, left
):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    rows, cache = requests(4), tmp_path / ".cache"
    project(tmp_path, endpoint, rows)
    lines, _ = generate(endpoint, cache, rows)
    if left.startswith("log"):
        pending(cache)
    if left == "log without its index":
        (cache / "ledger.sqlite-shm").unlink()
    if left == "version 1":
        older(cache / "ledger.sqlite")
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy)
    monkeypatch.setenv("DVC_ROOT", str(copy))
    wanted = commands(copy)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    before = state(cache)
    sealed(cache)
    again, summary = generate(endpoint, cache, rows, backend="replay")
    told = commands(tmp_path)
    assert again == lines and summary["spent"]["calls"] == 4 == endpoint.total
    if left.startswith("log"):
        assert "in the log" in told[2]
    for mine, theirs in zip(told[2:], wanted[2:], strict=True):
        assert mine == theirs
    assert json.loads(told[0])["models"] == json.loads(wanted[0])["models"]
    after = state(cache)
    after.pop("ledger.sqlite-shm", None), before.pop("ledger.sqlite-shm", None)  # locks lie there
    assert after == before


def test_no_file_is_made_even_for_a_moment(endpoint, tmp_path, monkeypatch):
    """A folder on which not even root may write, as far as SQLite is told."""
    generate(endpoint, tmp_path, requests(2))
    monkeypatch.setattr(store, "is_writable", lambda path: False)
    with Ledger(tmp_path / "ledger.sqlite", reading=True) as ledger:
        assert len(list(upkeep.attempts(ledger))) == 2
        assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["ledger.sqlite"]
        with pytest.raises(RunError, match="cannot be opened for writing"):
            ledger.reserve(key(1), "e", "m", 0.0, body=body(1), **CAPS)


def test_a_file_that_changes_while_it_is_read_unlocked_is_told(tmp_path, monkeypatch):
    path = tmp_path / "l.sqlite"
    stock(path, 3)
    monkeypatch.setattr(store, "is_writable", lambda path: False)
    with (
        pytest.raises(RunError, match="was written to while it was read; run again"),
        Ledger(path, reading=True) as ledger,
    ):
        assert len(list(upkeep.attempts(ledger))) == 3
        stock(path, 5)


def test_a_read_only_ledger_answers_no_new_request(endpoint, tmp_path, monkeypatch):
    generate(endpoint, tmp_path, requests(2))
    monkeypatch.setattr(store, "is_writable", lambda path: False)
    with pytest.raises(RunError, match="no answer to 1 of 3"):
        generate(endpoint, tmp_path, requests(3), backend="replay")
    assert endpoint.total == 2


def test_a_replay_without_a_ledger_makes_none(endpoint, tmp_path):
    with pytest.raises(RunError, match="no ledger there"):
        generate(endpoint, tmp_path, requests(3), backend="replay")
    assert not list(tmp_path.iterdir())


# --- other versions -----------------------------------------------------------------------


def test_a_newer_file_makes_no_call(endpoint, tmp_path):
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db, db:
        db.execute("PRAGMA user_version=3")
    with pytest.raises(RunError, match="upgrade seedtalk"):
        generate(endpoint, tmp_path, requests(2))
    assert endpoint.total == 0


def test_answers_of_an_older_file_are_not_paid_for_again(endpoint, tmp_path):
    """The tables of version 1, filled under the same keys."""
    first, _ = generate(endpoint, tmp_path, requests(4))
    older(tmp_path / "ledger.sqlite")
    again, _ = generate(endpoint, tmp_path, requests(4))
    assert again == first and endpoint.total == 4
    generate(endpoint, tmp_path, requests(5))
    assert endpoint.total == 5
