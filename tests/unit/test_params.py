import re
from pathlib import Path

import pytest
import yaml

from seedtalk.errors import InputError
from seedtalk.params import Params, load_params

ROOT = Path(__file__).parents[2]


def written(tmp_path: Path, edit) -> Path:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    edit(raw)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_the_shipped_file_loads_and_is_frozen():
    params = load_params(ROOT / "params.yaml")
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert params.select.budget == raw["select"]["budget"]
    with pytest.raises(Exception, match="frozen"):
        params.seed = 1


def test_every_group_is_a_key_and_every_key_a_group():
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert set(raw) == {field.alias or name for name, field in Params.model_fields.items()}


def test_every_leaf_has_a_comment():
    for line in (ROOT / "params.yaml").read_text().splitlines():
        stripped = line.strip()
        if not stripped or stripped.startswith("#") or stripped.endswith(":"):
            continue
        assert "  # " in line, line


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: p["select"].update(budgets=3), "select.budgets.*unknown key.*'budget'"),
        (lambda p: p.update(selekt={}), "selekt.*unknown key.*'select'"),
        (lambda p: p["select"].pop("budget"), "select.budget.*missing"),
        (lambda p: p["select"].update(method="jss"), "select.method.*'jss'"),
        (lambda p: p["select"].update(budget=0), "select.budget.*greater than"),
        (lambda p: p["select"].update(budget="many"), "select.budget.*integer.*'many'"),
        (lambda p: p["finetune"].update(learning_rate=float("nan")), "learning_rate.*finite"),
        (lambda p: p["evaluate"].update(cutoffs=[1, 99]), "cutoffs.*99.*candidates"),
        (lambda p: p["report"].update(headline="recall@7"), "report.headline.*recall@7"),
        (lambda p: p["register"].update(metric="accuracy"), "register.metric.*accuracy"),
        (lambda p: p["prompt"].update(grounding="none"), "prompt.targets"),
        (lambda p: p["curate"].update(unlinked="keep"), "curate.unlinked: .*targets=teacher"),
        (lambda p: p["curate"].update(unlinked="all"), "curate.unlinked.*'drop' or 'keep'"),
        (lambda p: p["curate"].update(train_on="transfer"), "curate.transfer: .*train.jsonl"),
        (lambda p: p.update(students=["lsa"]), "students: 'lsa' is no model.*embed.encoder"),
        (lambda p: p["curate"].update(encoder="lsa"), "curate.encoder: 'lsa' is no model"),
        (lambda p: p["audit"].update(encoder="lsa"), "audit.encoder: 'lsa' is no model"),
        (lambda p: p.update(students=[]), "students"),
        (lambda p: p.update(seed=2**32 - 1), "seed.*less than 4294967295"),
        (lambda p: p.update(seed=-1), "seed.*greater than or equal to 0"),
        (lambda p: p["teacher"].update(base_url="host:8000/v1"), "teacher.base_url.*http://"),
        (lambda p: p.update(students=["nowhere"]), "students.*nowhere.*models"),
        (lambda p: p["embed"].update(encoder="nowhere"), "embed.encoder.*nowhere.*models"),
    ],
)
def test_a_wrong_key_is_named_with_what_would_mend_it(tmp_path, edit, message):
    path = written(tmp_path, edit)
    with pytest.raises(InputError, match=message) as raised:
        load_params(path)
    assert raised.value.exit_code == 2
    assert str(path) in raised.value.message


def test_the_largest_seed_is_taken(tmp_path):
    largest = 2**32 - 2
    assert load_params(written(tmp_path, lambda p: p.update(seed=largest))).seed == largest


@pytest.mark.parametrize(
    "url", ["https://me:canary@host/v1", "https://canary@host/v1", "https://host/v1?key=canary"]
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(tmp_path, url):
    path = written(tmp_path, lambda p: p["teacher"].update(base_url=url))
    with pytest.raises(InputError, match=r"teacher\.base_url.*OPENAI_API_KEY") as raised:
        load_params(path)
    assert "canary" not in raised.value.message


def test_every_fault_is_listed_at_once(tmp_path):
    def edit(raw):
        raw["select"]["budget"] = -1
        raw["seed"] = "x"

    with pytest.raises(InputError) as raised:
        load_params(written(tmp_path, edit))
    assert "select.budget" in raised.value.message
    assert "seed" in raised.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"seed: [1\n", "not valid YAML"),
        (b"seed: \xff\n", "not UTF-8 at byte 6"),
    ],
)
def test_a_file_that_is_no_mapping(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_params(path)


def test_yaml_1_2_floats_are_numbers(tmp_path):
    path = tmp_path / "params.yaml"
    shipped = (ROOT / "params.yaml").read_text()
    path.write_text(re.sub(r"learning_rate: \S+", "learning_rate: 3e-4", shipped))
    assert load_params(path).finetune.learning_rate == 3e-4


def test_a_model_name_stands_for_its_source():
    params = load_params(ROOT / "params.yaml")
    assert params.source_of("minilm") == "data/quickstart/minilm"
    with pytest.raises(InputError, match="'nowhere' is no name in models"):
        params.source_of("nowhere")
