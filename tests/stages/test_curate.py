import json

import pytest
from click.testing import CliRunner
from stages.curate import main
from stages.generate import main as generate
from stages.prompt import main as prompt
from tests import domain

from seedtalk.records import Dialogue, Rejected, read_jsonl


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    domain.write_tables(tmp_path)
    domain.write_params(tmp_path / "params.yaml")
    invoke(
        prompt,
        tmp_path,
        seeds="seeds.jsonl",
        reviews="reviews.parquet",
        items="items.parquet",
        interactions="interactions.parquet",
        requests="requests.jsonl",
        grounding="grounding.jsonl",
    )
    invoke(
        generate,
        tmp_path,
        requests="requests.jsonl",
        responses="responses.jsonl",
        summary="teacher.json",
    )
    return tmp_path


def invoke(command, folder, **paths):
    arguments = ["--params", str(folder / "params.yaml")]
    for name, path in paths.items():
        arguments += [f"--{name}", str(folder / path)]
    return CliRunner().invoke(command, arguments)


def run(folder, out="out"):
    return invoke(
        main,
        folder,
        responses="responses.jsonl",
        grounding="grounding.jsonl",
        items="items.parquet",
        conversations="conversations.parquet",
        teacher="teacher.json",
        dialogues=f"{out}/dialogues",
        summary=f"{out}/synthesis.json",
    )


def test_seeds_become_dialogues_that_name_no_target(inputs):
    assert run(inputs).exit_code == 0
    train = read_jsonl(inputs / "out/dialogues/train.jsonl", Dialogue)
    valid = read_jsonl(inputs / "out/dialogues/valid.jsonl", Dialogue)
    quarantine = read_jsonl(inputs / "out/dialogues/quarantine.jsonl", Rejected)
    assert train and valid
    assert len(train) + len(valid) + len(quarantine) == len(domain.seeds())
    titles = {item: title for item, title, *_ in domain.FILMS}
    for dialogue in [*train, *valid]:
        assert dialogue.messages[-1].role == "assistant"
        answer = dialogue.messages[-1].content.split("\n")
        assert [titles[t] in row for t, row in zip(dialogue.targets, answer, strict=True)]
        assert titles[dialogue.item_id] not in dialogue.messages[-2].content or (
            dialogue.item_id in {"f02", "f09"}  # within the title of a liked sequel or remake
        )
    summary = json.loads((inputs / "out/synthesis.json").read_text())
    assert summary["kept"] == len(train) + len(valid)
    assert summary["teacher"]["backend"] == "extractive"
    assert summary["hallucination_rate"] == 0.0


def test_two_runs_write_equal_bytes(inputs):
    run(inputs, "one")
    run(inputs, "two")
    names = [f"dialogues/{n}.jsonl" for n in ("train", "valid", "quarantine")]
    for name in [*names, "synthesis.json"]:
        assert (inputs / "one" / name).read_bytes() == (inputs / "two" / name).read_bytes()


def test_a_missing_response_ends_with_2(inputs):
    text = (inputs / "responses.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (inputs / "responses.jsonl").write_text("".join(text[1:]), encoding="utf-8")
    result = run(inputs)
    assert result.exit_code == 2 and "has no response" in result.output


def test_nothing_left_ends_with_1_and_leaves_the_old_dialogues(inputs):
    run(inputs)
    before = (inputs / "out/dialogues/train.jsonl").read_bytes()
    domain.write_params(inputs / "params.yaml", curate={"min_query_chars": 699})
    result = run(inputs)
    assert result.exit_code == 1 and "too_short" in result.output
    assert (inputs / "out/dialogues/train.jsonl").read_bytes() == before
