"""Counts add: one after the other in any grouping; side by side, cycles are the larger."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from spikeloom.core.counts import Counts

NAMES = st.sampled_from(("a", "b", "c"))
AMOUNTS = st.integers(0, 2**70)


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    return Counts(
        draw(st.dictionaries(st.tuples(NAMES, NAMES, NAMES), AMOUNTS, max_size=5)),
        draw(st.dictionaries(NAMES, AMOUNTS)),
        draw(AMOUNTS),
        draw(st.dictionaries(st.tuples(NAMES, NAMES), AMOUNTS, max_size=4)),
        tuple(draw(st.lists(NAMES, max_size=3, unique=True))),
        draw(st.booleans()),
    )


@settings(deadline=None)
@given(counts(), counts(), counts())
def test_then_and_beside_are_associative(a: Counts, b: Counts, c: Counts) -> None:
    assert a.then(b).then(c) == a.then(b.then(c))
    assert a.beside(b).beside(c) == a.beside(b.beside(c))


@settings(deadline=None)
@given(counts())
def test_nothing_changes_nothing(a: Counts) -> None:
    assert a.then(Counts()) == a == Counts().then(a)
    assert a.beside(Counts()) == a == Counts().beside(a)


@settings(deadline=None)
@given(counts(), counts())
def test_the_order_of_the_two_matters_only_for_the_order_of_layers_and_warnings(a: Counts, b: Counts) -> None:
    for there, back in ((a.then(b), b.then(a)), (a.beside(b), b.beside(a))):
        assert (there.actions, there.layer_cycles, there.cycles, there.statistics, there.expected) == (
            back.actions, back.layer_cycles, back.cycles, back.statistics, back.expected
        )  # fmt: skip
        assert set(there.warnings) == set(back.warnings)


@settings(deadline=None)
@given(counts(), counts())
def test_actions_add_either_way_and_cycles_add_or_take_the_larger(a: Counts, b: Counts) -> None:
    then, beside = a.then(b), a.beside(b)
    for key in a.actions.keys() | b.actions.keys():
        assert then.actions[key] == beside.actions[key] == a.actions.get(key, 0) + b.actions.get(key, 0)
    assert then.cycles == a.cycles + b.cycles
    assert beside.cycles == max(a.cycles, b.cycles)
    for layer in a.layer_cycles.keys() | b.layer_cycles.keys():
        one, two = a.layer_cycles.get(layer, 0), b.layer_cycles.get(layer, 0)
        assert then.layer_cycles[layer] == one + two
        assert beside.layer_cycles[layer] == max(one, two)
    assert then.expected is (a.expected or b.expected)


@settings(deadline=None)
@given(counts(), counts())
def test_joining_leaves_both_as_they_were(a: Counts, b: Counts) -> None:
    before = (dict(a.actions), dict(a.layer_cycles), dict(b.actions))
    a.then(b)
    a.beside(b)
    assert before == (a.actions, a.layer_cycles, b.actions)


@settings(deadline=None)
@given(counts())
def test_layers_hold_every_action_and_their_sum_is_the_total(a: Counts) -> None:
    assert set(a.layers()) == {key[0] for key in a.actions} | set(a.layer_cycles)
    for instance, action in {key[1:] for key in a.actions}:
        assert a.total(instance, action) == sum(a.of(layer).get(f"{instance}.{action}", 0) for layer in a.layers())
    assert sum(len(a.of(layer)) for layer in a.layers()) == len(a.actions)


def test_a_warning_is_said_once() -> None:
    assert Counts(warnings=("a", "b")).then(Counts(warnings=("b", "c"))).warnings == ("a", "b", "c")
