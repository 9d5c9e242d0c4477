import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from stages.report import main
from tests.reporting_toy import change, make_run

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = (
    "results/metrics.json",
    "results/report.html",
    "results/dialogues.html",
    "results/plots/recall.csv",
    "results/plots/headline.png",
    "results/plots/map.png",
)
ODD = 'odd "b" <i> $x_$'
VOID = {"meta", "br", "hr", "img", "link", "input"}


EVAL = Path("results/eval")


def write_params(root: Path, **changes) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["models"]["tiny"] = params["models"]["small"] = "/srv/private/models/tiny"
    params.update(students=["tiny"])
    params["ingest"].update(source="jsonl", path="/srv/private/shop")
    params["evaluate"].update(bootstrap=200)
    params["teacher"].update(base_url="http://canary.inner.example/v1")
    for key, value in changes.items():
        group, _, leaf = key.partition("__")
        if leaf:
            params[group][leaf] = value
        else:
            params[group] = value
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def report(root: Path):
    """Run the stage in `root`, in this process."""
    before = Path.cwd()
    os.chdir(root)
    try:
        return CliRunner().invoke(main, [], catch_exceptions=False)
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = make_run(tmp_path_factory.mktemp("inputs"))
    write_params(root)
    return root


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory):
    root = tmp_path_factory.mktemp("done") / "run"
    shutil.copytree(inputs, root)
    result = report(root)
    assert result.exit_code == 0, result.output
    return root


