import pytest
from tests.unit.studies.collected_toy import declaration, make_study

from seedtalk.reporting.figures import BLUE, png, svg
from seedtalk.studies import figures
from seedtalk.studies.analysing import analyse
from seedtalk.studies.reading import read_study


def analysed(path, levels=("js", "random"), along=True, others=(), **more):
    study = declaration()
    study["factors"] = {
        "method": {level: {} for level in levels},
        **({"budget": {10: {}, 20: {}}} if along else {}),
        **({"signal": {other: {} for other in others}} if others else {}),
    }
    if not along:
        del study["compare"]["along"]
    return analyse(read_study(make_study(path, study, conversations=8, **more)), resamples=400)


def words_of(axes):
    return [t.get_text() for t in axes.texts]


def test_curves_name_each_line_at_its_end_and_mark_the_reference(tmp_path):
    found = analysed(tmp_path / "x", ("js", "fisher", "random"))
    figure = figures.curves(found.collected, found.headline)
    (axes,) = figure.axes
    assert sorted(words_of(axes)) == ["fisher", "js", "random"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["10", "20"]
    assert len(axes.lines) == len(axes.collections) == 3
    assert len({(str(li.get_linestyle()), li.get_marker()) for li in axes.lines}) == 3
    reference = axes.lines[0]
    points = [
        p.estimate.mean for p in found.headline.points if found.collected.level(p.cell) == "random"
    ]
    assert list(reference.get_ydata()) == pytest.approx(points)
    assert reference.get_markerfacecolor() == "white"


def test_many_levels_have_a_panel_each_beside_the_reference(tmp_path):
    levels = ["random", "a", "b", "c", "d", "e"]
    found = analysed(tmp_path / "x", levels)
    axes = [a for a in figures.curves(found.collected, found.headline).axes if a.get_visible()]
    assert [a.get_title(loc="left") for a in axes] == ["a", "b", "c", "d", "e"]
    assert all(len(a.lines) == 2 for a in axes)
    assert len(figures.differences(found.collected, found.headline).axes) == 1


def test_a_further_factor_is_a_facet(tmp_path):
    found = analysed(tmp_path / "x", others=("review", "user"))
    titles = [a.get_title(loc="left") for a in figures.curves(found.collected, found.headline).axes]
    assert titles == ["review", "user"]
    found = analysed(tmp_path / "y", along=False, others=("review", "user"))
    for draw, wanted in (
        (figures.means, ["review", "user"]),
        (figures.differences, ["over all", "review", "user"]),
    ):
        figure = draw(found.collected, found.headline)
        assert [a.get_title(loc="left") for a in figure.axes] == wanted


def test_a_mark_is_filled_only_where_the_difference_is_clear(tmp_path):
    found = analysed(tmp_path / "x", ("js", "same", "random"), along=False, effects={"js": 0.4})
    (axes,) = figures.differences(found.collected, found.headline).axes
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert [m.get_markerfacecolor() for m in marks] == [BLUE, "white"]
    assert any(list(line.get_xdata()) == [0.0, 0.0] for line in axes.lines)  # equal
    assert [t.get_text() for t in axes.get_yticklabels()] == ["js", "same"]


def test_a_measure_has_a_panel_with_a_row_a_level(tmp_path):
    found = analysed(tmp_path / "x")
    figure = figures.measures(found)
    assert [a.get_title(loc="left") for a in figure.axes] == [
        "quality.fidelity",
        "selection.coverage",
    ]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["js", "random"]


def test_equal_input_gives_equal_bytes(tmp_path):
    found = analysed(tmp_path / "x")

    def draw():
        figure = figures.curves(found.collected, found.headline)
        return svg(figure, "x", "about"), png(figure)

    assert draw() == draw()


def test_a_cell_alone_on_its_line_still_shows(tmp_path):
    lacking = {(("js", "20"), seed) for seed in range(3)}
    found = analysed(tmp_path / "x", skip=lacking)
    (axes,) = figures.curves(found.collected, found.headline).axes
    assert sorted(words_of(axes)) == ["js", "random"]


def test_long_names_are_cut():
    assert figures.short("x" * 40) == "x" * 21 + "…"
    assert figures.short("short") == "short"
