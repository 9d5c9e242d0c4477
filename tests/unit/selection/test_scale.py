"""Large tables: picks that no thread count, block, memory map or device changes; little memory."""

import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from seedtalk.errors import InputError
from seedtalk.selection import js, select, tables

CASES = (
    ("js", {}),
    ("fisher", {}),
    ("fisher", {"criterion": "trace"}),
    ("hybrid", {"criterion": "logdet"}),
    ("random", {}),
    ("popularity", {}),
    ("kcenter", {}),
    ("facility", {}),
)
EACH = pytest.mark.parametrize(("method", "options"), CASES)


def clustered(n, d, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, d))
    X = centres[rng.integers(0, 12, n)] + 0.7 * rng.normal(size=(n, d))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A table large enough for several pieces of every kind, mapped from a file."""
    path = tmp_path_factory.mktemp("scale") / "x.npy"
    np.save(path, clustered(9000, 48))
    return path


def run(X, method, options, budget=60, **more):
    X = X[:2500] if method == "facility" else X  # its time grows with the square of the rows
    return select(X, budget, method, clusters=6, popularity=X[:, 0], **options, **more)


PROGRAM = """
import json, sys
import numpy as np
from seedtalk.selection import select
X = np.load(sys.argv[1], mmap_mode="r")
made = []
for method, options in json.loads(sys.argv[2]):
    X = X[:2500] if method == "facility" else X
    chosen = select(X, 60, method, clusters=6, popularity=X[:, 0], **options)
    made.append([chosen.indices.tolist(), [gain.hex() for gain in chosen.gains.tolist()]])
print(json.dumps(made))
"""


def test_no_bit_depends_on_the_number_of_threads(mapped):
    made = []
    for threads in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(mapped), json.dumps(CASES)],
            env=os.environ | {"OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        )
        made.append(done.stdout)
    assert made[0] == made[1]
    X = np.load(mapped)
    for (method, options), (rows, gains) in zip(CASES, json.loads(made[0]), strict=True):
        here = run(X, method, options)  # in memory
        assert here.indices.tolist() == rows
        assert [gain.hex() for gain in here.gains.tolist()] == gains


@EACH
def test_no_bit_depends_on_the_block(mapped, method, options):
    X = np.load(mapped, mmap_mode="r")
    one, other = (run(X, method, options, block=block) for block in (500, 4096))
    assert one.indices.tolist() == other.indices.tolist()
    assert one.gains.tolist() == other.gains.tolist()


def test_threads_are_the_cores_or_fewer(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for wanted, given in (("", 4), ("2", 2), ("9", 4), ("0", 4), ("many", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
        assert tables.threads() == given


@pytest.mark.parametrize(("method", "options"), [("js", {"clusters": 6}), ("fisher", {}), CASES[2]])
def test_the_table_is_never_copied(tmp_path, method, options):
    n, d = 60_000, 256
    X = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (n, d))
    for begin in range(0, n, 10_000):
        X[begin : begin + 10_000] = clustered(10_000, d, begin)
    profile = js.Profile(np.full((n, 6), 1 / 6), np.zeros(n, dtype=np.int64), 1.0)
    kept = {"profile": profile} if method == "js" else {}
    select(X[:300], 5, method, **options)  # imports, outside the count
    tracemalloc.start()
    select(X, 5, method, block=2048, **options, **kept)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * X.nbytes


def test_memberships_take_no_copy_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(js, "SAMPLE", 2000)
    X = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (40_000, 128))
    X[:] = clustered(40_000, 128)
    js.profile(X[:300], 4, block=2048)
    tracemalloc.start()
    js.profile(X, 4, block=2048)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.7 * X.nbytes


@pytest.fixture(params=["held", "sent"])
def torch_on_the_processor(request, monkeypatch):
    """Put the CUDA path on torch's CPU device: rows kept there, or sent as they are needed."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(tables, "_cuda", lambda: torch.device("cpu"))
    monkeypatch.setattr(tables, "_room", lambda _: 2**62 if request.param == "held" else 0)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("method", "options"), CASES[:4])
