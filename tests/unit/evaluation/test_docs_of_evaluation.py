"""docs/evaluation.md against the code."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from seedtalk.cli import main
from seedtalk.evaluation import he2023, results, strict
from seedtalk.evaluation.answers import CONDITIONS, read_answers
from seedtalk.evaluation.baselines import OF_SIGNAL
from seedtalk.evaluation.protocols import Query
from seedtalk.params import load_params

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/evaluation.md").read_text()
EXAMPLES = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.M | re.S)]


def test_every_baseline_is_in_the_table():
    table = PAGE[PAGE.index("| name | ranks by | ties |") :].partition("\n\n")[0]
    names = re.findall(r"^\| `([\w-]+)` \|", table, re.M)
    assert set(names) == {*OF_SIGNAL.values(), "random", "copy-context", "neighbours-dialogues"}
    assert len(names) == len(set(names))


def test_the_example_of_a_result_file_has_its_form():
    posed = [Query(f"c{n}", 1, [], [], ["a"], ["a", "b"]) for n in range(3)]
    table = results.predictions(posed, {"s": [["a", "b"]] * 3})
    options = load_params(ROOT / "params.yaml").evaluate.model_copy(update={"bootstrap": 50})
    found = results.scores("b", posed, table, options, seed=0, score="sum", reviewed=["a"])
    example = next(one for one in EXAMPLES if "digest" in one)
    assert set(example) == set(found)
    assert set(example["protocol"]) == set(found["protocol"])
    assert set(example["slices"]) == set(found["slices"])
    assert set(example["slices"]["with_reviews"]) == set(found["slices"]["with_reviews"])


def test_the_example_of_an_answer_is_read(tmp_path):
    example = next(one for one in EXAMPLES if "gt_list" in one)
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(example) + "\n")
    (answer,) = read_answers(path)
    assert answer.completion is not None and answer.conversation == "17"
    entities = tmp_path / "entity2id.json"
    entities.write_text(json.dumps({"<r/Heat_(1995_film)>": 0, "<r/Up_(2009_film)>": 1}))
    done = CliRunner().invoke(main, ["score", str(path), "--entities", str(entities), "--json"])
    assert json.loads(done.stdout)["recommendation"]["recall@1_mean"] == 1.0


@pytest.mark.parametrize(
    ("section", "cutoffs"), [("### `he2023`", he2023.CUTOFFS), ("### `strict`", strict.CUTOFFS)]
)
def test_the_cutoffs_are_those_told(section, cutoffs):
    text = PAGE[PAGE.index(section) :].partition("\n### ")[0]
    assert "k = " + ", ".join(map(str, cutoffs)) in text.replace("\n", " ")


def test_the_conditions_and_bounds_are_those_told():
    assert ", ".join(f"`{name}`" for name in CONDITIONS) in PAGE
    assert f"at most {he2023.THRESHOLD} edits" in PAGE
    assert f"{strict.RESAMPLES:,} draws" in PAGE
