import json
import subprocess

import pytest
import yaml

from seedtalk.comparing import compare
from seedtalk.errors import InputError

OUT = "a" * 32
PIN = "c" * 32 + ".dir"


def metrics(gap: float = 0.5, own: float = 0.4) -> str:
    interval = {"mean": gap, "low": gap - 0.1, "high": gap + 0.1}
    system = {
        "recall@10": own,
        "mrr": own,
        "recall@10_low": own - 0.1,
        "recall@10_high": own + 0.1,
    }
    return json.dumps(
        {"likes": {"a": system, "paired": {"a minus b": {"recall@10": interval}}, "n": 3}}
    )


def write(root, *, out=OUT, pin=PIN, **means):
    outs = [{"path": "artifacts/items.parquet", "md5": out}]
    lock = {"schema": "2.0", "stages": {"ingest": {"outs": outs}}}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    (root / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": pin, "path": "data"}]}))
    (root / "results" / "metrics.json").write_text(metrics(**means))


def commit(root):
    for arguments in (
        ["init", "-q"],
        ["config", "user.email", "test@example.org"],
        ["config", "user.name", "test"],
        ["add", "-A"],
        ["commit", "-qm", "x"],
    ):
        subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "results").mkdir()
    write(tmp_path)
    commit(tmp_path)
    return tmp_path


def test_an_equal_run_reproduces(project):
    assert compare(project, "HEAD") == []


def test_numbers_within_the_committed_intervals_reproduce(project):
    write(project, gap=0.59, own=0.31)
    assert compare(project, "HEAD") == []


def test_a_difference_outside_is_named(project):
    write(project, gap=0.61)
    (difference,) = compare(project, "HEAD")
    assert difference.startswith("likes.paired.a minus b.recall@10.mean is 0.6100, outside")


def test_a_headline_outside_is_named_and_other_metrics_are_not_compared(project):
    write(project, own=0.29)
    (difference,) = compare(project, "HEAD")
    assert difference == (
        "likes.a.recall@10 is 0.2900, outside the committed interval [0.3000, 0.5000]"
    )


def test_another_hash_of_an_exact_stage_is_named(project):
    write(project, out="b" * 32)
    assert compare(project, "HEAD") == ["outputs of ingest have other hashes"]


def test_other_data_are_named(project):
    write(project, pin="d" * 32 + ".dir")
    assert compare(project, "HEAD") == ["data.dvc pins other data"]


def test_numbers_that_were_not_measured_are_named(project):
    (project / "results" / "metrics.json").write_text("{}")
    differences = compare(project, "HEAD")
    assert len(differences) == 2
    assert all("was not measured" in difference for difference in differences)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("results/metrics.json", "[]", "expected an object, got list"),
        ("results/metrics.json", "null", "expected an object, got NoneType"),
        ("results/metrics.json", "{", "not a JSON document"),
        ("results/metrics.json", "[" * 200_000, "not a JSON document"),
        ("dvc.lock", "[]", "not a lock file"),
        ("dvc.lock", "stages: {ingest: {outs: [1]}}", "not a lock file"),
        ("data.dvc", "outs: 3", "not a .dvc file"),
        ("data.dvc", "{", "not a .dvc file"),
    ],
)
def test_a_malformed_file_is_named_wherever_it_is(project, name, text, message):
    (project / name).write_text(text)
    with pytest.raises(InputError, match=f"^{name}: {message}"):
        compare(project, "HEAD")
    commit(project)
    write(project)
    with pytest.raises(InputError, match=f"^{name} at revision 'HEAD': {message}"):
        compare(project, "HEAD")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"likes": {"a": {"mrr": 0.5}}}', "metrics.json at revision 'HEAD': holds no interval"),
        (
            '{"likes": {"a": {"mrr": 0.5, "mrr_low": "x", "mrr_high": 1}}}',
            "field 'likes.a.mrr': its interval is no pair of numbers",
        ),
    ],
)
def test_committed_metrics_that_decide_nothing_are_refused(project, text, message):
    (project / "results" / "metrics.json").write_text(text)
    commit(project)
    with pytest.raises(InputError, match=message):
        compare(project, "HEAD")


def test_an_unknown_revision_and_a_missing_run(project):
    with pytest.raises(InputError, match="revision 'nowhere'"):
        compare(project, "nowhere")
    (project / "dvc.lock").unlink()
    with pytest.raises(InputError, match=r"dvc.lock: missing; run `dvc repro`"):
        compare(project, "HEAD")
