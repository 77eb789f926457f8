# SPDX-License-Identifier: Apache-2.0
"""What a mask is besides its values: functions, rows for prompts, and gradients."""

import json

import ablate
import numpy as np
import pytest
from ablate.v1 import mask_pb2
from daemon import goldens

CASES = goldens() / "cases" / "tiny-ioi"
MLP1 = "blocks.1.hook_mlp_in"


@pytest.fixture
def prompts(tiny):
    """Four prompts and what ablates them, as token ids."""
    pairs = json.loads((goldens() / "prompts" / "ioi_abba.json").read_text())["prompts"][:4]
    clean = np.array(tiny.to_tokens([pair["clean"] for pair in pairs]))
    corrupt = np.array(tiny.to_tokens([pair["corrupt"] for pair in pairs]))
    return clean, corrupt


def run(graph, prompts, rows=slice(None), **options):
    clean, corrupt = prompts
    return np.array(graph(clean[rows], ablation="resample", ablation_input=corrupt[rows], **options))


def random_masks(graph, rows=None, low=0.0, high=1.0):
    random = np.random.default_rng(0)
    leading = () if rows is None else (rows,)
    return {
        name: random.uniform(low, high, leading + shape).astype(np.float32)
        for name, shape in graph.modules.items()
    }


@pytest.mark.parametrize("function", [None, "sigmoid"])
@pytest.mark.parametrize("options", [
    {}, {"separate_qkv": False}, {"seq_len": 16}, {"factorized": False}, {"factorized": False, "seq_len": 16},
], ids=str)  # fmt: skip
def test_a_row_for_each_prompt_is_each_prompts_own_pass(tiny, prompts, options, function):
    graph = tiny.graph(**options)
    masks = random_masks(graph, rows=4, low=-1.0)
    with graph.mask_fn_mode(function):
        with graph.set_mask_batch_size(4):
            assert graph.mask_batch_size == 4
            graph.set_patch_mask(masks)
            together = run(graph, prompts)
            for name, array in graph.get_patch_mask().items():
                np.testing.assert_array_equal(np.array(array), masks[name])
        assert graph.mask_batch_size is None
        for row in range(4):
            graph.set_patch_mask({name: array[row] for name, array in masks.items()})
            alone = run(graph, prompts, slice(row, row + 1))
            np.testing.assert_allclose(together[row], alone[0], atol=1e-4)
    graph.delete()


def test_rows_start_as_the_mask_and_the_first_row_is_kept(graph):
    graph.set_patch_mask({"A0.0->MLP 1": 0.5})
    graph.set_mask_batch_size(3)
    mask = np.array(graph.get_patch_mask()[MLP1])
    assert mask.shape == (3, *graph.modules[MLP1]) and (mask[:, 1] == 0.5).all()
    graph.set_patch_mask({MLP1: np.arange(3)[:, None] + np.zeros(graph.modules[MLP1], np.float32)})
    graph.set_patch_mask({"A0.1->MLP 1": 7.0})  # by name: every row
    mask = np.array(graph.get_patch_mask()[MLP1])
    assert (mask[:, 2] == 7).all() and list(mask[:, 3]) == [0, 1, 2]
    graph.set_mask_batch_size(2)
    assert (np.array(graph.get_patch_mask()[MLP1])[:, 3] == 0).all(), "the first row, twice"
    graph.set_mask_batch_size(None)
    assert np.array(graph.get_patch_mask()[MLP1]).shape == graph.modules[MLP1]


def test_a_batch_of_another_size_is_refused(graph, prompts):
    with graph.set_mask_batch_size(3):
        with pytest.raises(ablate.InvalidArgumentError, match="MASK_BATCH_MISMATCH"):
            run(graph, prompts)
    run(graph, prompts)


def test_sigmoid_is_the_sigmoid_of_the_mask(graph, prompts):
    masks = random_masks(graph, low=-2, high=2)
    graph.set_patch_mask({name: 1 / (1 + np.exp(-array)) for name, array in masks.items()})
    expected = run(graph, prompts)
    graph.set_patch_mask(masks)
    with graph.mask_fn_mode("sigmoid"):
        np.testing.assert_allclose(run(graph, prompts), expected, atol=2e-5)
    assert (run(graph, prompts) != expected).any(), "the mode ends with its block"


