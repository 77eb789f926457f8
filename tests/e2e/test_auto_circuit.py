# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's scripts with other imports, and its recorded numbers."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import ablate
import numpy as np
import pytest
from ablate.auto_circuit import use
from ablate.auto_circuit.data import load_datasets_from_json
from ablate.auto_circuit.experiment_utils import load_tl_model
from ablate.auto_circuit.metrics.area_under_curve import measurements_auc
from ablate.auto_circuit.metrics.official_circuits.measure_roc import measure_roc, measure_task_roc
from ablate.auto_circuit.metrics.prune_metrics.answer_diff_percent import answer_diff_percent
from ablate.auto_circuit.metrics.prune_metrics.measure_prune_metrics import measure_prune_metrics, measurement_figs
from ablate.auto_circuit.metrics.prune_metrics.prune_metrics import (
    CLEAN_KL_DIV_METRIC,
    LOGIT_DIFF_PERCENT_METRIC,
    PRUNE_METRICS,
)
from ablate.auto_circuit.metrics.prune_scores_similarity import (
    prune_score_similarities,
    prune_score_similarities_plotly,
)
from ablate.auto_circuit.prune import run_circuits
from ablate.auto_circuit.prune_algos.ACDC import acdc_prune_scores
from ablate.auto_circuit.prune_algos.activation_magnitude import activation_magnitude_prune_scores
from ablate.auto_circuit.prune_algos.circuit_probing import circuit_probing_prune_scores
from ablate.auto_circuit.prune_algos.edge_attribution_patching import edge_attribution_patching_prune_scores
from ablate.auto_circuit.prune_algos.ground_truth import ground_truth_prune_scores
from ablate.auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores
from ablate.auto_circuit.prune_algos.prune_algos import (
    GROUND_TRUTH_PRUNE_ALGO,
    LOGIT_DIFF_GRAD_PRUNE_ALGO,
    PROB_GRAD_PRUNE_ALGO,
    PRUNE_ALGO_DICT,
    PRUNE_ALGOS,
    RANDOM_PRUNE_ALGO,
    run_prune_algos,
)
from ablate.auto_circuit.prune_algos.random_edges import random_prune_scores
from ablate.auto_circuit.prune_algos.subnetwork_probing import subnetwork_probing_prune_scores
from ablate.auto_circuit.tasks import TASK_DICT, Task
from ablate.auto_circuit.types import AblationType, EdgeCounts, PatchType
from ablate.auto_circuit.utils.ablation_activations import batch_src_ablations, src_ablations
from ablate.auto_circuit.utils.graph_utils import (
    edge_counts_util,
    mask_fn_mode,
    patch_mode,
    patchable_model,
    set_all_masks,
    set_mask_batch_size,
    train_mask_mode,
)
from ablate.auto_circuit.utils.tensor_ops import desc_prune_scores, prune_scores_threshold
from ablate.auto_circuit.visualize import draw_seq_graph
from daemon import goldens
from safetensors.numpy import load_file

CASES = goldens() / "cases" / "tiny-ioi"
GRADIENT = {"official_edges": None, "grad_function": "logit", "answer_function": "avg_diff"}


def case_file(name):
    path = CASES / name
    if not path.is_file():
        pytest.skip(f"{path} is not among the compact reference data")
    return path


def recorded(case):
    return json.loads(case_file(f"{case}.json").read_text())


def arrays_of(case):
    return load_file(case_file(f"{case}.safetensors"))


def scores_of(case, name):
    arrays = arrays_of(case)
    return {key[len(name) + 1 :]: array for key, array in arrays.items() if key.startswith(name + "/")}


def same_scores(scores, want):
    largest = max(np.abs(array[np.isfinite(array)]).max(initial=0) for array in want.values())
    assert set(scores) == set(want)
    for module, array in want.items():
        np.testing.assert_allclose(scores[module], array, rtol=0, atol=2e-5 * max(largest, 1e-6), err_msg=module)


@pytest.fixture(scope="module")
def base(client):
    use(client)
    yield load_tl_model("tiny-ioi", "cpu")
    use(None)


@pytest.fixture(scope="module")
def loaders(base, ioi_path):
    """The goldens' rows: 0..7 and 8..15, in file order."""
    return load_datasets_from_json(base, ioi_path, "cpu", True, 4, (8, 8), shuffle=False)


