"""Every dialogue beside its seed, kept and quarantined, as one page to browse.

Reviews and answers are third-party text: each is escaped, and the page's content policy lets
no script run but the page's own, named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from seedtalk.records import Dialogue, Provenance, Rejected, display_title
from seedtalk.reporting import words
from seedtalk.reporting.inputs import Evidence

REVIEW_CHARS = 2000
ANSWER_CHARS = 4000

# Shows what fits the search words and the choices; without it the page shows everything.
SCRIPT = """
const cards = [...document.querySelectorAll("article")];
const texts = cards.map((card) => card.textContent.toLowerCase());
const search = document.getElementById("search");
const selects = [...document.querySelectorAll("select")];
const count = document.getElementById("count");
function apply() {
  const wanted = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  cards.forEach((card, i) => {
    const fits = wanted.every((word) => texts[i].includes(word)) &&
      selects.every((s) => !s.value || card.dataset[s.name] === s.value);
    card.hidden = !fits;
    shown += fits;
  });
  count.textContent = `${shown} of ${cards.length} shown`;
}
search.addEventListener("input", apply);
selects.forEach((s) => s.addEventListener("change", apply));
document.getElementById("controls").hidden = false;
apply();
"""


def render(evidence: Evidence) -> str:
    """Return the page: one card for each request, in request order."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("seedtalk.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(whole=words.whole)
    digest = hashlib.sha256(SCRIPT.encode()).digest()
    cards = _cards(evidence)
    return environment.get_template("dialogues.html.j2").render(
        summary=_summary(evidence, cards),
        cards=cards,
        choices={
            name: sorted(Counter(card[name] for card in cards if card[name]).items())
            for name in ("verdict", "style", "reason")
        },
        script=Markup(SCRIPT),  # noqa: S704 - our own text, above
        script_hash="sha256-" + base64.b64encode(digest).decode(),
    )


def _summary(evidence: Evidence, cards: Sequence[Mapping[str, Any]]) -> str:
    verdicts = Counter(card["verdict"] for card in cards)
    return (
        f"{words.whole(len(cards))} requests to the teacher {evidence.teacher['model']} "
        f"({evidence.teacher['backend']}): {words.whole(verdicts['train'])} dialogues to learn "
        f"from, {words.whole(verdicts['valid'])} to validate on, "
        f"{words.whole(verdicts['quarantined'])} quarantined."
    )


def _cards(evidence: Evidence) -> list[dict[str, Any]]:
    texts = dict(zip(evidence.reviews["review_id"], evidence.reviews["text"], strict=True))
    titles = {
        item: display_title(title, year)
        for item, title, year in evidence.items[["item_id", "title", "year"]].to_numpy()
    }
    kept = {dialogue.dialogue_id: dialogue for dialogue in [*evidence.train, *evidence.valid]}
    rejected = {record.dialogue_id: record for record in evidence.quarantine}
    return [
        {
            "id": record.dialogue_id,
            "title": titles.get(record.item_id, record.item_id),
            "review": words.shortened(str(texts.get(record.review_id, "")), REVIEW_CHARS),
            "verdict": record.verdict,
            "style": record.style,
            "reason": words.reason(record.reason) if record.reason else "",
            "said": _said(kept.get(record.dialogue_id), rejected.get(record.dialogue_id)),
            "detail": _detail(rejected.get(record.dialogue_id)),
            "facts": _facts(record),
        }
        for record in evidence.provenance
    ]


def _said(kept: Dialogue | None, rejected: Rejected | None) -> list[dict[str, str]]:
    if kept is not None:
        return [
            {"role": message.role, "content": message.content}
            for message in kept.messages
            if message.role != "system"
        ]
    text = rejected.text if rejected is not None else ""
    return [{"role": "answer", "content": words.shortened(text, ANSWER_CHARS)}]


def _detail(rejected: Rejected | None) -> str:
    return "" if rejected is None else words.shortened(rejected.detail, ANSWER_CHARS)


def _facts(record: Provenance) -> list[tuple[str, str]]:
    facts = [
        ("teacher", f"{record.model} ({record.backend})"),
        ("request", record.request_key or "none"),
        ("prompt", record.prompt),
        ("answer", record.response_digest or "none"),
    ]
    for name, value in record.filters.items():
        if value not in (None, [], {}):
            facts.append((name.replace("_", " "), _value(value)))
    return facts


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(part)}" for key, part in value.items() if part is not None)
    if isinstance(value, list | tuple):
        return "; ".join(_value(part) for part in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
