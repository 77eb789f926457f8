# SPDX-License-Identifier: Apache-2.0
"""Every kind of intervention, by names of both dialects: what it does to the numbers, where it stands in
the order, that it is listed, removed, reset, of its graph alone, and refused where it cannot fire."""

from pathlib import Path

import ablate
import numpy as np
import pytest
from daemon import Daemon

TOKENS = np.array([[1, 7, 3, 9, 4], [2, 5, 8, 6, 1], [3, 1, 4, 1, 5]])
OTHER = np.array([[1, 9, 3, 2, 4], [2, 6, 8, 3, 1], [9, 9, 2, 2, 7]])
Z, BRIDGE_Z = "blocks.0.attn.hook_z", "blocks.0.attn.o.hook_in"
DIALECTS = [Z, BRIDGE_Z]
WIDTH = 16  # tiny-ioi's d_head
VECTOR = np.sin(np.arange(WIDTH, dtype=np.float32))


def without(x, direction):
    return x - direction * (x @ direction)[..., None] / (direction @ direction)


# Each kind: its options, and what it makes of the selected (rows, pos, heads, d_head) `x`, where the other
# run has `there`.
KINDS = {
    "zero": ({}, lambda x, there: np.zeros_like(x)),
    "mean over rows": ({"over": "rows"}, lambda x, there: np.broadcast_to(x.mean(0, keepdims=True), x.shape)),
    "mean over both": (
        {"over": ["rows", "pos"]}, lambda x, there: np.broadcast_to(x.mean((0, 1), keepdims=True), x.shape)
    ),
    "set": ({"value": VECTOR}, lambda x, there: np.broadcast_to(VECTOR, x.shape)),
    "add": ({"value": VECTOR, "factor": -2.0}, lambda x, there: x - 2 * VECTOR),
    "scale": ({"factor": 1.5}, lambda x, there: 1.5 * x),
    "clamp": ({"min": -0.05, "max": 0.1}, lambda x, there: np.clip(x, -0.05, 0.1)),
    "project_out": ({"direction": VECTOR}, lambda x, there: without(x, VECTOR)),
    "patch": ({}, lambda x, there: there),
    "capture": ({}, lambda x, there: x),
    "capture_gradient": ({}, lambda x, there: x),
}  # fmt: skip
SELECTIONS = [{}, {"heads": [5, 1], "pos": [0, -1], "rows": [2, 0]}]


@pytest.fixture(scope="module")
def there(tiny):
    """What the patches take: the other prompts' z."""
    _, kept = tiny.run_with_cache(OTHER, Z, keep_on_server=True)
    yield kept
    kept.delete()


def op_of(kind):
    return kind.split()[0]


def add(graph, name, kind, there, **selection):
    options = dict(KINDS[kind][0])
    if kind == "patch":
        options["source"] = there
    return graph.add_hook(name, op_of(kind), **options, **selection)


def kept_by(hook):
    return np.asarray(next(iter(hook.activations.fetch().values())))


@pytest.mark.parametrize("selection", SELECTIONS, ids=["all", "some"])
@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_does_what_it_says_in_its_place_in_the_order(graph, there, kind, name, selection):
    before = graph.add_hook(Z, "capture")
    hook = add(graph, name, kind, there, **selection)
    after = graph.add_hook(BRIDGE_Z, "capture")
    assert [each.id for each in graph.hooks()] == [before.id, hook.id, after.id], "in the order they came"
    listed = graph.hooks()[1]
    assert (listed.name, listed.bridge_name, listed.op) == (Z, BRIDGE_Z, op_of(kind))
    assert listed.heads == tuple(selection.get("heads", ())) and listed.rows == tuple(selection.get("rows", ()))
    graph(TOKENS)
    x = kept_by(before)
    want = x.copy()
    chosen = np.ix_(
        selection.get("rows", range(3)), selection.get("pos", range(5)), selection.get("heads", range(8))
    )
    want[chosen] = KINDS[kind][1](x[chosen], np.asarray(there.fetch(Z)[Z])[chosen])
    np.testing.assert_allclose(kept_by(after), want, atol=1e-6)
    assert (kind.startswith("capture")) == bool((want == x).all()), "the kind changes something"


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_its_graphs_alone_until_it_is_removed_or_reset(tiny, graph, there, kind, name):
    other = tiny.graph()
    plain, model = np.asarray(graph(TOKENS)), np.asarray(tiny(TOKENS))
    changes = not kind.startswith("capture")
    for end in (lambda hook: hook.remove(), lambda hook: graph.reset_hooks()):
        hook = add(graph, name, kind, there)
        hooked = np.asarray(graph(TOKENS))
        assert (np.abs(hooked - plain).max() > 1e-3) == changes
        assert other.hooks() == []
        np.testing.assert_array_equal(other(TOKENS), plain)
        np.testing.assert_array_equal(tiny(TOKENS), model)
        end(hook)
        assert graph.hooks() == []
        np.testing.assert_array_equal(graph(TOKENS), plain)
        with pytest.raises(ablate.NotFoundError) as caught:
            hook.remove()
        assert caught.value.reason == "HOOK_ID_UNKNOWN"
    other.delete()


@pytest.fixture(scope="module")
def rotary():
    """A graph over a model of rotary positions, which has no position embedding."""
    root = Path(__file__).resolve().parents[1] / "golden" / "data" / "hooks"
    with Daemon(roots=[root]) as running, ablate.connect(running.grpc, arrays="numpy") as client:
        yield client.load_model("tiny-llama", progress=False).graph()


@pytest.mark.parametrize("name", ["hook_pos_embed", "pos_embed.hook_out"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_cannot_fire_is_refused_with_the_reason(rotary, kind, name):
    source = "activations-none"  # the name is looked at first
    with pytest.raises(ablate.FailedPreconditionError, match=f"'{name}' cannot fire: .* positions are rotary") as caught:
        add(rotary, name, kind, source)
    assert caught.value.reason == "HOOK_CANNOT_FIRE"
    assert rotary.hooks() == []
    with pytest.raises(ablate.FailedPreconditionError, match="cannot fire"):
        rotary.model.run_with_cache(TOKENS, name)