@pytest.fixture
def model(daemon, base):
    made = patchable_model(base, True, "last_seq", separate_qkv=True)
    yield made
    made.graph.delete()


# --- signatures -----------------------------------------------------------------------------------

SIGNATURES = json.loads(Path(__file__).with_name("autocircuit_signatures.json").read_text())


@pytest.mark.parametrize("function", SIGNATURES)
def test_arguments_and_defaults_are_autocircuits(function):
    module, _, name = function.rpartition(".")
    parameters = inspect.signature(getattr(import_module(f"ablate.auto_circuit.{module}"), name)).parameters
    assert list(parameters) == [argument for argument, *_ in SIGNATURES[function]]
    for argument, *default in SIGNATURES[function]:
        ours = parameters[argument].default
        ours = f"{type(ours).__name__}.{ours.name}" if isinstance(ours, Enum) else ours
        ours = list(ours) if isinstance(ours, tuple) else ours  # as JSON has them
        assert ours == (pytest.approx(*default) if isinstance(ours, float) else [*default, inspect.Parameter.empty][0])


# --- data -----------------------------------------------------------------------------------------


def test_the_shuffle_is_autocircuits(base, ioi_path):
    order = recorded("g_dataset")["default_shuffle_seed42_order"]
    plain, _ = load_datasets_from_json(base, ioi_path, None, batch_size=1, train_test_size=(32, 0), shuffle=False)
    shuffled, _ = load_datasets_from_json(base, ioi_path, None, batch_size=1, train_test_size=(32, 0))
    rows, mixed = ([batch.clean[0].tolist() for batch in loader] for loader in (plain, shuffled))
    assert mixed == [rows[i] for i in order]


def test_batches_labels_and_answers_are_autocircuits(base, ioi_path):
    want = recorded("g_dataset")["batch_size_4_6_train_test_10_14"]
    options = {"batch_size": (4, 6), "train_test_size": (10, 14), "return_seq_length": True}
    train, test = load_datasets_from_json(base, ioi_path, None, **options)
    assert (len(train), len(test), train.seq_len) == (want["train_batches"], want["test_batches"], want["seq_len"])
    assert train.seq_labels == want["seq_labels"] and train.word_idxs == want["word_idxs"]
    assert [batch.clean.tolist() for batch in train] == want["train_clean_tokens"]
    assert [batch.clean.tolist() for batch in test] == want["test_clean_tokens"]
    assert [batch.answers.tolist() for batch in train] == want["train_answers"]
    assert [batch.wrong_answers.tolist() for batch in train] == want["train_wrong_answers"]
    assert [batch.batch_diverge_idx for batch in train] == want["batch_diverge_idx"]
    assert len({batch.key for batch in [*train, *test]}) == 4
    bare, _ = load_datasets_from_json(base, ioi_path, None, prepend_bos=False, **{**options, "batch_size": 4})
    want = recorded("g_dataset")["no_bos"]
    assert (bare.seq_len, bare.seq_labels, bare.word_idxs) == (want["seq_len"], want["seq_labels"], want["word_idxs"])


def test_datasets_that_cannot_be(base, tmp_path):
    def load(prompts, **options):
        path = tmp_path / "prompts.json"
        path.write_text(json.dumps({"prompts": prompts}))
        options = {"prepend_bos": False, "batch_size": 1, "train_test_size": (1, 1), "shuffle": False, **options}
        return load_datasets_from_json(base, path, None, **options)

    pair = {"clean": " went to", "corrupt": " gave a", "answers": [" to"], "wrong_answers": [" the"]}
    assert len(load([pair, pair])[1]) == 1
    with pytest.raises(ValueError, match="too few"):
        load([pair])
    with pytest.raises(ValueError, match="one length"):
        load([pair, {**pair, "clean": " went to the place"}])
    with pytest.raises(ValueError, match="an answer is one token"):
        load([pair, {**pair, "answers": [" to the"]}])
    with pytest.raises(ValueError, match="do not fill a batch"):
        load([pair, pair], batch_size=2)[0].resident(base.client, False)


# --- scripts of AutoCircuit's documentation -------------------------------------------------------


