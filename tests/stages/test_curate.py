import json

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from stages.curate import main
from stages.generate import main as generate
from stages.prompt import main as prompt
from tests import domain, toy

from seedtalk.records import (
    Dialogue,
    Message,
    Provenance,
    Rejected,
    read_jsonl,
    write_jsonl,
    write_table,
)


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    domain.write_tables(tmp_path)
    domain.write_params(tmp_path / "params.yaml")
    talk(tmp_path)
    return tmp_path


def talk(folder):
    """Write the requests and have them answered."""
    invoke(
        prompt,
        folder,
        seeds="seeds.jsonl",
        reviews="reviews.parquet",
        items="items.parquet",
        interactions="interactions.parquet",
        requests="requests.jsonl",
        grounding="grounding.jsonl",
    )
    invoke(
        generate,
        folder,
        requests="requests.jsonl",
        responses="responses.jsonl",
        summary="teacher.json",
    )


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


def test_every_request_has_its_provenance(inputs):
    run(inputs)
    told = read_jsonl(inputs / "out/dialogues/provenance.jsonl", Provenance)
    assert [record.dialogue_id for record in told] == [seed.review_id for seed in domain.seeds()]
    parts = {
        verdict: {d.dialogue_id for d in read_jsonl(inputs / f"out/dialogues/{name}.jsonl", model)}
        for verdict, name, model in (
            ("train", "train", Dialogue),
            ("valid", "valid", Dialogue),
            ("quarantined", "quarantine", Rejected),
        )
    }
    assert all(record.dialogue_id in parts[record.verdict] for record in told)
    lines = (inputs / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    keys = [json.loads(line)["response"]["request_id"] for line in lines]
    assert [record.request_key for record in told] == keys and len(set(keys)) == len(keys)


def test_dialogues_of_several_turns_pass_every_check(inputs):
    domain.write_params(inputs / "params.yaml", prompt={"turns": 3})
    talk(inputs)
    assert run(inputs).exit_code == 0
    summary = json.loads((inputs / "out/synthesis.json").read_text())
    assert summary["seeker_messages"].keys() == {"3"}
    # The made-up reviews share their sentences, so that some dialogues are alike.
    bad = {k for k, count in summary["quarantined"].items() if count}
    assert bad <= {"near_duplicate"}


def test_the_encoder_finds_what_an_evaluation_says_too(inputs, tmp_path):
    encoder = toy.toy_encoder(tmp_path / "encoder")
    train = [json.loads(line) for line in dialogues(inputs)]
    copied = domain.conversations()
    copied.at[0, "turns"][0]["text"] = train[0]["messages"][1]["content"]
    write_table(inputs / "conversations.parquet", copied, "conversations")
    domain.write_params(
        inputs / "params.yaml",
        models={"minilm": str(encoder)},
        curate={"contamination_similarity": 0.97, "contamination_ngram": 99},
    )
    assert run(inputs).exit_code == 0
    told = read_jsonl(inputs / "out/dialogues/provenance.jsonl", Provenance)
    record = next(r for r in told if r.dialogue_id == train[0]["dialogue_id"])
    assert record.reason == "contaminated"
    assert record.filters["contamination"]["ngram"] is None
    assert record.filters["contamination"]["cosine"] > 0.97
    # Off, no encoder is read, not even one that is not there.
    domain.write_params(inputs / "params.yaml", models={"minilm": str(tmp_path / "none")})
    assert run(inputs).exit_code == 0


def dialogues(folder):
    run(folder)
    text = (folder / "out/dialogues/train.jsonl").read_text(encoding="utf-8")
    return text.splitlines()


def test_a_missing_encoder_ends_with_2(inputs, tmp_path):
    domain.write_params(
        inputs / "params.yaml",
        models={"minilm": str(tmp_path / "none")},
        curate={"contamination_similarity": 0.9},
    )
    conversations = domain.conversations()
    conversations.at[0, "turns"][0]["text"] = "Please find me a film with a lot of snow and trains."
    write_table(inputs / "conversations.parquet", conversations, "conversations")
    result = run(inputs)
    assert result.exit_code == 2 and "none" in result.output


def test_two_runs_write_equal_bytes(inputs):
    run(inputs, "one")
    run(inputs, "two")
    names = [f"dialogues/{n}.jsonl" for n in ("train", "valid", "quarantine", "provenance")]
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


def real_conversations(folder, count=9):
    rows = domain.conversations().to_dict("records")
    for number in range(count):
        text = f"Number {number} asks for a film about {chr(97 + number) * 5} and trains."
        film = domain.FILMS[number][0]
        turns = [
            {"role": "seeker", "text": text, "items": []},
            {"role": "recommender", "text": f"{number}, then.", "items": [film]},
        ]
        name = f"t{number}"
        rows.append({"conversation_id": name, "benchmark": "own", "turns": turns, "seen": []})
    write_table(folder / "conversations.parquet", pd.DataFrame(rows), "conversations")


@pytest.mark.parametrize("train_on", ["real", "both"])
def test_real_dialogues_are_taken_in_and_two_runs_are_equal(inputs, tmp_path, train_on):
    encoder = toy.toy_encoder(tmp_path / "encoder")
    real_conversations(inputs)
    domain.write_params(
        inputs / "params.yaml",
        models={"minilm": str(encoder)},
        curate={
            "train_on": train_on,
            "real": "own",
            "real_conversations": 6,
            "contamination_similarity": 0.9999,
        },
    )
    for out in ("one", "two"):
        result = run(inputs, out)
        assert result.exit_code == 0, result.output
    names = [f"dialogues/{n}.jsonl" for n in ("train", "valid", "quarantine", "provenance")]
    for name in [*names, "synthesis.json"]:
        assert (inputs / "one" / name).read_bytes() == (inputs / "two" / name).read_bytes()
    kept = [
        record
        for part in ("train", "valid")
        for record in read_jsonl(inputs / f"one/dialogues/{part}.jsonl", Dialogue)
    ]
    summary = json.loads((inputs / "one/synthesis.json").read_text())
    assert summary["train_on"] == train_on
    assert summary["real"]["sampled"] == summary["real"]["kept"] == 6
    assert sum(d.style == "real" for d in kept) == summary["real"]["dialogues"] == 6
    assert sum(d.style != "real" for d in kept) == summary["kept"]
    assert bool(summary["kept"]) == (train_on == "both")


BOOKS = [
    "Is there a novel about lighthouse keepers which takes its time and is not sad?",
    "I would like a cookbook memoir with a lot of family quarrels and some recipes.",
    "Which biography of a botanist is the one to read first, the shorter the better?",
]


def books(folder):
    """Write the dialogues of a run on books, with ids that the films have, too."""
    rows = [
        Dialogue(
            dialogue_id=domain.seeds()[number].review_id,
            review_id=domain.seeds()[number].review_id,
            item_id=domain.FILMS[number][0],
            style="terse",
            teacher="books-teacher",
            messages=[
                Message(role="user", content=text),
                Message(role="assistant", content="1. The Tide Clerk\n2. Almanac of Doors"),
            ],
            targets=[domain.FILMS[number][0]],
        )
        for number, text in enumerate(BOOKS)
    ]
    write_jsonl(folder / "books.jsonl", rows)
    return {"train_on": "transfer", "transfer": str(folder / "books.jsonl")}


def test_another_domains_dialogues_take_the_place_of_this_ones(inputs):
    domain.write_params(inputs / "params.yaml", curate=books(inputs))
    for out in ("one", "two"):
        result = run(inputs, out)
        assert result.exit_code == 0, result.output
    names = [f"dialogues/{n}.jsonl" for n in ("train", "valid", "quarantine", "provenance")]
    for name in [*names, "synthesis.json"]:
        assert (inputs / "one" / name).read_bytes() == (inputs / "two" / name).read_bytes()
        assert str(inputs).encode() not in (inputs / "one" / name).read_bytes()
    kept = [
        record
        for part in ("train", "valid")
        for record in read_jsonl(inputs / f"one/dialogues/{part}.jsonl", Dialogue)
    ]
    assert {d.messages[1].content for d in kept} == set(BOOKS)
    assert all(d.dialogue_id.startswith("transfer-") and not d.targets for d in kept)
    rejected = read_jsonl(inputs / "one/dialogues/quarantine.jsonl", Rejected)
    assert "left_out" in {r.reason for r in rejected} and len(rejected) == len(domain.seeds())
    summary = json.loads((inputs / "one/synthesis.json").read_text())
    assert summary["train_on"] == "transfer" and summary["kept"] == 0
    assert summary["transfer"]["kept"] == 3 and summary["real"] is None


def test_a_transfer_without_dialogues_ends_with_2(inputs):
    (inputs / "empty.jsonl").write_text("")
    for path, told in (
        ("seeds/none.jsonl", "curate.transfer: curate.train_on=transfer needs the training"),
        (str(inputs / "lost.jsonl"), "lost.jsonl: no such file; run the pipeline on another"),
        (str(inputs / "empty.jsonl"), "empty.jsonl holds no dialogues; run the pipeline"),
    ):
        curate = {"train_on": "transfer", "transfer": path}
        raw = yaml.safe_load((inputs / "params.yaml").read_text())
        raw["curate"] |= curate
        (inputs / "params.yaml").write_text(yaml.safe_dump(raw))
        result = run(inputs)
        assert result.exit_code == 2 and told in result.output
        assert not (inputs / "out").exists()


def test_titles_the_catalogue_lacks_stay_where_that_is_asked(inputs):
    domain.write_params(inputs / "params.yaml", prompt={"targets": "both"})
    talk(inputs)
    lines = [json.loads(text) for text in (inputs / "responses.jsonl").open(encoding="utf-8")]
    for told in lines:
        message = told["response"]["body"]["choices"][0]["message"]
        answer = json.loads(message["content"])
        answer["recommendations"].insert(1, "The Film That Never Was (2031)")
        message["content"] = json.dumps(answer)
    write_jsonl(inputs / "responses.jsonl", lines)
    answers = {}
    for unlinked in ("drop", "keep"):
        domain.write_params(
            inputs / "params.yaml", prompt={"targets": "both"}, curate={"unlinked": unlinked}
        )
        assert run(inputs, unlinked).exit_code == 0
        kept = read_jsonl(inputs / unlinked / "dialogues/train.jsonl", Dialogue)
        answers[unlinked] = [d.messages[-1].content.split("\n") for d in kept]
        summary = json.loads((inputs / unlinked / "synthesis.json").read_text())
        assert summary["unlinked"]["kept"] == (summary["kept"] if unlinked == "keep" else 0)
    for few, more in zip(answers["drop"], answers["keep"], strict=True):
        assert len(more) == len(few) + 1 and more[0] == few[0]
        assert more[1] == "2. The Film That Never Was (2031)"


def test_an_encoder_that_is_fitted_on_reviews_cannot_compare_conversations(inputs):
    raw = yaml.safe_load((inputs / "params.yaml").read_text())
    raw["curate"] |= {"encoder": "lsa"}
    (inputs / "params.yaml").write_text(yaml.safe_dump(raw))
    result = run(inputs)
    assert result.exit_code == 2 and "curate.encoder: 'lsa' is no model" in result.output


def test_wrong_names_of_real_conversations_end_with_2(inputs):
    real_conversations(inputs)
    for changes, told in (
        ({"real": ""}, "curate.real: curate.train_on=both needs the name"),
        ({"real": "likes"}, "curate.real: 'likes' is one of the benchmarks"),
        ({"real": "redial-train"}, "no conversations 'redial-train'; there are: likes, own"),
    ):
        raw = yaml.safe_load((inputs / "params.yaml").read_text())
        raw["curate"] |= {"train_on": "both", "real": "own"} | changes
        (inputs / "params.yaml").write_text(yaml.safe_dump(raw))
        result = run(inputs)
        assert result.exit_code == 2 and told in result.output
