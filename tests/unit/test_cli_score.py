import json

import pandas as pd
import pytest
from click.testing import CliRunner

from seedtalk.cli import main
from seedtalk.evaluation.metrics import per_query_metrics, summarise
from seedtalk.records import write_table

ITEMS = pd.DataFrame(
    {
        "item_id": [f"i{n}" for n in range(6)],
        "title": ["Heat", "The Thing", "The Thing", "Up", "Alien", "Brazil"],
        "year": pd.array([1995, 1982, 2011, 2009, 1979, 1985], dtype="Int32"),
        "genres": [[]] * 6,
        "description": [""] * 6,
    }
)
TURNS = {
    "c1": [
        ("seeker", "I liked Heat", ["i0"]),
        ("recommender", "Heat is fine. The Thing?", ["i0", "i1"]),
        ("recommender", "Or Up", ["i3"]),
        ("seeker", "No", []),
        ("recommender", "Up, really", ["i3", "unknown"]),
    ],
    "c2": [("seeker", "Hi", []), ("recommender", "Alien", ["i4"])],
    "c3": [("seeker", "Hi", []), ("recommender", "Brazil", ["i5"])],
}


def invoke(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def run(tmp_path):
    """A catalogue, two benchmarks with the same conversations, and two systems' rankings."""
    write_table(tmp_path / "items.parquet", ITEMS, "items")
    talk = pd.DataFrame(
        [
            {
                "conversation_id": name,
                "benchmark": benchmark,
                "turns": [dict(zip(("role", "text", "items"), t, strict=True)) for t in turns],
                "seen": [],
            }
            for benchmark, ids in (("talk", ["c1", "c2", "c3"]), ("more", ["c1", "c2"]))
            for name, turns in TURNS.items()
            if name in ids
        ]
    )
    write_table(tmp_path / "conversations.parquet", talk, "conversations")
    rows = [
        ("good", "c1", 1, ["i1"], ["i1", "i2", "i3", "i4"]),
        ("good", "c1", 2, ["i3"], ["i2", "i3", "i4"]),
        ("good", "c2", 1, ["i4"], ["i0", "i1", "i2", "i3", "i4"]),
        ("bad", "c1", 1, ["i1"], ["i2", "i4"]),
    ]
    frame = pd.DataFrame(rows, columns=["system", "conversation_id", "query", "targets", "ranking"])
    write_table(tmp_path / "predictions.parquet", frame, "predictions")
    return tmp_path


def export(run, *more):
    return invoke(
        "export", "predictions", run / "predictions.parquet", "--items", run / "items.parquet",
        "--conversations", run / "conversations.parquet", "-o", run / "out.jsonl", *more,
    )  # fmt: skip


def test_rankings_become_answers(run):
    done = export(run, "--system", "good", "--benchmark", "talk", "--depth", "2")
    assert done.exit_code == 0, done.output
    assert "rankings of good on talk" in done.output
    records = [json.loads(line) for line in (run / "out.jsonl").read_text().splitlines()]
    assert [(r["conversation_id"], r["turn"]) for r in records] == [
        ("c1", 1), ("c1", 2), ("c1", 4), ("c2", 1),
    ]  # fmt: skip
    first, second, repeat, last = records
    assert [e["nearest_movie"] for e in first["rec_list"]] == [
        "The Thing (1982)", "The Thing (2011)",
    ]  # fmt: skip
    assert first["gt_list"] == ["The Thing (1982)", "Heat (1995)"]  # new, then repeated
    assert first["prev_list"] == ["Heat (1995)"]
    assert second["prev_list"] == ["Heat (1995)", "The Thing (1982)"]
    assert repeat["rec_list"] == [] and repeat["gt_list"] == ["Up (2009)"]  # never ranked for
    assert len(last["rec_list"]) == 2


def test_both_protocols_agree_with_the_pipeline_on_recall(run):
    assert export(run, "--system", "good", "--benchmark", "talk").exit_code == 0
    table = pd.read_parquet(run / "predictions.parquet")
    own = summarise(
        per_query_metrics(table[table["system"] == "good"], [1, 5]), resamples=10, seed=0
    )["good"]
    for more in (["he2023"], ["strict", "--items", run / "items.parquet"]):
        done = invoke("score", run / "out.jsonl", "--json", "--protocol", *more)
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["recommendation"]["n"] == 3
        assert found["discussion"]["n"] == 2 and found["discussion"]["recall@20_mean"] == 0
        for k in (1, 5):
            mean = found["recommendation"][f"recall@{k}_mean"]
            assert mean == pytest.approx(own[f"recall@{k}"]["mean"], abs=1e-6)
    assert "recall@1_low" in found["recommendation"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "which one is --system to name; it holds bad, good"),
        (["--system", "odd"], "'odd' is not there; it holds bad, good"),
        (["--system", "good"], "more, talk hold these conversations; name one with --benchmark"),
        (["--system", "good", "--benchmark", "x"], "no benchmark holds the conversations"),
    ],
)
def test_what_is_ambiguous_is_asked_for(run, more, said):
    done = export(run, *more)
    assert done.exit_code == 2 and said in " ".join(done.output.split())
    assert not (run / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("s", "c1", 3, ["i1"], ["i1"]), "conversation c1, turn 3: no such query"),
        (("s", "c1", 1, ["i1"], ["i9"]), "item 'i9' is not in the catalogue"),
    ],
)
def test_files_of_two_runs_do_not_fit(run, row, said):
    columns = ["system", "conversation_id", "query", "targets", "ranking"]
    write_table(run / "predictions.parquet", pd.DataFrame([row], columns=columns), "predictions")
    done = export(run, "--benchmark", "talk")
    assert done.exit_code == 2 and said in done.output
    assert not (run / "out.jsonl").exists()