def test_getting_started(daemon, ioi_path, tmp_path):
    pytest.importorskip("plotly", reason="circuits are drawn by plotly")
    (tmp_path / "datasets").mkdir()
    shutil.copy(ioi_path, tmp_path / "datasets" / "ioi.json")
    script = Path(__file__).with_name("getting_started.py")
    environment = {**os.environ, "ABLATE_HOST": daemon.grpc}
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, check=True, timeout=120)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["patched"] == [4, 1000] and result["masked"] == 4
    gradient, eap, acdc, chance = result["kl"].values()
    for curve in (gradient, eap, chance):
        assert curve[-1][0] == 1519 and curve[-1][1] == pytest.approx(0, abs=1e-5)
    assert dict(map(tuple, gradient))[100] < dict(map(tuple, chance))[100]
    assert acdc[0][1] > acdc[-1][1] and len(acdc) < 7  # few taus, few sizes
    assert result["similarity"][LOGIT_DIFF_GRAD_PRUNE_ALGO.key]["Edge Attribution Patching"] == 1
    assert (tmp_path / "circuit.html").stat().st_size > 100_000
    want = recorded("e_metrics_proc_fact_qkv")["sweeps"]["TREE_PATCH/RESAMPLE"]["metrics"]["Clean KL Div"]
    np.testing.assert_allclose(gradient, want, rtol=1e-4, atol=2e-4)


def test_zero_ablate_an_edge(daemon, base):
    model = base
    tokens = model.to_tokens("Then, Alice and Emma went")
    model = patchable_model(model, factorized=True, slice_output="last_seq", separate_qkv=True, device="cpu")
    ablations = src_ablations(model, tokens, AblationType.ZERO)
    patch_edges = ["Resid Start->MLP 2", "MLP 2->A3.4.Q", "A3.4->Resid End"]
    with patch_mode(model, ablations, patch_edges):
        patched_out = model(tokens)
    assert patched_out.shape == (1, tokens.shape[1], 1000)
    assert np.abs(patched_out - model(tokens)).max() > 1e-3
    np.testing.assert_array_equal(model(tokens), base(tokens))
    assert sum(int((np.asarray(mask) == 1).sum()) for mask in model.patch_masks.values()) == 3


def test_patch_an_edge_behind_a_prefix(daemon, base):
    path = goldens() / "prompts" / "ioi_late.json"
    train_loader, test_loader = load_datasets_from_json(
        model=base, path=path, device="cpu", prepend_bos=True, batch_size=4, train_test_size=(4, 4),
        return_seq_length=True, tail_divergence=True, shuffle=False,
    )  # fmt: skip
    assert test_loader.diverge_idx == 16 - test_loader.seq_len > 0
    model = patchable_model(
        base, factorized=True, slice_output="last_seq", seq_len=test_loader.seq_len, separate_qkv=True,
        kv_caches=(train_loader.kv_cache, test_loader.kv_cache), device="cpu",
    )  # fmt: skip
    ablations = src_ablations(model, test_loader, AblationType.TOKENWISE_MEAN_CORRUPT)
    assert ablations.shape == np.asarray(ablations).shape == (len(model.srcs), 4, test_loader.seq_len, 128)
    with patch_mode(model, ablations, ["Resid Start->MLP 2", "MLP 2->A3.4.Q", "A3.4->Resid End"]):
        for batch in test_loader:
            patched_out = model(batch.clean)
            assert patched_out.shape == (4, test_loader.seq_len, 1000)
    scores = mask_gradient_prune_scores(
        model=model, dataloader=test_loader, official_edges=None, grad_function="logit",
        answer_function="avg_diff", mask_val=0.0,
    )  # fmt: skip
    assert {name: array.shape for name, array in scores.items()} == model.graph.modules
    whole = load_datasets_from_json(base, path, None, True, 4, (4, 4), return_seq_length=True, shuffle=False)[1]
    long = patchable_model(base, True, "last_seq", seq_len=16, separate_qkv=True)
    want = mask_gradient_prune_scores(long, whole, mask_val=0.0, **GRADIENT)
    for name, array in scores.items():
        np.testing.assert_allclose(array, want[name][test_loader.diverge_idx :], atol=1e-4)
    for batch, full in zip(test_loader, whole):
        np.testing.assert_allclose(model(batch.clean)[model.out_slice], long(full.clean)[long.out_slice], atol=1e-4)
    outs = run_circuits(model, test_loader, [0, 50, model.n_edges], scores, PatchType.TREE_PATCH)
    tree = [outs[model.n_edges][batch.key] for batch in test_loader]
    np.testing.assert_allclose(tree[0], long(next(iter(whole)).clean)[:, -1], atol=1e-4)
    model.graph.delete()
    long.graph.delete()


