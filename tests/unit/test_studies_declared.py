"""The studies of this repository: each holds, and asks for parameters that exist."""

from pathlib import Path

import pytest

from seedtalk.params import Params
from seedtalk.studies import declaring

ROOT = Path(__file__).parents[2]
STUDIES = declaring.read_studies(ROOT / "studies")


def test_names_are_told_apart():
    runs = [cell.run for study in STUDIES for cell in study.cells()]
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_override_is_a_parameter(study):
    cells = declaring.with_profiles(study, ROOT)
    declaring.check_overrides(study, cells, ROOT / "params.yaml")
    groups = {"register" if name == "register_" else name for name in Params.model_fields}
    assert {key.split(".")[0] for cell in cells for key in cell.overrides} <= groups


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_the_metric_and_the_systems_are_of_the_stages(study):
    params = declaring.load_yaml((ROOT / "params.yaml").read_text())
    for cell in declaring.with_profiles(study, ROOT):
        tree = declaring.applied(params, cell.overrides)
        students = {
            f"{student}-{tuning}{blend}"
            for student in tree["students"]
            for tuning in tree["tunings"]
            for blend in ("", "-blend")
        }
        for system in study.scores.systems:
            own = study.scores.alias.get(system, (system,))
            named = [name for name in own if any(s in name for s in tree["students"])]
            assert not named or students & set(named), f"{cell.run}: no {own}"