@pytest.fixture
def run(inputs, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(inputs, root)
    return root


class Page(HTMLParser):
    """Collects tags and attributes, and fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_metrics_are_means_and_paired_differences(done):
    likes = json.loads((done / "results/metrics.json").read_text())["likes"]
    assert set(likes) == {
        "tiny-lora", "tiny-zero-shot", "popularity", "copy-context", "item-item",
        "neighbours-dialogues", "neighbours-reviews", "signals", "tiny-lora-blend",
        "tiny-zero-shot-blend", "paired",
    }  # fmt: skip
    paired = likes["paired"]
    of_blend = {name for name in likes if name not in ("paired", "tiny-lora-blend")}
    of_student = {n for n in of_blend if n not in ("tiny-lora", "tiny-zero-shot-blend")}
    assert set(paired) == {
        *(f"tiny-lora minus {name}" for name in of_student),
        *(f"tiny-lora-blend minus {name}" for name in of_blend),
    }
    for name, found in paired.items():
        subject, _, other = name.partition(" minus ")
        gap = found["recall@10"]
        assert gap["low"] <= gap["mean"] <= gap["high"]
        expected = likes[subject]["recall@10"] - likes[other]["recall@10"]
        assert gap["mean"] == pytest.approx(expected, abs=2e-6)
    assert paired["tiny-lora-blend minus tiny-lora"]["recall@10"]["low"] > 0
    assert paired["tiny-lora minus tiny-zero-shot"]["recall@10"]["low"] > 0
    assert paired["tiny-lora minus neighbours-dialogues"]["recall@10"]["high"] < 0


def test_the_headline_of_each_system_has_its_interval(done):
    likes = json.loads((done / "results/metrics.json").read_text())["likes"]
    scores = json.loads((done / "results/eval/baselines-likes.json").read_text())["systems"]
    for name, metrics in scores.items():
        ends = [likes[name][f"recall@10{end}"] for end in ("_low", "", "_high")]
        assert ends == [metrics["recall@10"][part] for part in ("low", "mean", "high")]
        assert "mrr_low" not in likes[name]


def test_paired_intervals_use_the_queries(done):
    """A paired interval is narrower than the two systems' own would give, and agrees with numpy."""
    import numpy as np

    rows = pd.concat(
        pd.read_parquet(done / f"artifacts/predictions/{name}-likes.parquet")
        for name in ("tiny-lora", "tiny-zero-shot")
    )
    rows["hit"] = [
        np.isin(t, r[:10]).mean() for t, r in zip(rows["targets"], rows["ranking"], strict=True)
    ]
    wide = rows.pivot(index="conversation_id", columns="system", values="hit")
    gaps = (wide["tiny-lora"] - wide["tiny-zero-shot"]).to_numpy()
    draws = np.random.default_rng(5).choice(gaps, (4000, len(gaps))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    found = json.loads((done / "results/metrics.json").read_text())["likes"]["paired"][
        "tiny-lora minus tiny-zero-shot"
    ]["recall@10"]
    assert found["mean"] == pytest.approx(gaps.mean(), abs=1e-6)
    assert found["low"] == pytest.approx(low, abs=0.015)
    assert found["high"] == pytest.approx(high, abs=0.015)


def test_the_page_needs_nothing_from_outside(done):
    page = Page((done / "results/report.html").read_text())
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action"):
            beside = value == "dialogues.html"
            assert beside or value.startswith(("#", "data:image/png;base64,")), value
        assert not name.startswith("on")
    style = re.sub(r'xmlns(:xlink)?="[^"]+"', "", (done / "results/report.html").read_text())
    assert "http://" not in style and "https://" not in style and "@import" not in style
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:
        if name in ("href", "xlink:href") and value.startswith("#"):
            assert value[1:] in ids


def test_third_party_text_is_data(done):
    text = (done / "results/report.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "<i>something</i>" not in text and "&lt;i&gt;something&lt;/i&gt;" in text
    assert "&lt;b&gt;Escaped &amp; shown&lt;/b&gt;" in text


def test_the_page_tells_the_run(done):
    text = " ".join("".join(Page((done / "results/report.html").read_text()).text).split())
    for expected in (
        "neighbours-dialogues", "popularity", "extractive teacher", "is not one", "proxy",
        "50 candidates", "− no title found in the text", "9,204", "mean entropy", "hallucinated",
        "3.1%", "near-duplicate of one kept before", "names a title it recommends", "$1.50",
        "Seed review", "12,345",
        "untouched", "All parameters", "select.entropy_weight",
    ):  # fmt: skip
        assert expected in text, expected
    assert text.count("Seed review") == 6
    assert "odd new reason" not in text  # nothing was dropped for it
    assert "You recommend films." not in text  # the system prompt is no dialogue


def test_the_table_has_the_best_first_and_bold(done):
    text = (done / "results/report.html").read_text()
    table = text[text.index('<table class="results">') :].partition("</table>")[0]
    likes = json.loads((done / "results/metrics.json").read_text())["likes"]
    systems = [name for name in likes if name != "paired"]
    shown = re.findall(r'<th scope="row">([^<]+)', table)
    assert shown == sorted(systems, key=lambda name: -likes[name]["recall@10"])
    columns = re.findall(r'<th scope="col" class="n">([^<]+)', table)
    assert columns[0] == "recall@10"
    ends = {f"recall@10_{end}" for end in ("low", "high", "with_reviews", "without_reviews")}
    assert set(columns) | ends == set(likes["popularity"])
    bold = re.findall(r'<td class="n[^"]* best">([0-9.]+)', table)
    assert bold == [f"{max(likes[name][m] for name in systems):.3f}" for m in columns]


def test_nothing_of_this_machine_is_in_the_outputs(done):
    for name in ("results/report.html", "results/metrics.json", "results/plots/recall.csv"):
        text = (done / name).read_text()
        for secret in ("/srv/private", "canary", "inner.example", str(done), str(Path.home())):
            assert secret not in text


def test_equal_input_gives_equal_bytes(done, run):
    """In another folder, another process and under another hash seed."""
    finished = subprocess.run(
        [sys.executable, str(ROOT / "stages/report.py")],
        cwd=run,
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    for name in OUTPUTS:
        assert (run / name).read_bytes() == (done / name).read_bytes(), name


def test_recall_is_told_apart_for_targets_with_and_without_reviews(done):
    """Against the predictions: items of the toy below i030 have reviews."""
    text = (done / "results/report.html").read_text()
    table = text[text.index("Targets with and without reviews") :].partition("</table>")[0]
    rows = pd.read_parquet(done / "artifacts/predictions/tiny-lora-likes.parquet")
    hits = {True: [], False: []}
    for targets, ranking in zip(rows["targets"], rows["ranking"], strict=True):
        for target in targets:
            hits[target < "i030"].append(target in ranking[:10])
    found = [sum(hits[inside]) / len(hits[inside]) for inside in (True, False)]
    heads = re.findall(r'<th scope="col" class="n">([^<]+)', table)
    assert heads == [f"with reviews ({len(hits[True])})", f"without ({len(hits[False])})"]
    mine = table[table.index(">tiny-lora<") :].partition("</tr>")[0]
    assert re.findall(r'<td class="n[^>]*>([0-9.]+)', mine) == [f"{v:.3f}" for v in found]
    likes = json.loads((done / "results/metrics.json").read_text())["likes"]["tiny-lora"]
    names = ("recall@10_with_reviews", "recall@10_without_reviews")
    assert [likes[name] for name in names] == pytest.approx(found, abs=1e-6)
    assert f"{len(hits[True])} of the 600 targets" in text


def test_without_both_kinds_of_targets_there_is_no_such_table(run):
    for path in (run / EVAL).glob("*.json"):
        slices = json.loads(path.read_text())["slices"]
        empty = {"queries": 0, "conversations": 0, "targets": 0, "systems": {}}
        change(path, slices={**slices, "with_reviews": empty})
    result = report(run)
    assert result.exit_code == 0, result.output
    assert "Targets with and without reviews" not in (run / "results/report.html").read_text()
    likes = json.loads((run / "results/metrics.json").read_text())["likes"]["tiny-lora"]
    assert "recall@10_with_reviews" not in likes and "recall@10_without_reviews" in likes


def test_a_slice_of_one_conversation_has_counts_only(run):
    for path in (run / EVAL).glob("*.json"):
        slices = json.loads(path.read_text())["slices"]
        few = {"queries": 1, "conversations": 1, "targets": 2, "systems": {}}
        change(path, slices={**slices, "with_reviews": few})
    assert report(run).exit_code == 0
    text = (run / "results/report.html").read_text()
    table = text[text.index("Targets with and without reviews") :].partition("</table>")[0]
    assert "with reviews (2)" in table and table.count('<td class="n">–</td>') == 10


def test_the_blend_is_told_by_what_it_adds(done):
    text = " ".join("".join(Page((done / "results/report.html").read_text()).text).split())
    for expected in (
        "Joined with the domain's own signals on likes, tiny-lora-blend reaches",
        "The signals alone, at the same weights, reach",
        "so the student adds to them",
        "With the untouched student in its place they reach",
        "so its tuning counts in the blend too",
        "with signals",
        "blend.item_item",
    ):
        assert expected in text, expected


def test_recall_is_in_long_form(done):
    frame = pd.read_csv(done / "results/plots/recall.csv")
    assert list(frame.columns) == ["benchmark", "system", "k", "recall"]
    assert len(frame) == 10 * 4
    assert (frame.groupby("system")["recall"].diff().dropna() >= 0).all()


def test_two_students_two_benchmarks_and_no_zero_shot(tmp_path):
    root = make_run(
        tmp_path / "run",
        students=("tiny", "small"),
        tunings=("lora", "full"),
        benchmarks=("likes", ODD, "re.dial"),
        conversations=30,
        pool=200,
        budget=40,
    )
    write_params(
        root,
        students=["tiny", "small"],
        tunings=["lora", "full"],
        benchmarks=["likes", ODD, "re.dial"],
        report__headline="mrr",
    )
    result = report(root)
    assert result.exit_code == 0, result.output
    metrics = json.loads((root / "results/metrics.json").read_text())
    assert set(metrics) == {"likes", ODD, "re_dial"}  # DVC joins keys with dots
    assert "small-full minus popularity" in metrics[ODD]["paired"]
    text = (root / "results/report.html").read_text()
    assert "Untouched" not in text and "chance" not in text
    Page(text)


def test_a_run_without_tuning_gains_or_quarantine(run):
    write_params(run, tunings=["zero-shot"], report__examples=0)
    (run / "results/train/tiny-zero-shot.csv").unlink()  # it holds nothing
    frame = pd.read_csv(run / "results/gain.csv").assign(gain=0.0)
    frame.to_csv(run / "results/gain.csv", index=False)
    (run / "artifacts/dialogues/quarantine.jsonl").write_text("")
    change(run / "results/synthesis.json", quarantined={"leak": 0})
    result = report(run)
    assert result.exit_code == 0, result.output
    text = (run / "results/report.html").read_text()
    assert "No student was trained" in text and "No answer was quarantined" in text
    assert "What each pick added" not in text and "Seed review" not in text
    assert "paired" not in json.loads((run / "results/metrics.json").read_text())["likes"]


def test_tokens_that_were_not_counted_are_unknown(run):
    path = run / "results/teacher.json"
    unknown = {"tokens": {"input": None, "output": None}, "usd": None}
    unknown["spent"] = {"calls": 4321, "usd": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | unknown))
    write_params(run)
    assert report(run).exit_code == 0
    text = (run / "results/report.html").read_text()
    assert len(re.findall(r">\s*unknown\s*<", text)) == 4
    assert re.search(r"calls made<[^$]*?>\s*4\S?321\s*<", text)


def test_the_report_tells_the_cost_of_the_answers_from_what_was_spent(run):
    write_params(run)
    assert report(run).exit_code == 0
    text = (run / "results/report.html").read_text()
    assert re.search(r"cost of these answers<.*?>\s*\$1\.50\s*<", text, re.DOTALL)
    assert re.search(r"retries and repairs included<.*?>\s*\$2\.25\s*<", text, re.DOTALL)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (
            lambda r: change(r / EVAL / "tiny-lora-likes.json", digest="other"),
            [
                "tiny-lora-likes.json, field 'digest'",
                "dvc repro evaluate@tiny-zero-shot-likes evaluate@tiny-lora-likes",
            ],
        ),
        (
            lambda r: (r / EVAL / "baselines-likes.json").unlink(),
            ["baselines-likes.json", "missing", "dvc repro baseline@likes"],
        ),
        (
            lambda r: (r / "artifacts/predictions/tiny-lora-likes.parquet").unlink(),
            ["predictions", "dvc repro evaluate@tiny-lora-likes"],
        ),
        (
            lambda r: change(r / EVAL / "tiny-lora-likes.json", protocol=None),
            ["tiny-lora-likes.json", "'protocol'", "missing"],
        ),
        (
            lambda r: change(r / EVAL / "tiny-lora-likes.json", protocol={"queries": 3}),
            ["tiny-lora-likes.json", "'protocol.candidates'"],
        ),
        (
            lambda r: change(
                r / EVAL / "tiny-lora-likes.json",
                protocol={"candidates": 50, "queries": 3, "conversations": 3},
            ),
            ["tiny-lora-likes.json", "'protocol.chance'", "evaluate@tiny-lora-likes"],
        ),
        (
            lambda r: (r / EVAL / "tiny-lora-blend-likes.json").unlink(),
            ["tiny-lora-blend-likes.json", "missing", "dvc repro blend@tiny-lora-likes"],
        ),
        (
            lambda r: change(r / EVAL / "tiny-lora-likes.json", slices={"with_reviews": {}}),
            ["tiny-lora-likes.json", "'slices.with_reviews'", "missing"],
        ),
        (
            lambda r: change(
                r / EVAL / "tiny-lora-likes.json",
                slices={"with_reviews": {"targets": 3, "systems": {}}},
            ),
            ["tiny-lora-likes.json", "'slices.with_reviews.conversations'", "no count"],
        ),
        (
            lambda r: change(
                r / EVAL / "baselines-likes.json",
                slices={"with_reviews": {"targets": 3, "conversations": 3, "systems": {"a": {}}}},
            ),
            ["slices.with_reviews.systems.copy-context.recall@1.mean", "baseline@likes"],
        ),
        (
            lambda r: change(r / EVAL / "tiny-lora-likes.json", systems={"other": {}}),
            ["tiny-lora-likes.json", "'tiny-lora' is missing"],
        ),
        (
            lambda r: change(r / EVAL / "tiny-lora-likes.json", systems={"tiny-lora": {"mrr": 1}}),
            ["tiny-lora-likes.json", "systems.tiny-lora.recall@1.mean"],
        ),
        (
            lambda r: change(r / "results/corpus.json", reviews=None),
            ["corpus.json", "'reviews.read'", "dvc repro ingest"],
        ),
        (
            lambda r: change(r / "results/teacher.json", answered=None),
            ["teacher.json", "'answered'", "dvc repro generate"],
        ),
        (
            lambda r: change(r / "results/teacher.json", spent={"calls": 3}),
            ["teacher.json", "'spent.usd'", "dvc repro generate"],
        ),
        (
            lambda r: change(r / "results/teacher.json", tokens={"input": 3}),
            ["teacher.json", "'tokens.output'"],
        ),
        (
            lambda r: (r / "results/gain.csv").write_text("rank,gain\n0,much\n"),
            ["gain.csv", "'gain'", "no number"],
        ),
        (
            lambda r: (r / "results/gain.csv").write_text(""),
            ["gain.csv", "not a readable CSV"],
        ),
        (
            lambda r: (r / "results/train/tiny-lora.csv").write_text("step,loss\n1,2\n"),
            ["tiny-lora.csv", "'eval_loss'", "finetune@tiny-lora"],
        ),
        (
            lambda r: (r / "artifacts/map.parquet").write_bytes(b"no parquet"),
            ["map.parquet", "not a readable Parquet"],
        ),
        (
            lambda r: (
                pd.read_parquet(r / "artifacts/map.parquet")
                .drop(columns="rank")
                .to_parquet(r / "artifacts/map.parquet")
            ),
            ["map.parquet", "'rank'", "dvc repro select"],
        ),
        (
            lambda r: (r / "artifacts/dialogues/train.jsonl").write_text("{}\n"),
            ["train.jsonl, row 1", "dialogue_id"],
        ),
        (
            lambda r: (r / "results/selection.json").write_text("[]"),
            ["selection.json", "expected an object"],
        ),
    ],
)
def test_bad_input_ends_with_2_and_says_what_mends_it(run, spoil, parts):
    spoil(run)
    result = report(run)
    assert result.exit_code == 2, result.output
    for part in parts:
        assert part in result.output
    assert not (run / "results/report.html").exists()
