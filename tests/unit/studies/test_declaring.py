"""Declaring: what a study may say, its cells, and how their overrides are told to DVC."""

import copy
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.studies.workshop import ROOT, STUDY

from seedtalk.errors import InputError
from seedtalk.studies import declaring


def write(folder: Path, study: str = "toy", **changes) -> Path:
    path = folder / study / "study.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = {key: value for key, value in {**STUDY, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def test_cells_are_crossed_seed_by_seed_without_the_excluded(tmp_path):
    study = declaring.read_study(write(tmp_path))
    assert study.name == "toy"
    assert [cell.run for cell in study.cells()] == [
        "toy-js-10-s0",
        "toy-js-20-s0",
        "toy-random-10-s0",
        "toy-js-10-s1",
        "toy-js-20-s1",
        "toy-random-10-s1",
    ]
    cell = study.cells()[4]
    assert cell.levels == {"method": "js", "budget": "20"}
    assert cell.overrides == {
        "evaluate.cutoffs": [1, 5, 10],
        "select.method": "js",
        "select.budget": 20,
        "seed": 1,
    }


def test_levels_lie_over_set_and_set_over_profiles_and_later_profiles_over_earlier(tmp_path):
    for name, tree in (
        ("one", {"select": {"budget": 1, "method": "fisher"}, "finetune": {"epochs": 9}}),
        ("two", {"finetune": {"epochs": 2, "lora_r": 4}}),
    ):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    path = write(
        tmp_path / "studies", profiles=["one.yaml", "two.yaml"], set={"finetune.lora_r": 8}
    )
    cell = declaring.with_profiles(declaring.read_study(path), tmp_path)[0]
    assert cell.overrides == {
        "select.budget": 10,
        "select.method": "js",
        "finetune.epochs": 2,
        "finetune.lora_r": 8,
        "seed": 0,
    }
    (tmp_path / "two.yaml").unlink()
    with pytest.raises(InputError, match=r"studies/toy/study.yaml, field 'profiles': no file two"):
        declaring.with_profiles(declaring.read_study(path), tmp_path)


def broken(**changes):
    tree = copy.deepcopy(STUDY)
    for key, value in changes.items():
        *path, leaf = key.split("__")
        place = tree
        for part in path:
            place = place[part]
        place[leaf] = value
    return tree


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        (broken(colour="red"), "colour: Extra"),
        (broken(seeds=[]), "seeds: "),
        (broken(seeds=[1, 1]), "seeds: one is there twice"),
        (broken(minutes=0), "minutes"),
        (broken(factors={}), "factors"),
        (broken(factors__method={}), "factors.method: give it at least one level"),
        (broken(factors__method__js={"seed": 3}), "factors.method.js: the seed of a cell"),
        (broken(set={"seed": 3}), "set: the seed of a cell"),
        (broken(factors__seed={"a": {}}), "factors.seed: the name is taken"),
        (broken(factors__method={"a b": {}, "random": {}}), "the level 'a b'"),
        (broken(factors__method={"a..b": {}, "random": {}}), r"the level 'a\.\.b'"),
        (broken(exclude=[{"method": "kcenter"}]), "no level 'kcenter' of factor 'method'"),
        (broken(exclude=[{}]), "exclude.0: names no level"),
        (broken(exclude=[{"budget": 10}, {"budget": 20}]), "no cell is left"),
        (broken(compare__factor="signal"), "compare.factor: 'signal'"),
        (broken(compare__reference="fisher"), "compare.reference: 'fisher'"),
        (broken(compare__along="method"), "compare.along: 'method'"),
        (broken(compare__metric="recall@3"), "compare.metric: 'recall@3'"),
        (broken(compare__metrics=["recall@1", "f1"]), "compare.metrics: 'f1'"),
        (broken(scores__alias={"student": ["a"]}), "'student' is none of scores.systems"),
        (
            broken(scores__systems=["s", "a"], scores__alias={"s": ["a"]}),
            "'a' is collected already",
        ),
    ],
)
def test_what_does_not_hold_is_named(tmp_path, tree, told):
    path = tmp_path / "toy" / "study.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    with pytest.raises(InputError, match=told) as caught:
        declaring.read_study(path)
    assert str(path) in caught.value.message


def test_along_needs_numbers(tmp_path):
    compare = {**STUDY["compare"], "factor": "budget", "reference": 10, "along": "method"}
    with pytest.raises(InputError, match="the level 'js' is no number"):
        declaring.read_study(write(tmp_path, compare=compare))
    compare = {**STUDY["compare"], "along": "budget"}
    assert declaring.read_study(write(tmp_path, compare=compare)).compare.along == "budget"


