import json

import pytest
from click.testing import CliRunner
from stages.prompt import main
from tests import domain


@pytest.fixture
def inputs(tmp_path):
    domain.write_tables(tmp_path)
    domain.write_params(tmp_path / "params.yaml")
    return tmp_path


def run(folder, out="out"):
    names = ("seeds.jsonl", "reviews.parquet", "items.parquet", "interactions.parquet")
    arguments = ["--params", str(folder / "params.yaml")]
    for name in names:
        arguments += [f"--{name.split('.')[0]}", str(folder / name)]
    arguments += ["--requests", str(folder / out / "requests.jsonl")]
    arguments += ["--grounding", str(folder / out / "grounding.jsonl")]
    return CliRunner().invoke(main, arguments)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_it_writes_a_request_and_its_grounding_for_every_seed(inputs):
    assert run(inputs).exit_code == 0
    requests = lines(inputs / "out" / "requests.jsonl")
    grounding = lines(inputs / "out" / "grounding.jsonl")
    assert len(requests) == len(grounding) == len(domain.seeds())
    assert [r["custom_id"] for r in requests] == [g["custom_id"] for g in grounding]


def test_two_runs_write_equal_bytes(inputs):
    run(inputs, "one")
    run(inputs, "two")
    for name in ("requests.jsonl", "grounding.jsonl"):
        assert (inputs / "one" / name).read_bytes() == (inputs / "two" / name).read_bytes()


def test_a_faulty_seed_ends_with_2_and_names_row_and_field(inputs):
    with (inputs / "seeds.jsonl").open("a") as file:
        file.write('{"rank": 99, "review_id": "x", "item_id": 5, "score": 0.0}\n')
    result = run(inputs)
    assert result.exit_code == 2 and "field 'item_id'" in result.output
    assert not (inputs / "out").exists()


def test_a_missing_template_ends_with_2(inputs):
    domain.write_params(inputs / "params.yaml", prompt={"template": "nowhere.md"})
    result = run(inputs)
    assert result.exit_code == 2 and "nowhere.md" in result.output
