"""The token sequences of all titles as one trie, in arrays.

Nodes are numbered in preorder over the sorted sequences: what lies below a node follows it
directly, and so do the sequences below it in sorted order. Node 0 is the root, the empty
sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ROOT = 0


@dataclass(frozen=True)
class Trie:
    """A trie of N nodes (the root among them) over T token sequences; `build` makes it.

    Attributes
    ----------
    token, parent, depth : ndarray, shape (N,)
        A node's last token and its parent (-1 for the root), and its number of tokens.
    children, first_child : ndarrays, shape (N - 1,) and (N + 1,)
        The children of node n are ``children[first_child[n]:first_child[n + 1]]``.
    chain_end : ndarray, shape (N,)
        Where the only-children below a node end: at a branching, a leaf, or the node itself.
    titles : ndarray, shape (T,)
        Indices of the sequences in sorted order, equal ones by index.
    low, own, high : ndarray, shape (N,)
        The sequences that end at node n are ``titles[low[n]:own[n]]``, those that end at or
        below it ``titles[low[n]:high[n]]``.
    longest : ndarray, shape (N,)
        Tokens of the longest sequence at or below a node.
    end, length : ndarray, shape (T,)
        Node at which each sequence ends, and its number of tokens.
    """

    token: Ints
    parent: Ints
    depth: Ints
    children: Ints
    first_child: Ints
    chain_end: Ints
    titles: Ints
    low: Ints
    own: Ints
    high: Ints
    longest: Ints
    end: Ints
    length: Ints

    def __len__(self) -> int:
        return len(self.token)

    def degree(self, nodes: Ints) -> Ints:
        """Return the number of children of each node."""
        counts: Ints = self.first_child[nodes + 1] - self.first_child[nodes]
        return counts

    def children_of(self, nodes: Ints) -> Ints:
        """Return the children of all `nodes`, in the order of `nodes`."""
        return self.children[_spans(self.first_child[nodes], self.degree(nodes))]

    def titles_at(self, nodes: Ints) -> Ints:
        """Return the sequences that end at one of `nodes`."""
        return self.titles[_spans(self.low[nodes], self.own[nodes] - self.low[nodes])]

    def chains(self, nodes: Ints) -> Ints:
        """Return the nodes from each of `nodes` to its `chain_end`, both included."""
        # An only child follows its parent directly.
        return _spans(nodes, self.chain_end[nodes] - nodes + 1)

    def above(self, nodes: Ints, done: NDArray[np.bool_]) -> Ints:
        """Return `nodes` and their ancestors without those that are `done`, sorted.

        Parameters
        ----------
        nodes
            Nodes.
        done : ndarray, shape (N,)
            Marks nodes; all above a marked one are taken for marked.
        """
        wanted = np.zeros(len(self), dtype=bool)
        level = np.unique(nodes)
        while len(level := level[~(done[level] | wanted[level])]):
            wanted[level] = True
            level = np.unique(self.parent[level])
            level = level[level >= 0]
        return np.flatnonzero(wanted)


def build(sequences: Sequence[Sequence[int]]) -> Trie:
    """Return the trie of token sequences.

    Parameters
    ----------
    sequences
        T sequences of token ids (0 or higher), one token at least in each; equal ones and
        prefixes of others may be among them.
    """
    count = len(sequences)
    length = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    width = int(length.max())
    padded = np.full((count, width), -1, dtype=np.int64)  # ends sort before they go on
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    titles = np.lexsort(padded.T[::-1])
    rows = padded[titles]
    # Tokens a sequence shares with the one before it.
    same = np.cumprod(rows[1:] == rows[:-1], axis=1).sum(1) if count > 1 else np.zeros(0, int)
    shared = np.minimum(np.concatenate([[0], same]), length[titles])
    # Sequence `row` brings a node for each of its tokens from `shared[row]` on.
    fresh = length[titles] - shared
    row_of = np.repeat(np.arange(count), fresh)
    column = _spans(shared, fresh)
    token = np.concatenate([[-1], rows[row_of, column]])
    depth = np.concatenate([[0], column + 1])
    size = len(token)

    path = np.zeros(width + 1, dtype=np.int64)  # node at each depth of the latest sequence
    parent = np.full(size, -1, dtype=np.int64)
    end = np.zeros(count, dtype=np.int64)
    node = 1
    for row in range(count):
        start, stop = int(shared[row]), int(length[titles[row]])
        new = np.arange(node, node + stop - start)
        path[start + 1 : stop + 1] = new
        parent[new] = path[start:stop]
        node += stop - start
        end[titles[row]] = path[stop]

    order = np.argsort(parent[1:], kind="stable") + 1
    first_child = np.searchsorted(parent[order], np.arange(size + 1))
    low = np.zeros(size, dtype=np.int64)
    low[1:] = row_of
    own, high = low.copy(), np.full(size, count, dtype=np.int64)
    ends, sequences_at = np.unique(end, return_counts=True)
    own[ends] += sequences_at
    longest, chain_end = np.zeros(size, dtype=np.int64), np.arange(size)
    longest[ends] = depth[ends]
    below = np.bincount(end, minlength=size)
    for child in range(size - 1, 0, -1):
        above = parent[child]
        below[above] += below[child]
        longest[above] = max(longest[above], longest[child])
        if first_child[above + 1] - first_child[above] == 1:
            chain_end[above] = chain_end[child]
    high = low + below
    return Trie(
        token=token,
        parent=parent,
        depth=depth,
        children=order,
        first_child=first_child,
        chain_end=chain_end,
        titles=titles,
        low=low,
        own=own,
        high=high,
        longest=longest,
        end=end,
        length=length,
    )


def _spans(starts: Ints, counts: Ints) -> Ints:
    """Return ``starts[i], starts[i] + 1, …`` for `counts[i]` numbers each, one after another."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