def answers(tmp_path, *records):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


ONE = {
    "completion": "1. Heat (1995)\n2. Brasil",
    "rec_list": [{"movie_name": "Heat", "min_edit_distance": 0, "nearest_movie": "Heat"}],
    "gt_list": ["Brazil", "Heat"],
    "prev_list": ["Heat"],
}


def test_he2023_from_the_list_and_from_the_text(tmp_path):
    path = answers(tmp_path, ONE)
    entities = tmp_path / "entity2id.json"
    entities.write_text(json.dumps({"<r/Heat_(1995_film)>": 0, "<r/Brazil>": 1}))
    listed = json.loads(invoke("score", path, "--protocol", "he2023", "--json").stdout)
    assert list(listed) == ["recommendation", "discussion", "all"]
    assert listed["recommendation"]["recall@5_mean"] == 0.0
    read = json.loads(invoke("score", path, "--json", "--entities", entities).stdout)
    assert read["recommendation"]["recall@5_mean"] == 1.0
    assert read["recommendation"]["recall@1_mean"] == 0.0
    seen = invoke("score", path, "--json", "--entities", entities, "--exclude-seen", "--filtered")
    numbers = json.loads(seen.stdout)
    assert numbers["recommendation"]["recall@1_mean"] == 1.0
    assert numbers["discussion"]["recall@20_mean"] == 0.0


def test_the_table_has_every_metric_and_condition(run):
    done = invoke("score", answers(run, ONE, ONE))
    assert done.exit_code == 0
    for expected in ("recommendation (2)", "discussion (2)", "all (4)", "mrr@20", "± 1.96 se"):
        assert expected in done.output
    assert "0.500 ± 0.566" in done.output
    bare = invoke("score", answers(run, {**ONE, "gt_list": ["Brazil"]}))
    assert "–" in bare.output and "0.000" in bare.output
    talk = [{**ONE, "conversation_id": name} for name in ("a", "b")]
    path = answers(run, *talk)
    done = invoke("score", path, "--protocol", "strict", "--items", run / "items.parquet")
    assert "2 of 4 titles answered and 0 of 4 asked for are not in" in done.stderr
    assert "95% of dialogues resampled" in done.stdout and "[" in done.stdout


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--protocol", "strict", "--filtered"], "are of --protocol he2023"),
        (["--protocol", "strict", "--entities", "{file}"], "are of --protocol he2023"),
        (["--items", "{file}"], "is of --protocol strict"),
        (["--protocol", "other"], "'other' is not one of"),
    ],
)
def test_options_of_the_other_protocol_are_refused(tmp_path, more, said):
    path = answers(tmp_path, ONE)
    done = invoke("score", path, *(part.format(file=path) for part in more))
    assert done.exit_code == 2 and said in done.output


def test_strict_needs_a_catalogue(tmp_path, monkeypatch):
    path = answers(tmp_path, ONE)
    monkeypatch.chdir(tmp_path)
    done = invoke("score", path, "--protocol", "strict")
    assert done.exit_code == 2
    assert "artifacts/items.parquet: no such file; give --items" in done.output


def test_faults_end_with_2(tmp_path):
    path = answers(tmp_path, ONE, {**ONE, "gt_list": 3})
    done = invoke("score", path)
    assert done.exit_code == 2
    assert "answers.jsonl, row 2, field 'gt_list': expected a list of names, got int" in done.output
