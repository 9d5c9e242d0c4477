"""Ask a student which catalogue titles come first in its answer.

All titles are the branches of one trie (`trie`). A branch is never run twice: its nodes are packed
into one sequence behind the cached prompt, each with the position of its depth and a 4-D mask that
lets it see the prompt and its own ancestors only. Several requests are the rows of one forward
pass. The scores equal those of running every title by itself.

A title's score is its log-probability as the first item of the answer, given the request, or the
mean of it over its tokens; less `correction` times the same score after an empty request (pointwise
mutual information at 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seedtalk.errors import InputError
from seedtalk.progress import bar
from seedtalk.records import atomic_file, sha256_text
from seedtalk.students.templates import (
    context_messages,
    fit_context,
    format_answer,
    render,
    token_ids,
)
from seedtalk.students.trie import ROOT, Ints, Trie, build

Normalise = Literal["mean", "sum"]
Messages = Sequence[Mapping[str, str]]
Floats = NDArray[np.float64]

OPENING = format_answer(["x"]).removesuffix(" x")  # what stands before the first title
LOGITS = 2**26  # of one forward pass: 0.25 GB in fp32
ROWS = 8  # requests side by side
LONGEST = 4  # of the longest side by side
FRONT = 64  # prefixes tried at each step of the exact search
STEPS = 6  # a beam is tried so many times over, at most
ROUNDING = 1e-9  # of a bound


@dataclass(frozen=True)
class Found:
    """What a search found for one request.

    Attributes
    ----------
    titles : ndarray of int
        Indices of titles, best first; equal scores by the lower index.
    scores : ndarray of float
        Their scores.
    also : ndarray of float
        Scores of the titles that were asked for beside.
    """

    titles: Ints
    scores: Floats
    also: Floats


class TitleScorer:
    """A student and a catalogue: scores titles, and finds the best of them.

    Parameters
    ----------
    model, tokenizer
        A causal language model in evaluation mode and its tokenizer, as of `loading`.
    titles
        The catalogue's titles as the student writes them (`records.answer_titles`).
    normalise
        ``sum``: a title's score is log p(title, end of line | request) in nats; ``mean``: that
        over its number of tokens, the end of line included.
    correction
        Share of the title's score after an empty request that is taken off.
    cache_dir
        Where the scores after an empty request are kept, by weights and titles; without it they
        are computed anew.
    max_context
        Tokens of a prompt; a longer context is cut from the left.
    nodes
        Tokens in one forward pass: bounds memory, not the result. By default as many as make
        `LOGITS` logits, 512 at most.

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
        normalise: Normalise = "sum",
        correction: float = 0.0,
        cache_dir: Path | None = None,
        max_context: int = 1024,
        nodes: int | None = None,
    ) -> None:
        if not titles:
            raise InputError("no titles to score; the catalogue is empty")
        self.model = model
        self.tokenizer = tokenizer
        self.normalise = normalise
        self.correction = correction
        self.max_context = max_context
        paths, self._overhang = title_tokens(tokenizer, titles)
        self.trie = build(paths)
        self._nodes = nodes or min(512, max(64, LOGITS // max(1, len(tokenizer))))
        size = len(self.trie)
        # Of each node: the correction's share of its log-probability after an empty request.
        self.prior = np.zeros(size)
        self._lift = np.zeros(size)  # what the correction can add below it at most
        if correction:
            self.prior = correction * self._after_nothing(cache_dir)
            taken = -self.normalised(self.prior[self.trie.end], np.arange(len(titles)))
            self._lift = _best_below(self.trie, taken)

    @property
    def fingerprint(self) -> str:
        """A hash of the weights, the titles' tokens and the chat format."""
        return fingerprint(self.model, self.tokenizer, self.trie)

    def score(
        self, requests: Sequence[Messages], candidates: Sequence[Sequence[int]] | None = None
    ) -> list[Floats]:
        """Score titles as first item of the answer to each request.

        Parameters
        ----------
        requests
            Chat messages that end in the user's (`templates.context_messages`). They are run
            side by side: `groups` says which are best taken together.
        candidates
            Indices of the titles to score for each request; all of them by default.

        Returns
        -------
        list of ndarray
            Scores in the order of the candidates; higher is likelier.
        """
        import torch

        everything = np.arange(len(self.trie.end))
        chosen = [
            everything if candidates is None else np.asarray(candidates[row], dtype=np.int64)
            for row in range(len(requests))
        ]
        with torch.inference_mode():
            state = self._open([self.prompt(messages) for messages in requests])
            self._run_titles(state, chosen)
        return [self.title_scores(state.total[row], titles) for row, titles in enumerate(chosen)]

    def search(
        self,
        requests: Sequence[Messages],
        depth: int,
        *,
        beam: int = 32,
        exclude: Sequence[Collection[int]] | None = None,
        also: Sequence[Sequence[int]] | None = None,
    ) -> list[Found]:
        """Find the best titles for each request.

        A prefix of titles is as good as its log-probability, less the correction's share. At
        each step the `beam` best prefixes are tried, each up to the next token at which its
        titles part; the others stay in reach. Log-probabilities only fall, so that how good a
        prefix's titles can get is bounded: the search ends when no bound reaches the `depth`-th
        best title found, at the latest when `STEPS` times `beam` prefixes have been tried.
        Without a beam only the bounds end it, and the result is that of scoring every title.

        Parameters
        ----------
        requests
            As in `score`.
        depth
            Titles wanted for each request; fewer come back when fewer are left or found.
        beam
            Prefixes tried at each step; 0 searches until certain.
        exclude
            Indices of titles that must not be found, for each request.
        also
            Indices of titles to score beside, found or not, for each request.
        """
        import torch

        searches = [
            _Search(
                self,
                depth,
                beam,
                exclude[row] if exclude else (),
                np.asarray(also[row] if also else (), dtype=np.int64),
            )
            for row in range(len(requests))
        ]
        going = searches
        with torch.inference_mode():
            state = self._open([self.prompt(messages) for messages in requests])
            known = [self.trie.children_of(np.array([ROOT]))] * len(going)
            while going:
                chosen = [
                    search.step(new, state.total[row], state.ran(row))
                    for row, (search, new) in enumerate(zip(going, known, strict=True))
                ]
                rows = [row for row, nodes in enumerate(chosen) if len(nodes)]
                if len(rows) < len(going):  # who is done costs nothing more
                    state.keep(rows)
                    going = [going[row] for row in rows]
                    chosen = [chosen[row] for row in rows]
                if going:
                    self._run(state, chosen)
                    known = [self.trie.children_of(nodes) for nodes in chosen]
        return [search.found for search in searches]

    def prompt(self, messages: Messages) -> list[int]:
        """Return the tokens of a request, up to where the titles begin.

        Raises
        ------
        InputError
            When a message is longer than a context.
        """
        ids = prompt_tokens(self.tokenizer, messages, self.max_context)
        return ids[: len(ids) - self._overhang]

    def normalised(self, totals: Floats, titles: Ints) -> Floats:
        """Return what titles' log-probabilities count for: their sum or their mean a token."""
        return totals / self.trie.length[titles] if self.normalise == "mean" else totals

    def title_scores(self, totals: Floats, titles: Ints) -> Floats:
        """Return the scores of titles, given the log-probability of each node."""
        ends = self.trie.end[titles]
        return self.normalised(totals[ends] - self.prior[ends], titles)

    def bounds(self, totals: Floats, nodes: Ints) -> Floats:
        """Return what no title below the nodes can exceed, given the nodes' log-probabilities."""
        best = totals / self.trie.longest[nodes] if self.normalise == "mean" else totals
        return best + self._lift[nodes]

    def _after_nothing(self, cache_dir: Path | None) -> Floats:
        """Return each node's log-probability after an empty request."""
        import torch

        prompt = self.prompt(context_messages([]))
        kept = None
        if cache_dir is not None:
            key = sha256_text([self.fingerprint, repr(prompt)])
            kept = cache_dir / "popularity" / f"{key}.npy"
            if kept.is_file():
                totals: Floats = np.load(kept, allow_pickle=False)
                if totals.shape == (len(self.trie),):
                    return totals
        with torch.inference_mode():
            state = self._open([prompt])
            self._run_titles(state, [np.arange(len(self.trie.end))], "popularity")
        if kept is not None:
            with atomic_file(kept, "wb") as file:
                np.save(file, state.total[0], allow_pickle=False)
        return np.asarray(state.total[0])

    def _open(self, prompts: Sequence[Sequence[int]]) -> _State:
        """Run prompts up to where titles part, and keep their keys and values."""
        cache, positions, logits = read(self.model, prompts)
        rows = np.arange(len(prompts))
        state = _State(cache, positions, len(self.trie))
        kids = np.tile(self.trie.children_of(np.array([ROOT])), (len(prompts), 1))
        of = np.repeat(rows, kids.shape[1])
        state.total[of, kids.ravel()] = _logprobs(logits, of, self.trie.token[kids.ravel()])
        return state

    def _run_titles(self, state: _State, titles: Sequence[Ints], shown: str | None = None) -> None:
        """Run what is still unknown of titles, a few nodes at a time, and forget their keys."""
        trie = self.trie
        wanted = []
        for row, chosen in enumerate(titles):
            ends = trie.end[chosen]
            ends = ends[np.isnan(state.total[row, ends])]
            wanted.append(trie.above(trie.parent[ends], state.ran(row)))
        size = max(1, self._nodes // len(wanted))
        pieces = -(-max(map(len, wanted)) // size)
        columns = state.columns
        with bar(shown, pieces) if shown else nullcontext() as progress:
            for piece in range(pieces):
                nodes = [part[piece * size : (piece + 1) * size] for part in wanted]
                # The ancestors of a piece may have been run in the one before, and forgotten.
                nodes = [trie.above(part, state.ran(row)) for row, part in enumerate(nodes)]
                self._run_once(state, nodes)
                state.crop(columns)
                if progress:
                    progress.advance()

    def _run(self, state: _State, nodes: Sequence[Ints]) -> None:
        """Run nodes of the trie, for each request its own, parents before their children.

        Afterwards the log-probabilities of all their children are known.
        """
        size = max(1, self._nodes // len(nodes))
        passes = -(-max(map(len, nodes)) // size)
        shares = [np.array_split(part, passes) for part in nodes]
        for share in zip(*shares, strict=True):
            self._run_once(state, share)

    def _run_once(self, state: _State, nodes: Sequence[Ints]) -> None:
        trie, before = self.trie, state.columns
        count, width = len(nodes), max(map(len, nodes))
        ids = np.zeros((count, width), dtype=np.int64)
        positions = np.zeros((count, width), dtype=np.int64)
        sees = np.zeros((count, width, before + width), dtype=bool)
        sees[:, np.arange(width), before + np.arange(width)] = True
        for row, part in enumerate(nodes):
            size = len(part)
            ids[row, :size] = trie.token[part]
            positions[row, :size] = state.positions[row, state.prompt - 1] + trie.depth[part]
            state.slot[row, part] = before + np.arange(size)
            sees[row, :size, : state.prompt] = state.positions[row, : state.prompt] >= 0
            place, above = np.arange(size), trie.parent[part]
            while (inside := above > ROOT).any():
                place, above = place[inside], above[inside]
                sees[row, place, state.slot[row, above]] = True
                above = trie.parent[above]
        state.positions = np.concatenate([state.positions, positions], axis=1)
        logits = forward(self.model, state.cache, ids, positions, state.positions, sees)
        of, tokens, kids = [], [], []
        for row, part in enumerate(nodes):
            below = trie.children_of(part)
            kids.append(below)
            tokens.append(trie.token[below])
            of.append(row * width + np.repeat(np.arange(len(part)), trie.degree(part)))
        values = _logprobs(
            logits.reshape(count * width, -1), np.concatenate(of), np.concatenate(tokens)
        )
        start = 0
        for row, below in enumerate(kids):
            part_values = values[start : start + len(below)]
            start += len(below)
            total, depth = state.total[row], trie.depth[below]
            for level in np.unique(depth):  # a child's parent may be a child itself
                at = below[depth == level]
                total[at] = total[trie.parent[at]] + part_values[depth == level]


def prompt_tokens(tokenizer: Any, messages: Messages, max_context: int) -> list[int]:
    """Return the tokens of a request and of the opening of its answer, ``1.``.

    Raises
    ------
    InputError
        When a message is longer than `max_context` tokens.
    """
    fitted = fit_context(tokenizer, messages, max_context)
    if fitted is None:
        raise InputError(f"a message is longer than the {max_context} tokens of a context")
    return token_ids(tokenizer, render(tokenizer, fitted, answer=True) + OPENING)


def groups(lengths: Sequence[int], max_context: int) -> list[list[int]]:
    """Part prompts into those that are best run together: of like length, few enough.

    Parameters
    ----------
    lengths
        Tokens of each prompt.
    max_context
        Tokens that a prompt may have: a few of the longest are run together.

    Returns
    -------
    list of list of int
        Indices of the prompts of each group.
    """
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        # In order of length, the newest is the longest of its group.
        if not parts or len(parts[-1]) >= min(ROWS, LONGEST * max_context // lengths[index]):
            parts.append([])
        parts[-1].append(index)
    return parts


def read(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[Any, Ints, Any]:
    """Run prompts side by side.

    Returns
    -------
    cache
        Keys and values, a row a prompt, a column a token; shorter prompts are padded on the left.
    positions : ndarray, shape (prompts, columns)
        Place of each token in its prompt, below 0 where it is padding.
    logits : Tensor, shape (prompts, vocabulary), float32
        Of what follows the last token.
    """
    from transformers import DynamicCache

    longest = max(map(len, prompts))
    ids = np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    positions = np.arange(longest) - (longest - lengths)[:, None]
    sees = np.tri(longest, dtype=bool) & (positions >= 0)[:, None, :]
    # Without the config no layer forgets what has left its window: the mask hides it.
    cache = DynamicCache()
    places = np.maximum(positions, 0)
    logits = forward(model, cache, ids, places, positions, sees, last=True)
    return cache, positions, logits[:, -1]


def forward(
    model: Any,
    cache: Any,
    ids: Ints,
    places: Ints,
    positions: Ints,
    sees: NDArray[np.bool_],
    *,
    last: bool = False,
) -> Any:
    """Run tokens behind what a cache holds, each seeing what it is told to.

    Parameters
    ----------
    model, cache
        A causal language model, and its keys and values so far; the tokens' own are added.
    ids, places : ndarray, shape (rows, tokens)
        Tokens and their places in their texts.
    positions : ndarray, shape (rows, columns)
        Places of all columns of the cache, those of the tokens included.
    sees : ndarray, shape (rows, tokens, columns)
        Which columns the tokens see, apart from any sliding window of the model.
    last
        Whether the logits of the last column are enough.

    Returns
    -------
    Tensor, shape (rows, tokens or 1, vocabulary), float32
    """
    import torch

    device, dtype = model.device, model.dtype

    def bias(seen: NDArray[np.bool_]) -> Any:
        hidden = torch.from_numpy(~seen)[:, None].to(device)
        return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(
            hidden, torch.finfo(dtype).min
        )

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if window and int(places.max()) >= window and kinds != {"full_attention"}:
        mask = bias(sees & (places[:, :, None] - positions[:, None, :] < window))
        if "full_attention" in kinds:  # each kind of layer takes its own
            mask = {"full_attention": bias(sees), "sliding_attention": mask}
    else:
        mask = bias(sees)
    output = model(
        input_ids=torch.from_numpy(ids).to(device),
        position_ids=torch.from_numpy(places).to(device),
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1 if last else 0,
    )
    return output.logits.float()


class _State:
    """What a model has read: prompts, and behind them nodes of the trie.

    Attributes
    ----------
    cache
        Keys and values, a row a request, a column a token.
    positions : ndarray, shape (rows, columns)
        Place of each token in its text; below 0 where a shorter prompt is padded.
    prompt
        Columns of the prompts.
    slot : ndarray, shape (rows, N)
        Column of each node that has been run, else -1.
    total : ndarray, shape (rows, N)
        Log-probability of each node, NaN where it is unknown.
    """

    def __init__(self, cache: Any, positions: Ints, nodes: int) -> None:
        rows = len(positions)
        self.cache = cache
        self.positions = positions
        self.prompt = positions.shape[1]
        self.slot = np.full((rows, nodes), -1, dtype=np.int64)
        self.slot[:, ROOT] = self.prompt - 1
        self.total = np.full((rows, nodes), np.nan)
        self.total[:, ROOT] = 0.0

    @property
    def columns(self) -> int:
        """Columns of the cache."""
        return int(self.positions.shape[1])

    def ran(self, row: int) -> NDArray[np.bool_]:
        """Mark the nodes whose keys and values a request has."""
        marked: NDArray[np.bool_] = self.slot[row] >= 0
        return marked

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all requests but these."""
        import torch

        if rows:
            where = self.cache.layers[0].keys.device
            self.cache.batch_select_indices(torch.tensor(rows, device=where))
        self.positions, self.slot, self.total = (
            array[list(rows)] for array in (self.positions, self.slot, self.total)
        )

    def crop(self, columns: int) -> None:
        """Forget what stands behind the first `columns`."""
        if self.columns > columns:
            self.cache.crop(columns - self.columns)
            self.positions = self.positions[:, :columns]
            self.slot[self.slot >= columns] = -1


class _Search:
    """One request's way through the trie: which nodes are run next, and what they gave.

    Attributes
    ----------
    found
        What came of it, once `step` has no more nodes to run.
    """

    found: Found

    def __init__(
        self,
        scorer: TitleScorer,
        depth: int,
        beam: int,
        exclude: Collection[int],
        also: Ints,
    ) -> None:
        self._scorer = scorer
        self._trie = scorer.trie
        self._depth = depth
        self._beam = beam
        self._left = STEPS * beam if beam else len(scorer.trie)  # prefixes it may try yet
        self._also = also
        self._searching = True
        self._barred = np.zeros(len(self._trie.titles), dtype=bool)
        self._barred[list(exclude)] = True
        # Titles that may be named, before each place of the sorted order.
        free = ~self._barred[self._trie.titles]
        self._free = np.concatenate([[0], np.cumsum(free)])
        self._titles = np.zeros(0, dtype=np.int64)
        self._scores = np.zeros(0)
        self._open = np.zeros(0, dtype=np.int64)  # prefixes still to be tried
        self._tried = np.zeros(0, dtype=np.int64)

    def step(self, known: Ints, totals: Floats, ran: NDArray[np.bool_]) -> Ints:
        """Return the nodes to run next, sorted; none when the search is over.

        Parameters
        ----------
        known
            Nodes whose log-probability has just become known.
        totals : ndarray, shape (N,)
            Log-probabilities of the nodes.
        ran : ndarray, shape (N,)
            Marks the nodes that have been run.
        """
        nodes = self._next(known, totals) if self._searching else known[:0]
        if not len(nodes):
            self._searching = False  # the titles asked for beside come last, found or not
            ends = self._trie.end[self._also]
            nodes = self._trie.above(self._trie.parent[ends[np.isnan(totals[ends])]], ran)
        if not len(nodes):
            order = np.lexsort([self._titles, -self._scores])[: self._depth]
            also = self._scorer.title_scores(totals, self._also)
            self.found = Found(self._titles[order], self._scores[order], also)
        return nodes

    def _next(self, known: Ints, totals: Floats) -> Ints:
        trie, scorer = self._trie, self._scorer
        titles = trie.titles_at(known)
        titles = titles[~self._barred[titles]]
        self._titles = np.concatenate([self._titles, titles])
        self._scores = np.concatenate([self._scores, scorer.title_scores(totals, titles)])

        inner = (trie.degree(known) > 0) & ~np.isin(known, self._tried)
        inner &= self._free[trie.high[known]] > self._free[trie.own[known]]
        nodes = np.concatenate([self._open, known[inner]])
        bounds = scorer.bounds(totals[nodes], nodes)
        if len(self._scores) >= self._depth:
            place = len(self._scores) - self._depth
            worst = np.partition(self._scores, place)[place]
            reaching = bounds >= worst - ROUNDING
            nodes, bounds = nodes[reaching], bounds[reaching]
        worth = totals[nodes] - scorer.prior[nodes] if self._beam else bounds
        order = np.lexsort([nodes, -worth])
        width = min(self._beam or FRONT, self._left)
        tried, self._open = nodes[order[:width]], nodes[order[width:]]
        self._left -= len(tried)
        chain = trie.chains(tried)
        self._tried = np.sort(chain[trie.degree(chain) > 0])
        return self._tried


def title_tokens(tokenizer: Any, titles: Sequence[str]) -> tuple[list[tuple[int, ...]], int]:
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
    prompt = token_ids(tokenizer, opened + OPENING)
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


def _logprobs(logits: Any, rows: Ints, columns: Ints) -> Floats:
    """Return the log-softmax of single entries of `logits`, shape (n, vocabulary), and spend it.

    The exponentials take the logits' own place: a copy would be as large as they are.
    """
    import torch

    at = torch.from_numpy(rows).to(logits.device)
    values = logits[at, torch.from_numpy(columns).to(logits.device)]
    top = logits.amax(-1, keepdim=True)
    norms = logits.sub_(top).exp_().sum(-1).log() + top[:, 0]
    found: Floats = (values - norms[at]).double().cpu().numpy()
    return np.minimum(found, 0.0)  # rounding


def _best_below(trie: Trie, values: Floats) -> Floats:
    """Return the highest value of the titles at or below each node."""
    ordered = np.append(values[trie.titles], -np.inf)
    best: Floats = np.maximum.reduceat(ordered, np.column_stack([trie.low, trie.high]).ravel())[::2]
    return best


def fingerprint(model: Any, tokenizer: Any, trie: Trie) -> str:
    """Return a hash of a model's weights, its chat format, and the titles of a trie."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    for array in (trie.token, trie.parent, trie.end):
        digest.update(array.tobytes())
    return sha256_text([digest.hexdigest(), tokenizer.chat_template or ""])
