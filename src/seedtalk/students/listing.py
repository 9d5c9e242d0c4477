"""Let a student write its list freely: greedy decoding, several requests side by side.

A tuned student mostly writes titles of the catalogue. So what the catalogue lets expect next is
run along with each token, and kept as far as the student would have written the same: the text is
that of plain greedy decoding, in fewer passes (speculative decoding, Leviathan et al. 2023; the
draft comes from the trie of titles).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from seedtalk.students.decoding import (
    OPENING,
    Messages,
    fingerprint,
    forward,
    prompt_tokens,
    read,
    title_tokens,
)
from seedtalk.students.templates import format_answer, render, token_ids
from seedtalk.students.trie import ROOT, Ints, Trie, build

TITLE_TOKENS = 16  # an answer of n titles may have n times as many tokens
DRAFT = 8  # tokens run along at most
LIKELY = 0.5  # of the titles that begin alike, the share that must go on alike to be run along
SPARE = 64  # columns of the cache that may be refused tokens before it is packed


class Lister:
    """A student that writes lists, and the titles they are likely made of.

    Parameters
    ----------
    model, tokenizer
        A causal language model in evaluation mode and its tokenizer, as of `loading`.
    titles
        The catalogue's titles as the student writes them (`records.answer_titles`). They speed
        the decoding up; they do not change it.
    count
        Titles in a list, at most.
    max_context
        Tokens of a prompt; a longer context is cut from the left.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        titles: Sequence[str],
        *,
        count: int = 20,
        max_context: int = 1024,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.count = count
        self.max_context = max_context
        self.trie = build(title_tokens(tokenizer, titles)[0])
        self.likely = _likely(self.trie)
        self.numbers = _numbers(tokenizer, count)
        ends = model.generation_config.eos_token_id
        self.ends = {tokenizer.eos_token_id, *([ends] if isinstance(ends, int) else ends or ())}
        self._breaks: dict[int, bool] = {}

    @property
    def fingerprint(self) -> str:
        """A hash of the weights, the chat format, and the titles."""
        return fingerprint(self.model, self.tokenizer, self.trie)

    def prompt(self, messages: Messages) -> list[int]:
        """Return the tokens of a request and of the opening of its answer."""
        return prompt_tokens(self.tokenizer, messages, self.max_context)

    def write(self, requests: Sequence[Messages]) -> list[str]:
        """Return the student's answer to each request, from ``1.`` on.

        Greedy: the likeliest token each time. An answer ends where the student ends its turn,
        after `count` lines, or at `TITLE_TOKENS` times `count` tokens.

        Parameters
        ----------
        requests
            Chat messages that end in the user's, run side by side.

        Raises
        ------
        InputError
            When a message is longer than a context.
        """
        found = self.tokens([self.prompt(messages) for messages in requests])
        return [OPENING + self.tokenizer.decode(ids, skip_special_tokens=True) for ids in found]

    def tokens(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the tokens that follow each prompt, without the one that ends the turn."""
        import torch

        with torch.inference_mode():
            cache, positions, logits = read(self.model, prompts)
            answers = [_Answer(self) for _ in prompts]
            for answer, token in zip(answers, logits.argmax(-1).tolist(), strict=True):
                answer.take([token])
            writing = answers
            while True:
                going = [row for row, answer in enumerate(writing) if not answer.done]
                if not going:
                    return [answer.written for answer in answers]
                if len(going) < len(writing):
                    cache.batch_select_indices(torch.tensor(going, device=logits.device))
                    positions, writing = positions[going], [writing[row] for row in going]
                positions = self._step(cache, _pack(cache, positions), writing)

    def breaks(self, token: int) -> bool:
        """Tell whether a token ends a line."""
        if token not in self._breaks:
            self._breaks[token] = "\n" in self.tokenizer.decode([token])
        return self._breaks[token]

    def _step(self, cache: Any, positions: Ints, answers: Sequence[_Answer]) -> Ints:
        """Run the last token of each answer and its draft; return the positions with theirs."""
        drafts = [answer.draft() for answer in answers]
        before, width = positions.shape[1], 1 + max(map(len, drafts))
        ids = np.zeros((len(answers), width), dtype=np.int64)
        fresh = np.full((len(answers), width), -1, dtype=np.int64)
        for row, (answer, draft) in enumerate(zip(answers, drafts, strict=True)):
            size = 1 + len(draft)
            ids[row, :size] = [answer.written[-1], *draft]
            fresh[row, :size] = positions[row].max() + 1 + np.arange(size)
        positions = np.concatenate([positions, fresh], axis=1)
        sees = np.repeat((positions >= 0)[:, None, :], width, axis=1)
        sees[:, :, before:] &= np.tri(width, dtype=bool)
        logits = forward(self.model, cache, ids, np.maximum(fresh, 0), positions, sees)
        said = logits.argmax(-1).tolist()
        for row, (answer, draft) in enumerate(zip(answers, drafts, strict=True)):
            kept = 0
            while kept < len(draft) and draft[kept] == said[row][kept]:
                kept += 1
            answer.take(said[row][: kept + 1])
            positions[row, before + 1 + kept :] = -1  # refused: nobody sees them
        return positions


class _Answer:
    """What has been written of one answer, and what is likely to follow."""

    def __init__(self, lister: Lister) -> None:
        self._lister = lister
        self.written: list[int] = []
        self.done = False
        self._lines = 0  # that are whole
        self._node: int | None = ROOT  # of the title so far, None where it is none
        self._number: list[int] = []  # tokens still to come before the next title

    def take(self, tokens: Sequence[int]) -> None:
        """Write `tokens`, as far as the turn and the list go."""
        lister = self._lister
        for token in tokens:
            if token in lister.ends:
                self.done = True
                return
            self.written.append(token)
            self._follow(token)
            most = TITLE_TOKENS * lister.count
            if self._lines == lister.count or len(self.written) == most:
                self.done = True
                return

    def draft(self) -> list[int]:
        """Return the tokens that are likely to follow."""
        lister, found, lines = self._lister, list(self._number), self._lines
        node = self._node
        while node is not None and len(found) < DRAFT and (child := lister.likely[node]) >= 0:
            found.append(int(lister.trie.token[child]))
            node = int(child)
            if not lister.trie.degree(np.array([node]))[0] and lines < lister.count:
                lines += 1
                found += lister.numbers[lines]
                node = ROOT
        return found[:DRAFT]

    def _follow(self, token: int) -> None:
        lister = self._lister
        if lister.breaks(token):
            self._lines += 1
            self._node, self._number = ROOT, list(lister.numbers[self._lines])
        elif self._number:
            if token == self._number[0]:
                del self._number[0]
            else:
                self._node, self._number = None, []
        elif self._node is not None:
            below = lister.trie.children_of(np.array([self._node]))
            self._node = next((int(c) for c in below if lister.trie.token[c] == token), None)


def _numbers(tokenizer: Any, count: int) -> list[list[int]]:
    """Return the tokens between a list's n-th line and its next title, for n from 0 to `count`."""
    opened = render(tokenizer, [{"role": "user", "content": "x"}], answer=True)
    found: list[list[int]] = [[]]
    for lines in range(1, count + 1):
        whole = opened + format_answer(["x"] * lines) + "\n"
        ids = token_ids(tokenizer, whole)
        longer = token_ids(tokenizer, f"{whole}{lines + 1}.")
        found.append(longer[len(ids) :] if longer[: len(ids)] == ids else [])
    return found


def _likely(trie: Trie) -> Ints:
    """Return the child by which most titles below a node go on, -1 where they are too few."""
    titles = trie.high - trie.low
    best = np.full(len(trie), -1, dtype=np.int64)
    for child in range(len(trie) - 1, 0, -1):
        parent = trie.parent[child]
        enough = titles[child] >= LIKELY * titles[parent]
        if enough and (best[parent] < 0 or titles[child] >= titles[best[parent]]):
            best[parent] = child
    return best


def _pack(cache: Any, positions: Ints) -> Ints:
    """Drop refused columns once they are many: what a row keeps moves to the right."""
    import torch

    live = positions >= 0
    widest = int(live.sum(1).max())
    if positions.shape[1] - widest < SPARE:
        return positions
    kept = np.argsort(live, axis=1, kind="stable")[:, -widest:]
    for layer in cache.layers:
        index = torch.from_numpy(kept).to(layer.keys.device)[:, None, :, None]
        for name in ("keys", "values"):
            old = getattr(layer, name)
            shape = (-1, old.shape[1], -1, old.shape[3])
            setattr(layer, name, old.gather(2, index.expand(shape)))
    return np.take_along_axis(positions, kept, axis=1)
