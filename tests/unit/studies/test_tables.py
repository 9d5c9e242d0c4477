import csv
import io
import re

import pytest
from tests.unit.studies.collected_toy import make_study

from seedtalk.studies import tables
from seedtalk.studies.analysing import analyse
from seedtalk.studies.reading import read_study


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = make_study(tmp_path_factory.mktemp("s") / "ablation", effects={"js": 0.4})
    return analyse(read_study(path))


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_latex_is_escaped():
    assert tables.latex("a_b & 50% {x}$\n~^\\#") == (
        r"a\_b \& 50\% \{x\}\$ \textasciitilde{}\textasciicircum{}\textbackslash{}\#"
    )
    assert tables.latex("−0.1 <") == r"$-$0.1 \textless{}"


def test_csv_hold_every_mean_and_difference(found):
    means = rows(tables.means(found))
    assert len(means) == 2 * 2 * 6  # systems, metrics, cells
    assert list(means[0])[:5] == ["benchmark", "system", "metric", "method", "budget"]
    first = found.headline.points[0].estimate
    assert float(means[0]["mean"]) == pytest.approx(first.mean, abs=1e-6)
    differences = rows(tables.differences(found))
    assert len(differences) == 2 * 2 * (2 + 4)  # over all, and each cell
    whole = [r for r in differences if not r["budget"] and r["system"] == "tiny-lora"]
    assert {(r["method"], r["metric"]) for r in whole} == {
        (m, k) for m in ("js", "popularity") for k in ("recall@5", "ndcg@10")
    }
    assert whole[0]["verdict"] == "ahead" and float(whole[0]["p_holm"]) < 0.05


def test_csv_of_measures(found):
    measures = rows(tables.measures(found))
    assert len(measures) == 2 * 6
    assert float(measures[0]["low"]) < float(measures[0]["mean"]) < float(measures[0]["high"])


def test_csv_quotes_what_needs_it_and_leaves_nothing_for_none():
    assert tables.as_csv(["a"], [['x,"y"', None, -0.0]]) == 'a\n"x,""y""",,0.000000\n'


def test_latex_tables_are_even_and_bold_only_where_clearly_ahead(found):
    text = tables.results(found)
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert len(body) == 6 and {line.count(" & ") for line in body} == {3}
    assert all(line.endswith(r"\\") for line in body)
    for line in body:
        assert (r"\textbf" in line) == line.startswith("js"), line
    effects = tables.effects(found)
    bold = [line for line in effects.splitlines() if r"\textbf" in line]
    assert len(bold) == 1 and bold[0].startswith("js & ")
    for table in (text, effects):
        assert table.count("{") == table.count("}")
        assert r"\toprule" in table and table.endswith("\\end{tabular}\n")
        assert not re.search(r"(?<!\\)_", table)


def test_the_best_mean_is_not_bold_where_it_is_not_clear(tmp_path):
    path = make_study(tmp_path / "none", conversations=8)
    analysis = analyse(read_study(path), resamples=200)
    assert tables.best(analysis.collected, analysis.headline) == set()
    assert r"\textbf" not in tables.results(analysis)


def test_numbers_to_be_read():
    assert tables.p_value(0.0004) == "<0.001"
    assert tables.p_value(0.0496) == "0.050"
    assert tables.shown(0.5, None, None) == "0.5"
    assert tables.shown(0.5, 0.4, 0.6) == "0.5 (0.4 to 0.6)"
