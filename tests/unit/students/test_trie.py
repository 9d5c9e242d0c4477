"""The arrays of a trie against sets of prefixes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seedtalk.students.trie import ROOT, build

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), min_size=1)


def prefixes(sequences):
    """Return every prefix, sorted: its place is its node."""
    return sorted({sequence[:size] for sequence in sequences for size in range(len(sequence) + 1)})


def below(nodes, prefix):
    return [other for other in nodes if other[:-1] == prefix and other]


@given(SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_nodes_are_the_prefixes(sequences):
    trie, nodes = build(sequences), prefixes(sequences)
    number = {prefix: node for node, prefix in enumerate(nodes)}
    assert len(trie) == len(nodes)
    assert (trie.token[ROOT], trie.parent[ROOT]) == (-1, -1)
    assert trie.end.tolist() == [number[sequence] for sequence in sequences]
    assert trie.length.tolist() == [len(sequence) for sequence in sequences]
    for node, prefix in enumerate(nodes):
        one = np.array([node])
        if prefix:
            assert (trie.token[node], trie.parent[node]) == (prefix[-1], number[prefix[:-1]])
        assert trie.depth[node] == len(prefix)
        children = [number[child] for child in below(nodes, prefix)]
        assert trie.children_of(one).tolist() == children
        assert trie.degree(one).tolist() == [len(children)]
        inside = [i for i, s in enumerate(sequences) if s[: len(prefix)] == prefix]
        assert sorted(trie.titles[trie.low[node] : trie.high[node]]) == inside
        assert trie.titles_at(one).tolist() == [i for i in inside if sequences[i] == prefix]
        assert trie.longest[node] == max(len(sequences[i]) for i in inside)


@given(SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_chains_end_where_sequences_part(sequences):
    trie, nodes = build(sequences), prefixes(sequences)
    for node, prefix in enumerate(nodes):
        chain = [prefix]
        while len(only := below(nodes, chain[-1])) == 1:
            chain += only
        assert trie.chains(np.array([node])).tolist() == [nodes.index(part) for part in chain]


@given(SEQUENCES, st.data())
@settings(max_examples=60, deadline=None)
def test_above_adds_the_ancestors_that_are_not_done(sequences, data):
    trie, nodes = build(sequences), prefixes(sequences)
    chosen = data.draw(st.lists(st.sampled_from(range(len(nodes)))))
    marked = data.draw(st.sampled_from(range(len(nodes))))
    done = {nodes[marked][:size] for size in range(len(nodes[marked]) + 1)}
    expected = {
        nodes[node][:size] for node in chosen for size in range(len(nodes[node]) + 1)
    } - done
    found = trie.above(
        np.array(chosen, dtype=np.int64), np.array([prefix in done for prefix in nodes])
    )
    assert [nodes[node] for node in found] == sorted(expected)


def test_many_nodes_at_once_keep_their_order():
    trie = build([(1, 2), (1, 3), (4,), (4,), (4, 5)])
    nodes = np.array([4, 0, 1])  # the node of (4,), the root, that of (1,)
    assert trie.token[trie.children_of(nodes)].tolist() == [5, 1, 4, 2, 3]
    assert trie.titles_at(nodes).tolist() == [2, 3]
    assert trie.chains(np.array([4, 3])).tolist() == [4, 5, 3]