def test_names_of_cells_are_told_apart(tmp_path):
    factors = {"a": {"x-y": {}, "x": {}}, "b": {"z": {}, "y-z": {}}}
    compare = {**STUDY["compare"], "factor": "a", "reference": "x"}
    with pytest.raises(InputError, match="two cells have the name toy-x-y-z-s0"):
        declaring.read_study(write(tmp_path, factors=factors, compare=compare, exclude=None))
    pair = tmp_path / "pair"
    for name, level in (("one", "two-x"), ("one-two", "x")):
        compare["reference"] = level
        write(pair, name, factors={"a": {level: {}}}, exclude=None, compare=compare)
    with pytest.raises(InputError, match="one and one-two both have a cell one-two-x-s0"):
        declaring.read_studies(pair)


@pytest.mark.parametrize("text", ["[1, 2]", "{: ", "\x00"])
def test_no_study_at_all(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="study.yaml"):
        declaring.read_study(path)
    with pytest.raises(InputError, match="seedtalk study list"):
        declaring.read_study(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="the folder names the study"):
        declaring.read_study(write(tmp_path, name="x"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"select.methods": "js"}, "did you mean 'method'"),
        ({"select.clusters": -1}, "select.clusters"),
        ({"evaluate.cutoffs": [5, 10]}, r"needs the cutoffs \[1\]"),
        ({"benchmarks": ["redial-valid"]}, "scores.benchmarks names likes"),
    ],
)
def test_overrides_must_be_parameters(tmp_path, overrides, told):
    study = declaring.read_study(write(tmp_path, set={**overrides}))
    with pytest.raises(InputError, match=told) as caught:
        declaring.check_overrides(study, study.cells(), ROOT / "params.yaml")
    assert "studies/toy/study.yaml, cell toy-" in caught.value.message


def test_good_overrides_pass_and_may_add_a_model(tmp_path):
    study = declaring.read_study(write(tmp_path, set={"models.mine": "a/b", "finetune.epochs": 2}))
    cells = study.cells()
    declaring.check_overrides(study, cells, ROOT / "params.yaml")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert declaring.flags(cells[0].overrides, params)[1] == "+models.mine=a/b"


def test_an_exponent_is_a_number_whatever_yaml_says(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text().replace("set:\n", "set:\n  finetune.learning_rate: 2e-5\n"))
    cell = declaring.read_study(path).cells()[0]
    assert cell.overrides["finetune.learning_rate"] == 2e-5
    assert declaring.differing({"finetune": {"learning_rate": "2e-05"}}, {
        "finetune.learning_rate": 2e-5
    }) == []  # fmt: skip


@pytest.mark.parametrize(
    ("tree", "different"),
    [
        ({"a": {"b": 1}, "c": [1, 2]}, []),
        ({"a": {"b": 1.0}, "c": [1, 2]}, []),
        ({"a": {"b": True}, "c": [1, 2]}, ["a.b"]),
        ({"a": {"b": "1"}, "c": [2, 1]}, ["a.b", "c"]),
        ({"a": 1}, ["a.b", "c"]),
        (None, ["a.b", "c"]),
    ],
)
def test_differing(tree, different):
    assert declaring.differing(tree, {"a.b": 1, "c": [1, 2]}) == different


def test_applied_leaves_the_tree_alone():
    tree = {"a": {"b": 1}}
    assert declaring.applied(tree, {"a.b": 2, "c.d": 3}) == {"a": {"b": 2}, "c": {"d": 3}}
    assert tree == {"a": {"b": 1}}


WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
VALUES = st.one_of(
    st.booleans(),
    st.none(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
    st.lists(st.one_of(WORDS, st.integers(0, 9)), max_size=3),
)


@settings(deadline=None)
@given(VALUES)
@example("it's")
@example("back\\")
@example("a\\'b")
@example("1e3")
@example("null")
@example("a: b, [c]")
@example("")
def test_what_dvc_reads_is_what_was_meant(value):
    from dvc.utils.hydra import to_hydra_overrides

    meant = declaring.flatten({"key": value})["key"]
    _, flag = declaring.flags({"key": meant}, {"key": 0})
    (read,) = to_hydra_overrides([flag])
    found = read.value()
    if isinstance(meant, float):
        assert math.isclose(float(found), meant)
    elif isinstance(meant, list):
        assert [getattr(one, "text", one) for one in found] == meant
    else:
        assert getattr(found, "text", found) == meant
        assert isinstance(getattr(found, "text", found), type(meant))
