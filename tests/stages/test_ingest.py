import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from stages.ingest import main
from tests.unit.sources.test_jsonl import CONVERSATIONS, INTERACTIONS, ITEMS, REVIEWS, write

from seedtalk.records import read_table

ROOT = Path(__file__).parents[2]
OUTPUTS = ("items", "reviews", "interactions", "conversations")


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder / "items.jsonl", ITEMS)
    write(folder / "reviews.jsonl", REVIEWS)
    write(folder / "interactions.jsonl", INTERACTIONS)
    write(folder / "conversations.jsonl", CONVERSATIONS)
    return folder


def run(tmp_path, corpus, name="out", **ingest):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["finetune"]["learning_rate"] = 0.001
    params["ingest"] |= {
        "source": "jsonl",
        "path": str(corpus),
        "min_item_ratings": 1,
        "min_reviewed_item_ratings": 1,
        "min_review_chars": 1,
        "eval_users": 1,
        "context_likes": 1,
        "target_likes": 1,
    } | ingest
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    out = tmp_path / name
    files = [f"--{table}={out / table}.parquet" for table in OUTPUTS]
    result = CliRunner().invoke(
        main, [f"--params={tmp_path / 'params.yaml'}", f"--corpus={out / 'corpus.json'}", *files]
    )
    return result, out


def test_it_writes_the_four_tables_and_the_report(tmp_path, corpus):
    result, out = run(tmp_path, corpus, eval_users=0)
    assert result.exit_code == 0, result.output
    tables = {table: read_table(out / f"{table}.parquet", table) for table in OUTPUTS}
    assert {name: len(table) for name, table in tables.items()} == {
        "items": 2,
        "reviews": 2,
        "interactions": 4,
        "conversations": 1,
    }
    report = json.loads((out / "corpus.json").read_text())
    assert report["items"]["kept"] == 2
    assert str(tmp_path) not in (out / "corpus.json").read_text()


def test_two_runs_give_the_same_bytes(tmp_path, corpus):
    _, one = run(tmp_path, corpus, "one", eval_users=0)
    _, two = run(tmp_path, corpus, "two", eval_users=0)
    for path in sorted(one.iterdir()):
        assert path.read_bytes() == (two / path.name).read_bytes()


def test_the_data_option_overrides_the_path(tmp_path, corpus):
    result, out = run(tmp_path, tmp_path / "nowhere", eval_users=0)
    assert result.exit_code == 2
    result = CliRunner().invoke(
        main,
        [
            f"--params={tmp_path / 'params.yaml'}",
            f"--data={corpus}",
            f"--corpus={out / 'corpus.json'}",
            *(f"--{table}={out / table}.parquet" for table in OUTPUTS),
        ],
    )
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"review_id": "r3", "item_id": "a"}, "reviews.jsonl, row 3, field 'text': missing"),
        ({"review_id": "r1", "item_id": "a", "text": "x"}, "row 3, field 'review_id': 'r1' is on"),
    ],
)
def test_bad_input_ends_with_exit_code_2_and_writes_nothing(tmp_path, corpus, row, message):
    write(corpus / "reviews.jsonl", [*REVIEWS, row])
    result, out = run(tmp_path, corpus)
    assert result.exit_code == 2
    assert message in result.output
    assert not out.exists()
