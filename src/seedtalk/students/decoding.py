"""Ask a student which catalogue title comes first in its answer.

All titles are the branches of one trie. A branch is never run twice: the nodes of the trie are
packed into one sequence behind the cached prompt, each with the position of its depth and a
4-D mask that lets it see the prompt and its own ancestors only. The scores equal those of
running every title by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from seedtalk.errors import InputError
from seedtalk.students.templates import fit_context, format_answer, render, token_ids

Normalise = Literal["mean", "sum"]

ROOT = -1  # the parent of a title's first token: the prompt


class TitleScorer:
    """Log-likelihoods of catalogue titles as the first item of a student's answer.

    Parameters
    ----------
    model, tokenizer
        A causal language model in evaluation mode and its tokenizer, as of `loading`.
    titles
        Display titles of the catalogue, tokenised once.
    max_context
        Tokens of a prompt; a longer context is cut from the left.
    chunk
        Trie nodes in one forward pass: bounds memory, not the result.

    Raises
    ------
    InputError
        When there is no title, a title is blank, or the chat template fails.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        titles: Sequence[str],
        *,
        max_context: int = 1024,
        chunk: int = 1024,
    ) -> None:
        if not titles:
            raise InputError("no titles to score; the catalogue is empty")
        self.model = model
        self.tokenizer = tokenizer
        self.max_context = max_context
        self.chunk = chunk
        self.paths, self._overhang = _title_tokens(tokenizer, titles)

    def score(
        self,
        messages: Sequence[Mapping[str, str]],
        candidates: Sequence[int] | None = None,
        normalise: Normalise = "mean",
    ) -> np.ndarray:
        """Score titles as first item of the answer to `messages`.

        Parameters
        ----------
        messages
            Chat messages that end in the user's (`templates.context_messages`).
        candidates
            Indices of the titles to score; all of them by default.
        normalise
            ``sum`` gives log p(title, end of line | messages) in nats, ``mean`` divides it by
            the title's number of tokens, the end of line included.

        Returns
        -------
        ndarray, shape (len(candidates),), float64
            Higher is likelier; in the order of `candidates`.
        """
        import torch

        chosen = range(len(self.paths)) if candidates is None else candidates
        scores = np.zeros(len(chosen))
        order = sorted(range(len(chosen)), key=lambda i: self.paths[chosen[i]])
        with torch.inference_mode():
            prompt = self._prompt(messages)
            for group in _chunks(order, [len(self.paths[c]) for c in chosen], self.chunk):
                paths = [self.paths[chosen[i]] for i in group]
                scores[group] = self._score_packed(prompt, paths)
        if normalise == "mean":
            scores /= [len(self.paths[c]) for c in chosen]
        return scores

    def _prompt(self, messages: Sequence[Mapping[str, str]]) -> _Prompt:
        """Run the prompt up to where titles part, and keep its keys and values."""
        import torch
        from transformers import DynamicCache

        fitted = fit_context(self.tokenizer, messages, self.max_context)
        if fitted is None:
            raise InputError(f"a message is longer than the {self.max_context} tokens of a context")
        ids = token_ids(self.tokenizer, render(self.tokenizer, fitted, answer=True) + _opening())
        ids = ids[: len(ids) - self._overhang]
        cache = DynamicCache(config=self.model.config)
        logits = self.model(
            input_ids=torch.tensor([ids], device=self.model.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[0, -1]
        return _Prompt(cache, len(ids), logits.float().log_softmax(-1))

    def _score_packed(self, prompt: _Prompt, paths: Sequence[tuple[int, ...]]) -> np.ndarray:
        import torch

        trie = _Trie()
        before, after, owner = [], [], []
        for number, path in enumerate(paths):
            node = ROOT
            for depth, token in enumerate(path):
                before.append(node)
                after.append(token)
                owner.append(number)
                if depth + 1 < len(path):  # nothing follows the last token
                    node = trie.child(node, token)
        source, target = torch.tensor(before), torch.tensor(after)
        found = torch.empty(len(before), dtype=torch.float64)
        first = source == ROOT
        found[first] = prompt.logprobs[target[first].to(prompt.logprobs.device)].double().cpu()
        if len(trie.tokens):
            logits = self._forward(prompt, trie, 0)
            prompt.cache.crop(-len(trie.tokens))
            rows = source[~first].to(logits.device)
            columns = target[~first].to(logits.device)
            values = logits[rows, columns] - _logsumexp(logits)[rows]
            found[~first] = values.double().cpu()
        total = torch.zeros(len(paths), dtype=torch.float64)
        return np.asarray(total.index_add_(0, torch.tensor(owner), found))

    def _forward(self, prompt: _Prompt, trie: _Trie, start: int) -> Any:
        """Run the nodes of `trie` from `start` on; the cache holds the prompt and the others.

        Returns
        -------
        Tensor, shape (nodes, vocabulary), float32
            Logits of the token after each node.
        """
        import torch

        device, dtype = self.model.device, self.model.dtype
        seen = torch.from_numpy(trie.sees(start))
        bias = torch.zeros(len(seen), prompt.length + seen.shape[1], dtype=dtype)
        bias[:, prompt.length :].masked_fill_(~seen, torch.finfo(dtype).min)
        positions = [prompt.length + depth for depth in trie.depths[start:]]
        return (
            self.model(
                input_ids=torch.tensor([trie.tokens[start:]], device=device),
                position_ids=torch.tensor([positions], device=device),
                attention_mask=bias[None, None].to(device),
                past_key_values=prompt.cache,
                use_cache=True,
            )
            .logits[0]
            .float()
        )


def beam_titles(
    scorer: TitleScorer,
    messages: Sequence[Mapping[str, str]],
    k: int,
    exclude: Collection[int] = (),
    beam: int = 32,
    normalise: Normalise = "mean",
) -> list[tuple[int, float]]:
    """Find the `k` likeliest titles by beam search over the trie of the catalogue.

    At each depth the `beam` likeliest prefixes of titles go on. With as many beams as titles
    nothing is cut, and the result is that of `TitleScorer.score` over the whole catalogue.

    Parameters
    ----------
    scorer
        Holds the student and the catalogue.
    messages
        Chat messages that end in the user's.
    k
        Titles wanted; fewer come back when fewer are left.
    exclude
        Indices of titles that must not be named.
    beam
        Prefixes kept at each depth; at least `k` are.
    normalise
        As for `TitleScorer.score`; ranks the finished titles.

    Returns
    -------
    list of (int, float)
        Index and score of each title, best first, ties by the lower index.
    """
    import torch

    barred = set(exclude)
    ends: dict[tuple[int, ...], list[int]] = {}
    children: dict[tuple[int, ...], list[int]] = {}
    for index, path in enumerate(scorer.paths):
        if index in barred:
            continue
        for depth in range(len(path)):
            prefix = path[:depth]
            branches = children.setdefault(prefix, [])
            if path[depth] not in branches:
                branches.append(path[depth])
        ends.setdefault(path, []).append(index)
    width = max(beam, k)
    finished: list[tuple[int, float]] = []
    trie = _Trie()
    with torch.inference_mode():
        prompt = scorer._prompt(messages)
        # A live prefix: its tokens, its node, its log-likelihood, the row that says what follows.
        live: list[tuple[tuple[int, ...], int, float]] = [((), ROOT, 0.0)] if children else []
        logprobs = prompt.logprobs[None]
        while live:
            grown = []
            for row, (prefix, node, total) in enumerate(live):
                branches = children[prefix]
                values = logprobs[row, branches].double().tolist()
                for token, value in zip(branches, values, strict=True):
                    longer = (*prefix, token)
                    score = total + value
                    for index in ends.get(longer, ()):
                        norm = len(longer) if normalise == "mean" else 1
                        finished.append((index, score / norm))
                    if longer in children:
                        grown.append((longer, node, score))
            grown.sort(key=lambda hypothesis: (-hypothesis[2], hypothesis[0]))
            start = len(trie.tokens)
            live = [
                (prefix, trie.child(node, prefix[-1]), total)
                for prefix, node, total in grown[:width]
            ]
            if live:
                logprobs = scorer._forward(prompt, trie, start).log_softmax(-1)
    return sorted(finished, key=lambda found: (-found[1], found[0]))[:k]


@dataclass(frozen=True)
class _Prompt:
    """A prompt that has been run: its cache, its tokens, and what comes next."""

    cache: Any
    length: int
    logprobs: Any  # (vocabulary,) of the token after the prompt


class _Trie:
    """Prefixes of titles as nodes in order of making: a parent comes before its children."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self._parents: list[int] = []
        self._nodes: dict[tuple[int, int], int] = {}

    def child(self, parent: int, token: int) -> int:
        """Return the node of `token` after `parent`, made if new."""
        key = (parent, token)
        if key not in self._nodes:
            self._nodes[key] = len(self.tokens)
            self.tokens.append(token)
            self.depths.append(0 if parent == ROOT else self.depths[parent] + 1)
            self._parents.append(parent)
        return self._nodes[key]

    def sees(self, start: int) -> np.ndarray:
        """Return which nodes each node from `start` on sees: its ancestors and itself."""
        size = len(self.tokens)
        seen = np.zeros((size - start, size), dtype=bool)
        for node in range(start, size):
            row, above = seen[node - start], node
            while above != ROOT:
                row[above] = True
                above = self._parents[above]
        return seen


def _opening() -> str:
    """Return what stands before the first title of every answer."""
    return format_answer(["x"]).removesuffix(" x")


def _title_tokens(tokenizer: Any, titles: Sequence[str]) -> tuple[list[tuple[int, ...]], int]:
    """Tokenise titles as they stand in an answer.

    A tokenizer may join the border of two pieces (the space before a word, a bracket and the
    end of its line), so each title is tokenised within ``1. Title`` and its line's end, behind
    a real prompt, and parted from it where all titles still agree with the prompt alone.

    Returns
    -------
    paths
        Tokens of each title, the end of its line included.
    overhang
        Tokens at the end of the prompt that the paths bring along themselves.
    """
    opened = render(tokenizer, [{"role": "user", "content": "x"}], answer=True)
    prompt = token_ids(tokenizer, opened + _opening())
    lines = []
    for number, title in enumerate(titles, start=1):
        if not title.strip():
            raise InputError(f"title {number}: blank; every item needs a title")
        lines.append(token_ids(tokenizer, opened + format_answer([title]) + "\n"))
    common = len(prompt)
    for line in lines:
        while line[:common] != prompt[:common]:
            common -= 1
    return [tuple(line[common:]) for line in lines], len(prompt) - common


def _logsumexp(logits: Any) -> Any:
    """Return log sum exp of each row, in the logits' own memory: their copy would be 0.1 GB."""
    top = logits.amax(-1, keepdim=True)
    return logits.sub_(top).exp_().sum(-1).log() + top[:, 0]


def _chunks(order: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    """Part `order` into runs whose lengths add up to `size` at most, one title at least."""
    runs: list[list[int]] = []
    filled = size
    for index in order:
        if filled + lengths[index] > size:
            runs.append([])
            filled = 0
        runs[-1].append(index)
        filled += lengths[index]
    return runs