def test_random_masks_are_drawn_from_the_seed(graph, prompts):
    for arguments in (("hard_concrete", 0.0), (None, 0.5)):
        graph.set_patch_mask(0.3)
        with graph.mask_fn_mode(*arguments):
            first = run(graph, prompts, seed=1)
            np.testing.assert_array_equal(first, run(graph, prompts, seed=1))
            assert (first != run(graph, prompts, seed=2)).any()


def test_a_masks_state_belongs_to_its_graph(graph, tiny, prompts):
    other = tiny.graph()
    other.set_patch_mask(0.5)
    before = run(other, prompts)
    graph.set_mask_fn("hard_concrete", 0.2)
    graph.set_mask_batch_size(2)
    np.testing.assert_array_equal(run(other, prompts), before)
    assert other.mask_batch_size is None and other.mask_fn == (None, 0)
    assert graph.mask_batch_size == 2 and graph.mask_fn == ("hard_concrete", pytest.approx(0.2))
    other.delete()


def test_the_gradient_is_the_slope_of_the_loss(graph, prompts):
    clean, corrupt = prompts
    masks = random_masks(graph, low=-1, high=1)
    weights = np.random.default_rng(1).normal(size=(4, graph.model.cfg.d_vocab)).astype(np.float32)
    graph.set_patch_mask(masks)
    options = {"ablation": "resample", "ablation_input": corrupt, "seed": 5}
    with graph.mask_fn_mode("hard_concrete"):
        gradient = {k: np.array(v) for k, v in graph.mask_backward(clean, weights, **options).items()}
        largest = max(gradient, key=lambda name: np.abs(gradient[name]).max())
        index = np.unravel_index(np.abs(gradient[largest]).argmax(), gradient[largest].shape)
        losses, h = [], 1e-2
        for sign in (1, -1):
            moved = {name: array.copy() for name, array in masks.items()}
            moved[largest][index] += sign * h
            graph.set_patch_mask(moved)
            losses.append((np.array(graph(clean, **options), np.float64) * weights).sum())
    assert gradient[largest][index] == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=2e-2)


def test_a_gradient_for_each_prompt_sums_to_that_of_all(graph, prompts):
    clean, corrupt = prompts
    weights = np.random.default_rng(2).normal(size=(4, graph.model.cfg.d_vocab)).astype(np.float32)
    graph.set_patch_mask(0.4)
    options = {"ablation": "resample", "ablation_input": corrupt}
    whole = graph.mask_backward(clean, weights, **options)
    with graph.set_mask_batch_size(4):
        rows = graph.mask_backward(clean, weights, **options)
    for name, shape in graph.modules.items():
        assert np.array(rows[name]).shape == (4, *shape)
        largest = np.abs(np.array(whole[name])).max()
        np.testing.assert_allclose(np.array(rows[name]).sum(0), np.array(whole[name]), atol=1e-4 * largest)


def test_masks_train_under_an_optimizer_of_ones_own(graph, prompts):
    torch = pytest.importorskip("torch", reason="phase lens has it")
    clean, corrupt = prompts
    target = torch.as_tensor(np.array(graph(clean))).log_softmax(-1)
    graph.set_patch_mask(0.5)
    with graph.train_mask_mode() as masks:
        optimizer = torch.optim.Adam(masks.values(), lr=0.05)
        losses = []
        for _ in range(5):
            logits = graph(clean, ablation="resample", ablation_input=corrupt)
            loss = torch.nn.functional.kl_div(
                logits.log_softmax(-1), target, reduction="batchmean", log_target=True
            )
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(np.array(graph.get_patch_mask()[MLP1]), masks[MLP1].detach().numpy())


def test_a_backward_pass_wants_what_a_patched_pass_has(client, graph, prompts):
    clean, corrupt = prompts
    vocab = graph.model.cfg.d_vocab
    good = {"ablation": "resample", "ablation_input": corrupt}
    cases = [
        (np.zeros((3, vocab)), good, "GRADIENT_SHAPE"),
        (np.zeros((4, vocab - 1)), good, "GRADIENT_SHAPE"),
        (np.zeros(4 * vocab), good, "GRADIENT_SHAPE"),
        (np.zeros((4, vocab)), {}, "ABLATION_MISSING"),
    ]
    for gradient, options, reason in cases:
        with pytest.raises(ablate.InvalidArgumentError, match=reason):
            graph.mask_backward(clean, gradient, **options)
    with pytest.raises(ablate.InvalidArgumentError, match="GRADIENT_SHAPE"):
        list(client._call("MaskBackward", mask_pb2.MaskBackwardRequest()))
