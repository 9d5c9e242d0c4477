import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from seedtalk.errors import InputError
from seedtalk.params import Params
from seedtalk.profiles import overrides

ROOT = Path(__file__).parents[2]


def test_nested_keys_lists_and_booleans(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "seed: 3\nselect: {method: js, budget: 2}\ntunings: [zero-shot, full]\na: true\n"
    )
    assert overrides(path) == [
        "seed=3",
        "select.method=js",
        "select.budget=2",
        "tunings=[zero-shot,full]",
        "a=true",
    ]


@pytest.mark.parametrize("value", ["two words", "$(id)", "a;b", "'x'", "*", ""])
def test_what_a_shell_would_read_is_refused(tmp_path, value):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"seed": value}))
    with pytest.raises(InputError, match="field 'seed'.*command line"):
        overrides(path)


@given(st.text(min_size=1))
def test_what_is_printed_survives_a_shell(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("p") / "p.yaml"
    path.write_text(yaml.safe_dump({"seed": value}), encoding="utf-8")
    try:
        printed = overrides(path)
    except InputError:
        return
    assert shlex.split(" ".join(printed)) == printed


@pytest.mark.parametrize("content", ["- a\n", "a: [", "\x00"])
def test_a_file_that_is_no_profile(tmp_path, content):
    path = tmp_path / "p.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"p\.yaml"):
        overrides(path)


@pytest.mark.parametrize(
    "profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_shipped_profile_makes_valid_params(profile):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    for override in overrides(profile):
        key, _, value = override.partition("=")
        *groups, leaf = key.split(".")
        place = raw
        for group in groups:
            place = place[group]
        assert leaf in place, f"{profile.name} sets {key}, which params.yaml lacks"
        place[leaf] = yaml.safe_load(value)
    Params.model_validate(raw)
