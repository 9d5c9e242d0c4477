import re
import shutil
from html.parser import HTMLParser

import pytest
from tests.unit.studies.collected_toy import declaration, make_study

from seedtalk.errors import InputError
from seedtalk.studies.analysing import analyse
from seedtalk.studies.page import anchor, escape, write_paper
from seedtalk.studies.reading import read_studies, read_study

HOSTILE = "Is <script>alert(1)</script> & $x_1$ | *bold* safe?"


def told(folder, resamples=400):
    return [
        (one, None if one.runs is None else analyse(one, resamples=resamples))
        for one in read_studies(folder)
    ]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    make_study(
        folder / "ablation",
        effects={"js": 0.3},
        skip={(("popularity", "20"), 1)},
        conversations=12,
    )
    flat = declaration(title=HOSTILE, seeds=[0])
    flat["factors"] = {"learns": {level: {} for level in ("synthetic", "real")}}
    flat["compare"] = {**flat["compare"], "factor": "learns", "reference": "synthetic"}
    del flat["compare"]["along"]
    make_study(folder / "flat", flat, conversations=8, teacher="big-model")
    make_study(folder / "idle")
    for name in ("runs.csv", "measures.csv", "scores.parquet"):
        (folder / "idle" / name).unlink()
    return folder


@pytest.fixture(scope="module")
def paper(studies, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "paper"
    write_paper(told(studies), out)
    return out


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_file_is_there(paper):
    names = set(contents(paper))
    for figure in ("ablation-curves", "ablation-differences", "ablation-measures", "flat-means"):
        assert {f"figures/{figure}.svg", f"figures/{figure}.png"} <= names
    for table in ("means", "differences"):
        assert {f"tables/ablation-{table}.csv", f"tables/ablation-{table}.tex"} <= names
    assert "tables/ablation-measures.csv" in names
    assert not [name for name in names if "idle" in name]


def test_made_twice_it_is_the_same_byte_for_byte(studies, paper, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(paper, again)
    (again / "figures" / "of-a-study-since-removed.svg").write_text("<svg/>")
    write_paper(told(studies), again)  # over what it wrote before
    assert contents(again) == contents(paper)


def test_the_page_stands_alone_and_is_well_formed(paper):
    text = (paper / "index.html").read_text()
    assert not re.search(r'(?:src|href)="(?!#)', text)  # inside links only
    assert "url(http" not in text and "<script" not in text
    open_tags, void = [], {"meta", "br", "link"}

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in void:
                open_tags.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Parser().feed(text)
    assert open_tags == []
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_page_says_what_was_found_not_shown_and_missing(paper):
    for name in ("index.html", "README.md"):
        text = (paper / name).read_text().replace("\\", "")
        assert "js clearly ahead of random; popularity too close to call" in text
        assert "3 studies, of which 2 were run (1 in part)." in text
        assert "popularity, 20: seed 1 not run" in text
        assert "there is one seed, so the intervals cover the choice of conversations" in text
        assert "the benchmark likes asks in plain requests" in text
        assert "17 of 18 (6 cells)" in text
        assert "seedtalk study run idle" in text
        assert "0a1b2c3" in text and "big-model" in text
        assert "Holm" in text
    assert "Not run." in (paper / "README.md").read_text()


def test_what_others_wrote_is_shown_as_it_is(paper):
    page = (paper / "index.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; $x_1$" in page
    markdown = (paper / "README.md").read_text()
    assert r"\<script\>alert(1)\</script\> &amp; \$x\_1\$ \| \*bold\* safe?" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| [")]
    assert len(rows) == 3 and all(len(re.split(r"(?<!\\)\|", row)) == 5 for row in rows)


def test_markdown_links_lead_to_files_and_headings(paper):
    text = (paper / "README.md").read_text()
    for target in re.findall(r"!\[[^\n]*\]\((\S+)\)\n", text):
        assert (paper / target).is_file()
    assert "figures/ablation-curves.png" in text
    assert f"(#{anchor(HOSTILE)})" in text


def test_no_place_or_time_is_written(paper, studies):
    for name, content in contents(paper).items():
        if not name.endswith(".png"):
            assert str(studies).encode() not in content
            assert not re.search(rb"20\d\d-\d\d-\d\d", content), name


def test_a_folder_of_other_things_is_left_alone(studies, tmp_path):
    (tmp_path / "index.html").write_text("my page")
    (tmp_path / "figures").mkdir()
    with pytest.raises(InputError, match="holds files of another kind"):
        write_paper(told(studies), tmp_path)
    assert (tmp_path / "index.html").read_text() == "my page"


def test_a_study_without_headline_scores_is_told(studies, tmp_path):
    import pandas as pd

    shutil.copytree(studies / "flat", tmp_path / "s" / "flat")
    scores = tmp_path / "s" / "flat" / "scores.parquet"
    frame = pd.read_parquet(scores)
    frame[frame["system"] == "tiny-zero-shot"].to_parquet(scores)
    write_paper(told(tmp_path / "s"), tmp_path / "paper")
    text = (tmp_path / "paper" / "index.html").read_text()
    assert "were not collected, so there is no verdict" in text
    assert "no scores of tiny-lora on likes in recall@5" in text


def test_escape_leaves_no_markdown():
    assert escape("a_b\n*c* [d](e) `f` <g> & h|i") == (
        r"a\_b \*c\* \[d\](e) \`f\` \<g\> &amp; h\|i"
    )


@pytest.mark.parametrize(
    ("file", "change", "wanted"),
    [
        ("runs.csv", ("ablation-js-10-s0,js", "ablation-js-10-s0,jz"), "row 2, field 'method'"),
        ("runs.csv", ("ablation-js-10-s1,js,10,1,", "ablation-js-10-s1,js,10,0,"), "row 3.*same"),
        ("runs.csv", ("ablation-js-10-s1,js,10,1,", "ablation-js-10-s1,js,10,x,"), "'seed'.*'x'"),
        ("runs.csv", ("js,10,1,", "js,10,9,"), "row 3, field 'seed': 9 is none"),
        ("runs.csv", (",90\n", ",many\n"), "field 'dialogues': 'many'"),
        ("runs.csv", ("commit", "hash"), "field 'commit': column missing"),
        ("measures.csv", ("ablation-js-10-s0,", "who,"), "row 2, field 'run': 'who'"),
        ("measures.csv", ("quality.fidelity,0.", "quality.fidelity,n"), "row 2, field 'value'"),
        ("measures.csv", ("selection.coverage", "quality.fidelity"), "row 3, field 'measure'"),
    ],
)
def test_a_fault_names_file_row_and_field(studies, tmp_path, file, change, wanted):
    folder = tmp_path / "ablation"
    shutil.copytree(studies / "ablation", folder)
    path = folder / file
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(InputError, match=rf"{re.escape(file)}, .*{wanted}"):
        read_study(folder)


@pytest.mark.parametrize(
    ("column", "value", "wanted"),
    [
        ("run", "who", "row 3, field 'run': 'who' is not in runs.csv"),
        ("value", float("nan"), "row 3, field 'value'"),
        ("weight", 0.0, "row 3, field 'weight'"),
        ("conversation_id", "c0", "row 3, field 'conversation_id'"),
    ],
)
def test_a_fault_of_the_scores_names_row_and_field(studies, tmp_path, column, value, wanted):
    import pandas as pd

    folder = tmp_path / "ablation"
    shutil.copytree(studies / "ablation", folder)
    frame = pd.read_parquet(folder / "scores.parquet")
    frame.loc[2, column] = value
    frame.to_parquet(folder / "scores.parquet")
    with pytest.raises(InputError, match=wanted):
        read_study(folder)


def test_a_file_missing_beside_others_or_torn_is_named(studies, tmp_path):
    folder = tmp_path / "ablation"
    shutil.copytree(studies / "ablation", folder)
    (folder / "scores.parquet").write_text("torn")
    with pytest.raises(InputError, match=r"scores.parquet: not a readable Parquet"):
        read_study(folder)
    (folder / "scores.parquet").unlink()
    with pytest.raises(InputError, match=r"scores.parquet: missing beside runs.csv"):
        read_study(folder)
    with pytest.raises(InputError, match="holds no study"):
        read_studies(tmp_path / "none")


def test_files_of_a_header_alone_are_a_study_not_run(studies, tmp_path):
    import pandas as pd

    folder = tmp_path / "ablation"
    shutil.copytree(studies / "ablation", folder)
    for name in ("runs.csv", "measures.csv"):
        (folder / name).write_text((folder / name).read_text().splitlines()[0] + "\n")
    pd.read_parquet(folder / "scores.parquet").iloc[:0].to_parquet(folder / "scores.parquet")
    assert read_study(folder).runs is None


def test_a_factor_of_teachers_takes_the_columns_place(tmp_path):
    study = declaration(seeds=[0])
    study["factors"] = {"teacher": {"extractive": {}, "qwen": {}}}
    study["compare"] = {**study["compare"], "factor": "teacher", "reference": "extractive"}
    del study["compare"]["along"]
    study["scores"]["alias"] = {"tiny-lora": ["one-lora", "one-full"]}
    make_study(tmp_path / "s" / "teachers", study, conversations=5)
    write_paper(told(tmp_path / "s"), tmp_path / "paper")
    text = (tmp_path / "paper" / "README.md").read_text()
    assert "- compared: teacher: extractive (reference), qwen\n" in text
    assert "- teacher:" not in text and "extractive teacher turns" not in text
    assert "tiny-lora (one-lora or one-full), tiny-zero-shot" in text