@pytest.mark.parametrize("ties", [False, True])
def test_the_device_path_picks_the_same_rows(torch_on_the_processor, method, options, ties):
    X = clustered(3000, 16)
    if ties:
        X = X[np.random.default_rng(0).integers(0, 400, 3000)]
    here = run(X, method, options)
    there = run(X, method, options, device="cuda", block=700)
    assert there.indices.tolist() == here.indices.tolist()
    assert there.gains == pytest.approx(here.gains, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("method", "options"), CASES[:4])
def test_the_device_path_keeps_every_quota_and_goes_on(torch_on_the_processor, method, options):
    """All quotas and a warm start at once, on rows of which many are copies."""
    rng = np.random.default_rng(5)
    X = clustered(900, 12)[rng.integers(0, 300, 900)]
    items = rng.integers(0, 60, 900)
    groups = np.where(items < 3, "rare", np.where(items < 30, "some", "many"))
    given_ = options | {
        "items": items,
        "max_per_item": 2,
        "groups": groups,
        "min_per_group": 5,
        "warm_start": [7, 700, 33],
    }
    here = run(X, method, given_)
    there = run(X, method, given_, device="cuda", block=128)
    assert there.indices.tolist() == here.indices.tolist()
    taken = np.r_[given_["warm_start"], there.indices]
    assert np.unique(items[taken], return_counts=True)[1].max() <= 2
    assert min(np.unique(groups[taken], return_counts=True)[1]) >= 5
    free = given_ | {"min_per_group": 0}
    whole = run(X, method, free, device="cuda")
    rest = free | {"warm_start": [*given_["warm_start"], *whole.indices[:20].tolist()]}
    assert run(X, method, rest, 40, device="cuda").indices.tolist() == whole.indices[20:].tolist()


def test_the_device_path_reads_a_memory_map(torch_on_the_processor, mapped, recwarn):
    X = np.load(mapped, mmap_mode="r")
    for method, options in CASES[:3]:
        there = run(X, method, options, device="cuda")
        assert there.indices.tolist() == run(X, method, options).indices.tolist()
    assert not [w for w in recwarn if "writable" in str(w.message)]


@pytest.mark.parametrize("mode", ["held", "sent"])
def test_both_tables_compute_the_same(monkeypatch, mode):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(tables, "_room", lambda _: 2**62 if mode == "held" else 0)
    rng = np.random.default_rng(0)
    X = rng.dirichlet(np.ones(5), 700).astype(np.float32)
    X[3] = [1, 0, 0, 0, 0]
    host, torch_ = tables.HostTable(X, 100), tables.TorchTable(X, 100, torch.device("cpu"))
    wide, at = X.astype(np.float64), rng.integers(0, 700, 300)
    vectors, known = rng.normal(size=(40, 5)), rng.integers(0, 41, 300)
    mean = wide[:9].mean(axis=0)
    late = np.arange(40) >= known[:, None]

    def entropy(p):
        return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=1)

    for one in (host, torch_):
        close = pytest.approx
        assert one.squares() == close((wide**2).sum(axis=1))
        assert one.gram() == close(wide.T @ wide)
        assert one.spread(vectors[:5]) == close(((wide @ vectors[:5].T) ** 2).sum(axis=1))
        assert one.spread(vectors[:5], at) == close(((wide[at] @ vectors[:5].T) ** 2).sum(axis=1))
        assert one.along(vectors, known, at) == close(
            ((wide[at] @ vectors.T) ** 2 * late).sum(axis=1)
        )
        assert one.products(vectors[:2]) == close(vectors[:2] @ wide.T)
        away = np.linalg.norm(wide[:, None] - vectors[None, :4], axis=2)
        assert one.distances(vectors[:4]) == close(away)
        assert one.entropy() == close(entropy(wide), abs=1e-12)
        assert one.entropy(at, mean) == close(entropy((wide[at] + mean) / 2))


def test_cuda_without_a_gpu_is_refused():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for method in ("js", "fisher", "hybrid"):
        with pytest.raises(InputError, match="device: cuda .* set device: cpu"):
            run(clustered(30, 4)[:60].repeat(3, axis=0), method, {}, device="cuda")
