"""The integer arithmetic under the generated world: permutations, their inverses, and equal numbers everywhere."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from searchgym.corpora.world.arithmetic import (
    AffinePermutation,
    GridPermutation,
    Grouping,
    hash64,
    hash64_each,
    key,
)

seeds = st.integers(0, 2**64 - 1)


def test_hash64_gives_the_published_numbers() -> None:
    assert hash64() == 0
    assert hash64(0) == 16294208416658607535  # splitmix64's first output for state 0
    assert hash64(1, 2) != hash64(2, 1)
    assert hash64(-1) == hash64(2**64 - 1)
    assert hash64_each(7, 3, 9) == [hash64(7, i) for i in range(3, 9)]
    assert key("") == 0xCBF29CE484222325  # the FNV-1a offset
    assert key("a") == 0xAF63DC4C8601EC8C  # from the FNV test vectors


@given(st.integers(1, 10**7), seeds, st.data())
@settings(deadline=None)
def test_affine_permutations_invert(n: int, seed: int, data: st.DataObject) -> None:
    permutation = AffinePermutation(n, seed)
    x = data.draw(st.integers(0, n - 1))
    assert 0 <= permutation(x) < n
    assert permutation.inverse(permutation(x)) == x
    assert permutation(permutation.inverse(x)) == x


@given(st.integers(1, 10**4), st.integers(1, 10**4), seeds, st.data())
@settings(deadline=None)
def test_grid_permutations_invert(a: int, b: int, seed: int, data: st.DataObject) -> None:
    permutation = GridPermutation(a, b, seed)
    x = data.draw(st.integers(0, a * b - 1))
    assert 0 <= permutation(x) < a * b
    assert permutation.inverse(permutation(x)) == x
    assert permutation(permutation.inverse(x)) == x


@given(st.integers(1, 60), st.integers(1, 60), seeds)
@settings(max_examples=30, deadline=None)
def test_both_are_permutations_of_the_whole_range(a: int, b: int, seed: int) -> None:
    n = a * b
    assert sorted(map(GridPermutation(a, b, seed), range(n))) == list(range(n))
    assert sorted(map(AffinePermutation(n, seed), range(n))) == list(range(n))


def test_a_grid_permutation_looks_random() -> None:
    # Neighbours must not share halves more often than chance (1 in 40) would have it.
    permutation = GridPermutation(40, 40, 7)
    same = sum(permutation(x) // 40 == permutation(x + 1) // 40 for x in range(1599))
    assert same < 90


@given(st.integers(1, 2000), st.integers(1, 500), st.integers(1, 4), seeds)
@settings(max_examples=60, deadline=None)
def test_groupings_agree_in_both_directions(items: int, hubs: int, per: int, seed: int) -> None:
    grouping = Grouping(items, hubs, per, seed)
    dealt = {hub: grouping.members(hub) for hub in range(hubs)}
    for hub, members in dealt.items():
        assert len(members) <= per
        assert all(grouping.hub(item) == hub for item in members)
    counts = Counter(item for members in dealt.values() for item in members)
    assert all(count == 1 for count in counts.values())
    assert all((grouping.hub(item) is not None) == (item in counts) for item in range(items))
