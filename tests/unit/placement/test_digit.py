"""A rank's part of a view, by brute force: which elements it has, and where they are in its own storage."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from gt.placement.digit import (
    OfStorage,
    Partial,
    ShardedDim,
    Underivable,
    View,
    local_elements,
    local_weight,
    part,
    row_major,
    without_digit,
)

SIZES = (1, 2, 3, 4, 6, 8, 12)
CHAINS = 3000


def elements(view: View) -> list[int]:
    """The places of a view's elements in its storage, row-major."""
    return [view.offset + sum(i * s for i, s in zip(index, view.stride, strict=True)) for index in indices(view.size)]


def indices(size: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, size))


def owner(place: int, weight: int, count: int) -> int:
    return (place // weight) % count


def own_storage(count: int, placed: OfStorage, sizes: tuple[int, ...], rank: tuple[int, ...]) -> list[int]:
    """The elements that a rank has, in the order of its own storage."""
    digits = [(p, sizes[a], rank[a]) for a, p in enumerate(placed) if type(p) is int]
    return [i for i in range(count) if all(owner(i, w, n) == r for w, n, r in digits)]


def wanted(view: View, shards: list[tuple[ShardedDim, int, int]]) -> list[int]:
    """The places of the elements of a view whose indices belong to a rank. `shards`: each with count and coordinate."""
    places = zip(indices(view.size), elements(view), strict=True)
    return [place for index, place in places if all(owner(index[s.dim], s.weight, n) == r for s, n, r in shards)]


def check(view: View, count: int, placed: OfStorage, sizes: tuple[int, ...]) -> bool:
    """Whether the parts of a view are derived; raises AssertionError if they are not the right ones."""
    found = part(view, placed, sizes)
    if isinstance(found, Underivable):
        return False
    local, seen = found
    for rank in indices(sizes):
        own = own_storage(count, placed, sizes, rank)
        assert len(own) == local_elements(count, placed, sizes)
        shards = [(s, sizes[a], rank[a]) for a, s in enumerate(seen) if isinstance(s, ShardedDim)]
        assert [own[place] for place in elements(local)] == wanted(view, shards)
    return True


def can_be_derived(view: View, weight: int, count: int, stored: int) -> bool:
    """Whether some digit of some dim gives every rank a part that is a view, the same for all."""
    placed, sizes = (weight,), (count,)
    for dim, n in enumerate(view.size):
        for w in (w for w in range(1, n + 1) if n % (w * count) == 0):
            local = None
            for r in range(count):
                own = {place: k for k, place in enumerate(own_storage(stored, placed, sizes, (r,)))}
                places = wanted(view, [(ShardedDim(dim, w), count, r)])
                if any(place not in own for place in places):
                    break
                found = [own[place] for place in places]
                if local not in (None, found) or not is_affine(found, (*view.size[:dim], n // count, *view.size[dim + 1 :])):
                    break
                local = found
            else:
                return True
    return False


def is_affine(places: list[int], size: tuple[int, ...]) -> bool:
    at = dict(zip(indices(size), places, strict=True))
    zero = (0,) * len(size)
    steps = [at[(*zero[:d], 1, *zero[d + 1 :])] - at[zero] if n > 1 else 0 for d, n in enumerate(size)]
    return all(place == at[zero] + sum(i * s for i, s in zip(index, steps, strict=True)) for index, place in at.items())


# -- random chains of views ------------------------------------------------------------------------------------------------


def chain(rng: random.Random, size: tuple[int, ...]) -> View:
    view = View(size, row_major(size), 0)
    for _ in range(rng.randrange(6)):
        view = rng.choice((permuted, sliced, selected, split, merged, expanded, diagonal, unfolded))(rng, view)
    return view


def changed(view: View, dim: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, dims: int = 1) -> View:
    after = dim + dims
    return View(
        (*view.size[:dim], *size, *view.size[after:]),
        (*view.stride[:dim], *stride, *view.stride[after:]),
        view.offset + offset,
    )


def permuted(rng: random.Random, view: View) -> View:
    order = rng.sample(range(len(view.size)), len(view.size))
    return View(tuple(view.size[d] for d in order), tuple(view.stride[d] for d in order), view.offset)


def sliced(rng: random.Random, view: View) -> View:
    if not view.size:
        return view
    dim = rng.randrange(len(view.size))
    n, s = view.size[dim], view.stride[dim]
    start, step = rng.choice([0, 0, rng.randrange(n)]), rng.choice([1, 1, 2])
    length = rng.choice([-(-(n - start) // step), max(1, (n - start) // step // 2)])
    return changed(view, dim, (length,), (s * step,), start * s)


def selected(rng: random.Random, view: View) -> View:
    if len(view.size) < 2:
        return view
    dim = rng.randrange(len(view.size))
    return changed(view, dim, (), (), rng.randrange(view.size[dim]) * view.stride[dim])


def split(rng: random.Random, view: View) -> View:
    if not view.size or len(view.size) > 5:
        return view
    dim = rng.randrange(len(view.size))
    n, s = view.size[dim], view.stride[dim]
    inner = rng.choice([k for k in range(1, n + 1) if n % k == 0])
    return changed(view, dim, (n // inner, inner), (s * inner, s))


def merged(rng: random.Random, view: View) -> View:
    pairs = [d for d in range(len(view.size) - 1) if view.stride[d] == view.stride[d + 1] * view.size[d + 1]]
    if not pairs:
        return view
    dim = rng.choice(pairs)
    return changed(view, dim, (view.size[dim] * view.size[dim + 1],), (view.stride[dim + 1],), dims=2)


def expanded(rng: random.Random, view: View) -> View:
    dim = rng.randrange(len(view.size) + 1)
    return changed(view, dim, (2,), (0,), dims=0) if len(view.size) < 5 else view


def diagonal(rng: random.Random, view: View) -> View:
    if len(view.size) < 2:
        return view
    n = min(view.size[:2])
    return View((*view.size[2:], n), (*view.stride[2:], view.stride[0] + view.stride[1]), view.offset)


def unfolded(rng: random.Random, view: View) -> View:
    if not view.size or len(view.size) > 4:
        return view
    dim = rng.randrange(len(view.size))
    n, s = view.size[dim], view.stride[dim]
    length, step = rng.randint(1, n), rng.randint(1, 3)
    return changed(view, dim, ((n - length) // step + 1, length), (s * step, s))


def placements(rng: random.Random, size: tuple[int, ...], sizes: tuple[int, ...]) -> OfStorage:
    """Digits of a dense tensor that do not overlap."""
    stride, placed, lowest = row_major(size), list[int | Partial | None](), dict(enumerate(size))
    for count in sizes:
        dims = [d for d, left in lowest.items() if left % count == 0]
        if not dims or rng.random() < 0.15:
            placed.append(rng.choice([None, Partial.SUM]))
            continue
        dim = rng.choice(dims)
        weight = rng.choice([w for w in range(1, lowest[dim] + 1) if lowest[dim] % (w * count) == 0])
        placed.append(weight * stride[dim])
        lowest[dim] = weight
    return tuple(placed)


@pytest.mark.parametrize("sizes", [(2,), (3,), (2, 2), (2, 3), (2, 2, 2)], ids=str)
def test_parts_of_random_chains_of_views(sizes: tuple[int, ...]) -> None:
    rng, seen = random.Random(str(sizes)), Counter[bool]()
    while seen.total() < CHAINS // 5:
        size = tuple(rng.choice(SIZES) for _ in range(rng.randint(1, 3)))
        count, placed = row_major((2, *size))[0], placements(rng, size, sizes)
        view = chain(rng, size)
        assert view.extent <= count
        if any(type(p) is int for p in placed):
            seen[check(view, count, placed, sizes)] += 1
    assert seen[True] > seen.total() * 0.5


def test_almost_every_view_that_can_be_derived_is() -> None:
    """What is missed would be gathered without need."""
    rng, seen = random.Random(0), Counter[str]()
    while seen.total() < CHAINS // 5:
        size = tuple(rng.choice(SIZES) for _ in range(rng.randint(1, 3)))
        (weight,), view = placements(rng, size, (2,)), chain(rng, size)
        if type(weight) is not int:
            continue
        if not isinstance(without_digit(view, weight, 2), str):
            seen["derived"] += 1
        elif can_be_derived(view, weight, 2, row_major((2, *size))[0]):
            seen["missed"] += 1
        else:
            seen["underivable"] += 1
    assert seen["derived"] > 200, seen
    assert seen["missed"] <= 0.02 * seen.total(), seen


def test_digits_that_overlap_are_no_placement() -> None:
    dense = View((10,), (1,), 0)
    assert isinstance(part(dense, (5, 1), (2, 2)), Underivable)
    assert isinstance(part(dense, (5, 5), (2, 2)), Underivable)
    assert part(View((12,), (1,), 0), (6, 3), (2, 2)) == (View((3,), (1,), 0), (ShardedDim(0, 6), ShardedDim(0, 3)))


def test_the_weight_in_a_ranks_own_storage() -> None:
    placed, sizes = (12, 2, Partial.SUM, 1), (2, 3, 2, 2)
    for axis, weight in ((0, 2), (1, 1), (3, 1)):
        assert local_weight(placed, sizes, axis) == weight
    assert local_elements(24, placed, sizes) == 2


def test_an_empty_view_needs_no_storage() -> None:
    assert View((0, 3), (3, 1), 5).extent == 0
    assert View((), (), 4).extent == 5