# --- numbers --------------------------------------------------------------------------------------

ALGORITHMS = {
    "mg_logit_avg_diff_m0": lambda m, d: mask_gradient_prune_scores(m, d, mask_val=0.0, **GRADIENT),
    "mg_logit_avg_diff_m0.7": lambda m, d: mask_gradient_prune_scores(m, d, mask_val=0.7, **GRADIENT),
    "mg_logit_avg_diff_ig10": lambda m, d: mask_gradient_prune_scores(m, d, integrated_grad_samples=10, **GRADIENT),
    "eap": lambda m, d: edge_attribution_patching_prune_scores(m, d, None),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_scores_are_autocircuits(model, loaders, name):
    same_scores(ALGORITHMS[name](model, loaders[0]), scores_of("d_scores_proc_fact_qkv", name))


def test_gradients_of_means(model, loaders):
    kind = AblationType.TOKENWISE_MEAN_CORRUPT
    with pytest.raises(ValueError, match="clean_corrupt"):
        mask_gradient_prune_scores(model, loaders[0], mask_val=0.0, ablation_type=kind, **GRADIENT)
    with pytest.raises(ValueError, match="exactly one"):
        mask_gradient_prune_scores(model, loaders[0], **GRADIENT)
    options = {"mask_val": 0.0, "ablation_type": kind, "clean_corrupt": None, **GRADIENT}
    want = scores_of("d_scores_proc_fact_qkv", "mg_logit_avg_diff_m0_TOKENWISE_MEAN_CORRUPT")
    same_scores(mask_gradient_prune_scores(model, loaders[0], **options), want)


def test_other_algorithms(model, loaders):
    train, test = loaders
    official = set(model.edge_dict[None][::50])
    truth = ground_truth_prune_scores(model, train, official)
    assert sum(float(array.sum()) for array in truth.values()) == len(official)
    assert all(edge.prune_score(truth) == 1 for edge in official)
    with pytest.raises(ValueError, match="official_edges"):
        ground_truth_prune_scores(model, train, None)
    first, second = random_prune_scores(model, train, None), random_prune_scores(model, train, None)
    assert any((first[name] != second[name]).any() for name in first)
    assert all((array >= 0).all() for array in activation_magnitude_prune_scores(model, train, None).values())
    acdc = acdc_prune_scores(model, train, None, tao_exps=[-2], tao_bases=[1])
    assert {float(value) for array in acdc.values() for value in np.unique(array)} == {np.float32(0.01), np.inf}
    with pytest.raises(NotImplementedError, match="test_mode"):
        acdc_prune_scores(model, train, None, test_mode=True)
    trained = subnetwork_probing_prune_scores(
        model, train, None, epochs=2, tree_optimisation=True, avoid_edges=official, validation_dataloader=test
    )
    assert len(trained.job.training_curve()) == 4 and trained.job.training_curve()[0].validation is not None
    sized = circuit_probing_prune_scores(model, train, official, epochs=1, circuit_sizes=["true_size", 300])
    assert {float(value) for array in sized.values() for value in np.unique(array)} <= {0, 1, 2}
    with pytest.raises(ValueError, match="true_size"):
        circuit_probing_prune_scores(model, train, None, epochs=1)


def test_scores_of_a_model_with_all_its_positions_are_refused(base, loaders):
    whole = patchable_model(base, factorized=True, slice_output=None, separate_qkv=True)
    with pytest.raises(NotImplementedError, match="slice_output=None.*last position"):
        mask_gradient_prune_scores(whole, loaders[0], mask_val=0.0, **GRADIENT)
    assert random_prune_scores(whole, loaders[0], None).keys() == whole.graph.modules.keys()


def test_circuits_are_autocircuits(model, loaders):
    case = recorded("c_circuits_proc_fact_qkv")
    arrays = arrays_of("c_circuits_proc_fact_qkv")
    train = loaders[0]
    edges = {name: case["edge_sets"][name] for name in ("none", "rand10pc", "rand90pc")}
    listed = model.edge_dict[None]
    for patch_type in PatchType:
        for name, indices in edges.items():
            scores = model.circuit_prune_scores([listed[i] for i in indices])
            for ablation in (AblationType.RESAMPLE, AblationType.ZERO, AblationType.TOKENWISE_MEAN_CORRUPT):
                key = f"logits/{patch_type.name}/{ablation.name}/{name}"
                if key not in arrays:
                    continue
                outs = run_circuits(model, train, [len(indices)], scores, patch_type, ablation)
                assert list(outs) == [len(indices)]
                got = np.concatenate([outs[len(indices)][batch.key] for batch in train])
                np.testing.assert_allclose(got, arrays[key], atol=1e-4, err_msg=key)


def test_circuits_at_several_positions(daemon, base, model, loaders):
    scores = mask_gradient_prune_scores(model, loaders[0], mask_val=0.0, **GRADIENT)
    everywhere = patchable_model(base, True, None, separate_qkv=True)
    counts = [0, 30, 1519]
    for patch_type in PatchType:
        for kind in (AblationType.RESAMPLE, AblationType.TOKENWISE_MEAN_CLEAN):
            last = run_circuits(model, loaders[1], counts, scores, patch_type, kind)
            outs = run_circuits(everywhere, loaders[1], counts, scores, patch_type, kind)
            assert list(outs) == list(last)
            for count, by_batch in outs.items():
                for key, logits in by_batch.items():
                    assert logits.shape == (4, 16, 1000)
                    np.testing.assert_allclose(logits[:, -1], last[count][key], atol=1e-4)
    assert not any(np.asarray(mask).any() for mask in everywhere.patch_masks.values())
    everywhere.graph.delete()


def test_counts_and_thresholds_are_autocircuits(model, loaders):
    case = recorded("e_metrics_proc_fact_qkv")
    want = case["edge_counts_util"]
    scores = scores_of("d_scores_proc_fact_qkv", "mg_logit_avg_diff_m0")
    assert edge_counts_util(model.edges, EdgeCounts.LOGARITHMIC) == want["LOGARITHMIC"]
    assert edge_counts_util(model.edges) == want["default"]
    assert edge_counts_util(model.edges, prune_scores=scores) == want["default_with_scores"]
    assert len(edge_counts_util(model.edges, EdgeCounts.ALL)) == want["ALL"]["len"]
    assert edge_counts_util(model.edges, [0.5, 3]) == [3, 759]
    assert edge_counts_util(model.edges, [0.5, 3, 9], true_edge_count=7) == [0, 3, 7, 9, 759, 1519]
    with pytest.raises(ValueError, match="prune_scores"):
        edge_counts_util(model.edges, EdgeCounts.GROUPS)
    for count, threshold in case["thresholds"].items():
        assert float(prune_scores_threshold(scores, int(count))) == pytest.approx(float(threshold), rel=1e-6)
    assert float(desc_prune_scores(scores)[0]) == pytest.approx(float(case["thresholds"]["1"]), rel=1e-6)


def test_source_outputs_are_autocircuits(model, loaders):
    arrays = arrays_of("c_src_ablations")
    batch = next(iter(loaders[0]))
    for kind in AblationType:
        got = src_ablations(model, loaders[0] if kind.mean_over_dataset else batch.corrupt, kind)
        assert got.shape == np.asarray(got).shape == (37, 4, 16, 128) and got.clone().detach() is got
        want = arrays.get(kind.name, np.zeros((37, 1, 1, 128)))
        while want.ndim < 4:
            want = want[:, None]  # axes that are constant were recorded once
        rows = 1 if kind is AblationType.RESAMPLE else 4  # of that one, its first row
        here = np.asarray(got)[:, :rows]
        np.testing.assert_allclose(here, np.broadcast_to(want, here.shape), atol=1e-4, err_msg=kind.name)


def test_ablations_by_batch_and_what_patches(model, loaders):
    batch = next(iter(loaders[0]))
    by_key = batch_src_ablations(model, loaders[0], AblationType.RESAMPLE, "corrupt")
    assert list(by_key) == [one.key for one in loaders[0]]
    with patch_mode(model, by_key[batch.key]):
        set_all_masks(model, 1.0)
        np.testing.assert_allclose(model(batch.clean), model.wrapped_model(batch.corrupt), atol=1e-4)
    kept = by_key[batch.key].ablation.id
    assert kept in {one.id for one in model.client.ablations()}
    del by_key
    assert kept not in {one.id for one in model.client.ablations()}
    with pytest.raises(TypeError, match="src_ablations"):
        with patch_mode(model, np.zeros((37, 4, 16, 128))):
            pass
    with pytest.raises(TypeError, match="PromptDataLoader"):
        src_ablations(model, batch.clean, AblationType.TOKENWISE_MEAN_CLEAN)


# --- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sweep", ["TREE_PATCH/RESAMPLE", "EDGE_PATCH/RESAMPLE", "TREE_PATCH/TOKENWISE_MEAN_CORRUPT"])
def test_metrics_and_areas_are_autocircuits(model, loaders, sweep):
    case = recorded("e_metrics_proc_fact_qkv")
    want = case["sweeps"][sweep]
    scores = scores_of("d_scores_proc_fact_qkv", "mg_logit_avg_diff_m0")
    patch_type, ablation = sweep.split("/")
    outs = run_circuits(
        model, loaders[1], case["edge_counts"], scores, PatchType[patch_type], AblationType[ablation]
    )
    assert list(outs) == want["actual_counts"] and len(PRUNE_METRICS) == len(want["metrics"])
    for metric in PRUNE_METRICS:
        points = metric.metric_func(model, loaders[1], outs)
        np.testing.assert_allclose(points, want["metrics"][metric.key], rtol=1e-4, atol=2e-4, err_msg=metric.key)
        for name, curve in want["auc"].items():
            if name.startswith(metric.key) and name[len(metric.key) :] in ("", " (linear axes)"):
                exact = want["metrics"][metric.key]
                area = measurements_auc(exact, curve["log_x"], curve["log_y"], curve["y_min"])
                assert area == pytest.approx(curve["value"], rel=1e-4), name
    by_prompt = answer_diff_percent(model, loaders[1], outs, diff_of_means=False)
    if "logit_diff_percent_mean_of_ratios" in want:
        np.testing.assert_allclose(by_prompt[0], want["logit_diff_percent_mean_of_ratios"]["mean"], rtol=1e-4, atol=1e-3)
    assert by_prompt[2][-1][1].shape == (8,) and by_prompt[1][0][1] > 0


def test_areas_and_similarities_are_autocircuits():
    case = recorded("e_metrics_proc_fact_qkv")
    for example in case["auc_examples"]:
        points = [tuple(point) for point in example["points"]]
        area = measurements_auc(points, example["log_x"], example["log_y"], example["y_min"])
        assert area == pytest.approx(example["value"])
    with pytest.raises(ValueError, match="begin at 0 edges"):
        measurements_auc([(1, 2.0), (2, 3.0)], False, False, None)
    names = {"eap": "mg_logit_avg_diff_m0", "logprob": "mg_logprob_avg_val_m0"}
    scores = {short: scores_of("d_scores_proc_fact_qkv", name) for short, name in names.items()}
    counts = [int(count) for count in case["prune_score_similarities"]]
    for count, by_algo in prune_score_similarities(scores, counts).items():
        want = case["prune_score_similarities"][str(count)]
        assert by_algo["eap"] == pytest.approx({name: want["eap"][name] for name in names}, abs=1e-6)


@pytest.fixture
def task(daemon, base, ioi_path):
    def official(model):
        return set(model.edge_dict[None][::100])

    made = Task("tiny", "Tiny IOI", (4, 8), (2, 1), False, "tiny-ioi", str(ioi_path), _true_edge_func=official)
    yield made
    made.model.graph.delete()
    TASK_DICT.pop("tiny")


def test_a_task_through_algorithms_and_metrics(task):
    algos = [GROUND_TRUTH_PRUNE_ALGO, RANDOM_PRUNE_ALGO, LOGIT_DIFF_GRAD_PRUNE_ALGO, PROB_GRAD_PRUNE_ALGO]
    scores = run_prune_algos([task], algos)
    assert list(scores["tiny"]) == [algo.key for algo in algos]
    measured = measure_prune_metrics(
        [AblationType.RESAMPLE, AblationType.ZERO],
        [CLEAN_KL_DIV_METRIC, LOGIT_DIFF_PERCENT_METRIC],
        scores,
        PatchType.TREE_PATCH,
        test_edge_counts=[0, 100, 1519],
    )
    kl = dict(measured[AblationType.RESAMPLE]["Clean KL Div"]["tiny"][LOGIT_DIFF_GRAD_PRUNE_ALGO.key])
    assert kl[1519] == pytest.approx(0, abs=1e-4) and kl[100] < kl[0]
    rates = measure_roc(scores)["tiny"]["Official Circuit"]
    assert rates[0] == (0, 0) and (0, 1) in rates and rates[-1] == (1, 1)
    assert task.true_edge_count == 16 and len(PRUNE_ALGOS) == len(PRUNE_ALGO_DICT) == 18
    pytest.importorskip("plotly", reason="curves are drawn by plotly")
    figures = measurement_figs(measured, auc_plots=True)
    assert len(figures) == 8 and len(figures[0].data) == len(algos)
    [first, second] = prune_score_similarities_plotly(scores, [100], ground_truths=True).data
    assert first.z[0][0] == 1 and first.x == ("GT", "Random", "EAP", "Edge Answer Prob Gradient At Clean")
    assert second.z[2][2] == 1


# --- pictures -------------------------------------------------------------------------------------


def test_a_circuit_is_drawn(model, loaders, tmp_path):
    pytest.importorskip("plotly", reason="circuits are drawn by plotly")
    edges = ["Resid Start->MLP 1", "MLP 1->MLP 2", "MLP 1->A3.2.Q", "MLP 2->A3.2.Q", "A3.2->Resid End"]
    with patch_mode(model, src_ablations(model, loaders[0], AblationType.TOKENWISE_MEAN_CORRUPT), edges):
        pass
    prune_scores = model.current_patch_masks_as_prune_scores()
    path = tmp_path / "circuit.html"
    figure = draw_seq_graph(model, prune_scores, file_path=str(path), layer_spacing=True)
    [diagram] = figure.data
    assert sorted(label.split("<br>")[0] for label in diagram.link.label) == sorted(edges)
    assert set(diagram.node.label) == {"Embed", "MLP 1", "MLP 2", "A3.2", ""}
    assert list(diagram.link.value) == [1.0] * len(edges) and path.stat().st_size > 10000
    assert [*draw_seq_graph(model).data[0].link.value] == [1.0] * len(edges)
    run_circuits(model, loaders[0], [3], prune_scores, render_graph=True, render_file_path=str(path))


def test_a_diagram_for_each_position(daemon, base, ioi_path):
    pytest.importorskip("plotly", reason="circuits are drawn by plotly")
    train, _ = load_datasets_from_json(base, ioi_path, None, True, 4, (4, 4), return_seq_length=True)
    model = patchable_model(base, True, "last_seq", seq_len=train.seq_len, separate_qkv=True)
    scores = mask_gradient_prune_scores(model, train, mask_val=0.0, **GRADIENT)
    figure = draw_seq_graph(model, scores, 1.0, seq_labels=train.seq_labels, orientation="v")
    assert 1 < len(figure.data) == len(figure.layout.annotations) < 16
    assert figure.layout.annotations[-1].text == "<b>to</b>" and figure.data[-1].domain.y[0] == 0
    drawn = sum(len(diagram.link.value) for diagram in figure.data)
    assert drawn == sum(int((np.abs(array) >= 1.0).sum()) for array in scores.values())
    assert len(draw_seq_graph(model, scores, 1.0, show_all_seq_pos=True).data) == 16
    model.graph.delete()


def test_edges_of_one_position(daemon, base, ioi_path):
    train, _ = load_datasets_from_json(base, ioi_path, None, True, 4, (4, 4), return_seq_length=True)
    model = patchable_model(base, True, "last_seq", seq_len=train.seq_len, separate_qkv=True)
    official = set(model.edge_dict[5][::30])
    rates = measure_task_roc(model, official, model.circuit_prune_scores(official))
    assert (0, 1) in rates
    options = {"epochs": 1, "tree_optimisation": True, "avoid_lambda": 1e6, "regularize_lambda": 0.01}
    trained = subnetwork_probing_prune_scores(model, train, None, avoid_edges=official, **options)
    elsewhere = [model.edge_name_dict[4][edge.name].prune_score(trained) for edge in official]
    assert max(edge.prune_score(trained) for edge in official) < 1e-3 < 0.05 < max(elsewhere)
    missing = next(iter(official)).name + "[16]"
    with pytest.raises(ablate.AblateError):
        subnetwork_probing_prune_scores(model, train, None, avoid_edges={missing}, **options)
    model.graph.delete()


# --- masks ----------------------------------------------------------------------------------------


def test_masks_can_be_assigned_to(model):
    edge = model.edge_dict[None][40]
    edge.patch_mask(model).data[edge.patch_idx] = 0.25
    assert float(edge.patch_mask(model).data[edge.patch_idx]) == 0.25
    assert edge.prune_score(model.current_patch_masks_as_prune_scores()) == 0.25
    set_all_masks(model, 0.5)
    assert all((np.asarray(mask) == 0.5).all() for mask in model.patch_masks.values())
    with pytest.raises(NotImplementedError, match="on the daemon"):
        edge.dest.module(model)


def test_modes_of_masks(model, loaders):
    batch = next(iter(loaders[0]))
    ablations = src_ablations(model, batch.corrupt)
    with patch_mode(model, ablations):
        set_all_masks(model, 0.0)
        with mask_fn_mode(model, "sigmoid"):
            half = model(batch.clean)
        set_all_masks(model, 0.5)
        np.testing.assert_allclose(half, model(batch.clean), atol=1e-4)
        with set_mask_batch_size(model, 4):
            assert model.graph.mask_batch_size == 4
            np.testing.assert_allclose(half, model(batch.clean), atol=1e-4)
    assert model.graph.mask_batch_size is None and model.graph.mask_fn == (None, 0.0)


def test_masks_as_parameters(model, loaders):
    torch = pytest.importorskip("torch", reason="phase lens has it")
    batch = next(iter(loaders[0]))
    ablations = src_ablations(model, batch.corrupt)
    with train_mask_mode(model) as parameters:
        set_all_masks(model, 0.0)
        with patch_mode(model, ablations):
            out = model(batch.clean)[model.out_slice]
            rows = torch.arange(4)
            answers, wrong = (torch.as_tensor(np.asarray(a))[:, 0] for a in (batch.answers, batch.wrong_answers))
            (-(out[rows, answers] - out[rows, wrong]).mean()).backward()
        gradients = {name: parameter.grad.numpy().copy() for name, parameter in parameters.items()}
    from ablate.auto_circuit.data import PromptDataLoader

    one = PromptDataLoader(loaders[0].dataset, None, 0, batch_size=4)
    one.dataset = [loaders[0].dataset[i] for i in range(4)]
    same_scores(mask_gradient_prune_scores(model, one, mask_val=0.0, **GRADIENT), gradients)


# --- models from here ---------------------------------------------------------------------------------


def test_a_folder_or_a_hugging_face_model_goes_up(daemon, base, client):
    folder = goldens() / "models" / "tiny-ioi"
    tokens = np.arange(20).reshape(2, 10)
    want = client.load_model("tiny-ioi", progress=False)(tokens)
    config = SimpleNamespace(to_dict=lambda: json.loads((folder / "config.json").read_text()), _name_or_path="mine")
    weights = load_file(folder / "model.safetensors")
    backend = SimpleNamespace(to_str=(folder / "tokenizer.json").read_text)
    tokenizer = SimpleNamespace(backend_tokenizer=backend)
    in_memory = SimpleNamespace(config=config, state_dict=lambda: weights, tokenizer=tokenizer)
    for source in (folder, in_memory):
        model = patchable_model(source, True, "last_seq", separate_qkv=True)
        np.testing.assert_allclose(model(tokens), want, atol=1e-4)
        assert model.wrapped_model.has_tokenizer
        model.graph.delete()


def test_prompts_of_ids_need_no_model(model, tmp_path):
    path = tmp_path / "ids.json"
    pair = {"clean": [1, 2, 3], "corrupt": [1, 4, 3], "answers": [5], "wrong_answers": [6, 7]}
    path.write_text(json.dumps({"prompts": [pair, {**pair, "wrong_answers": [8]}]}))
    train, test = load_datasets_from_json(None, path, None, prepend_bos=False, batch_size=1, train_test_size=(1, 1))
    assert train.seq_len == 3 and test.diverge_idx == 0
    assert np.asarray(mask_gradient_prune_scores(model, test, mask_val=0.0, **GRADIENT).flat()).any()
    with pytest.raises(ValueError, match="prepend_bos"):
        load_datasets_from_json(None, path, None, batch_size=1, train_test_size=(1, 1))


# --- what cannot be -------------------------------------------------------------------------------


def test_what_cannot_be_says_why(model, base, loaders):
    with pytest.raises(TypeError, match="patchable already"):
        patchable_model(model, True)
    with pytest.raises(TypeError, match="cannot go to the daemon"):
        patchable_model(object(), True)
    with pytest.raises(TypeError, match="load_tl_model"):
        patchable_model("no-such-folder", True)
    with pytest.raises(ablate.AblateError, match="A9.9"):
        with patch_mode(model, src_ablations(model, [[1, 2]], AblationType.ZERO), ["A9.9->Resid End"]):
            pass
