"""The page of dialogues: every request on it once, and nothing foreign that could run."""

import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import pytest
from tests.reporting_toy import make_run

from seedtalk.records import Dialogue, Message, Rejected
from seedtalk.reporting import read_evidence, viewer

ATTACKS = [
    "<script>alert(1)</script>",
    "</blockquote></article><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "&lt;b&gt; {{ 7 * 7 }} {% for x in y %}",
    "</script><script>alert(2)</script>",
    "javascript:alert(3) \u202eevil\u202c \x00 \x1b[31m",
]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    root = make_run(tmp_path_factory.mktemp("run"))
    results, artifacts = root / "results", root / "artifacts"
    return read_evidence(
        ("tiny",),
        ("zero-shot", "lora"),
        ("likes",),
        (1, 5, 10, 20),
        scores=results / "eval",
        predictions=artifacts / "predictions",
        corpus=results / "corpus.json",
        selection=results / "selection.json",
        gain=results / "gain.csv",
        points=artifacts / "map.parquet",
        teacher=results / "teacher.json",
        synthesis=results / "synthesis.json",
        losses=results / "train",
        dialogues=artifacts / "dialogues",
        reviews=artifacts / "reviews.parquet",
        items=artifacts / "items.parquet",
        gains=results / "gains.csv",
        overlap=results / "overlap.csv",
        quality=results / "quality.json",
    )


class Page(HTMLParser):
    """The elements, their attributes and the words of each card."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.cards, self.script = [], [], [], ""
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "article":
            self.cards.append([dict(attributes), ""])
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self.script += data
        elif self.cards:
            self.cards[-1][1] += data


def test_every_request_has_one_card_in_order(evidence):
    page = Page(viewer.render(evidence))
    assert len(page.cards) == len(evidence.provenance)
    for (attributes, text), record in zip(page.cards, evidence.provenance, strict=True):
        assert attributes["data-verdict"] == record.verdict
        assert attributes["data-style"] == record.style
        assert record.dialogue_id in text


def test_a_card_shows_seed_dialogue_and_provenance(evidence):
    page = Page(viewer.render(evidence))
    first = evidence.valid[0]
    text = next(text for _, text in page.cards if first.dialogue_id in text)
    review = evidence.reviews.set_index("review_id").loc[first.review_id, "text"]
    assert review[:60] in text
    for message in first.messages[1:]:
        assert message.content in text
    assert "You recommend films." not in text  # the system message
    for fact in ("cd" * 32, "query chars", "214", "<i>Nowhere</i> (1999)", "similarity 0.25"):
        assert fact in text


def test_a_quarantined_card_says_why(evidence):
    page = Page(viewer.render(evidence))
    record = evidence.quarantine[0]
    attributes, text = next(c for c in page.cards if c[0]["data-verdict"] == "quarantined")
    assert attributes["data-reason"]
    assert record.detail in text
    assert "<script>alert('x')</script>" in text  # as words


@pytest.mark.parametrize("attack", ATTACKS)
def test_foreign_text_is_words_and_never_markup(evidence, attack):
    plain = Page(viewer.render(evidence))
    dialogue = evidence.train[0]
    hostile = Dialogue(
        **dialogue.model_dump(exclude={"messages", "style"}),
        style=attack,
        messages=[
            Message(role="system", content="s"),
            Message(role="user", content=attack),
            Message(role="assistant", content=attack),
        ],
    )
    reviews = evidence.reviews.copy()
    reviews["text"] = attack
    items = evidence.items.copy()
    items["title"] = attack
    changed = dataclasses.replace(
        evidence,
        reviews=reviews,
        items=items,
        teacher={**evidence.teacher, "model": attack},
        train=[hostile, *evidence.train[1:]],
        quarantine=[
            Rejected(dialogue_id=r.dialogue_id, reason="leak", detail=attack, text=attack)
            for r in evidence.quarantine
        ],
        provenance=[
            p.model_copy(
                update={
                    "style": attack,
                    "model": attack,
                    "filters": {attack: attack, "hallucinated": [attack]},
                }
            )
            for p in evidence.provenance
        ],
    )
    text = viewer.render(changed)
    page = Page(text)
    assert set(page.tags) <= set(plain.tags) | {"dt", "dd"}
    assert page.tags.count("script") == 1
    assert page.tags.count("article") == len(evidence.provenance)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.script == viewer.SCRIPT


def test_only_the_pages_own_script_may_run(evidence):
    text = viewer.render(evidence)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1)
    digest = base64.b64encode(hashlib.sha256(viewer.SCRIPT.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert re.search(r"<script>(.*?)</script>", text, flags=re.S).group(1) == viewer.SCRIPT
