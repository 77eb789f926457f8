# SPDX-License-Identifier: Apache-2.0
"""AutoCircuit's public functions beyond its documentation's scripts: tasks, published circuits, completeness, constrained
circuits, pictures of measurements, nodes by model, and the small helpers.
"""

from __future__ import annotations

import json
from functools import partial

import ablate
import numpy as np
import pytest
from ablate.auto_circuit import tasks, use
from ablate.auto_circuit.experiment_utils import (
    IOI_CIRCUIT_TYPE,
    ioi_circuit_single_template_logit_diff_percent,
    load_tl_model,
)
from ablate.auto_circuit.metrics import avoid_edges
from ablate.auto_circuit.metrics.area_under_curve import average_auc_plot
from ablate.auto_circuit.metrics.completeness_metrics.same_under_knockouts import (
    measure_same_under_knockouts,
    same_under_knockout,
    same_under_knockouts_fig,
)
from ablate.auto_circuit.metrics.completeness_metrics.train_same_under_knockouts import (
    train_same_under_knockout_prune_scores,
    train_same_under_knockouts,
)
from ablate.auto_circuit.metrics.official_circuits.circuits.ioi_official import ioi_true_edges
from ablate.auto_circuit.metrics.official_circuits.measure_roc import measure_roc
from ablate.auto_circuit.metrics.official_circuits.roc_plot import roc_plot, task_roc_plot
from ablate.auto_circuit.metrics.prune_metrics.prune_metrics_plot import edge_patching_plot
from ablate.auto_circuit.model_utils import transformer_lens_utils
from ablate.auto_circuit.prune_algos.prune_algos import PRUNE_ALGO_DICT
from ablate.auto_circuit.types import AblationType
from ablate.auto_circuit.utils.graph_utils import graph_edges, patchable_model
from ablate.auto_circuit.utils.misc import (
    get_most_similar_embeddings,
    percent_gpu_mem_used,
    remove_hooks,
    run_prompt,
)
from daemon import goldens


@pytest.fixture(scope="module")
def base(client):
    use(client)
    yield load_tl_model("tiny-ioi", "cpu")
    use(None)


@pytest.fixture
def task(daemon, base, ioi_path):
    def official(model):
        return set(model.edge_dict[None][::100])

    made = tasks.Task("tiny", "Tiny IOI", (4, 8), (2, 1), False, "tiny-ioi", str(ioi_path), _true_edge_func=official)
    made.init_task()
    yield made
    made.model.graph.delete()
    tasks.TASK_DICT.pop("tiny")


def test_the_registry_has_autocircuits_tasks_which_say_what_they_lack(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(tasks.TASKS) == 13 and {task.key for task in tasks.TASKS} <= set(tasks.TASK_DICT)
    for task in tasks.TASKS:
        wanted = NotImplementedError if task.autoencoder_input else FileNotFoundError
        with pytest.raises(wanted, match=task.key.partition("(")[0]):
            task.train_loader  # noqa: B018
    with pytest.raises(FileNotFoundError, match="ioi_ABBA_template_3_prompts.json"):
        ioi_circuit_single_template_logit_diff_percent(base, 4, True, "ABBA", 3)


def test_a_task_finds_its_dataset_below_the_working_directory(base, ioi_path, tmp_path, monkeypatch):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mine.json").write_bytes(ioi_path.read_bytes())
    monkeypatch.chdir(tmp_path)
    made = tasks.Task("mine", "Mine", 4, 2, True, "tiny-ioi", "mine")
    assert made.model.n_edges > 0 and made.true_edges is None and len(made.train_loader) == 2
    made.model.graph.delete()
    tasks.TASK_DICT.pop("mine")


@pytest.fixture(scope="module")
def gpt2_shaped(base):
    """GPT-2 small's 12 layers of 12 heads, narrow and random, with tiny-ioi's tokenizer."""
    width, vocab = 24, base.cfg.d_vocab
    draw = np.random.default_rng(0)
    weights = {"wte.weight": (vocab, width), "wpe.weight": (32, width), "ln_f.weight": (width,), "ln_f.bias": (width,)}
    for layer in range(12):
        block = {
            "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
            "attn.c_attn.weight": (width, 3 * width), "attn.c_attn.bias": (3 * width,),
            "attn.c_proj.weight": (width, width), "attn.c_proj.bias": (width,),
            "mlp.c_fc.weight": (width, 48), "mlp.c_fc.bias": (48,),
            "mlp.c_proj.weight": (48, width), "mlp.c_proj.bias": (width,),
        }  # fmt: skip
        weights |= {f"h.{layer}.{name}": shape for name, shape in block.items()}
    arrays = {
        name: (draw.normal(size=shape) * 0.3 + (1.0 if ".ln_" in f".{name}" and "weight" in name else 0.0))
        for name, shape in weights.items()
    }
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 12, "n_head": 12, "n_embd": width,
        "n_inner": 48, "n_positions": 32, "n_ctx": 32, "vocab_size": vocab, "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new", "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": True,
    }  # fmt: skip
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    tokenizer = goldens() / "models" / "tiny-ioi" / "tokenizer.json"
    made = base.client.upload_model((config, arrays), "gpt2", tokenizer=tokenizer, mode="tl", progress=False)
    yield made
    made.unload()


def test_a_task_with_a_published_circuit(gpt2_shaped, ioi_path):
    made = tasks.Task("ioi", "IOI", 4, 2, False, gpt2_shaped, str(ioi_path), _true_edge_func=ioi_true_edges)
    assert made.true_edge_count == 739  # as clients/python/tests has it of AutoCircuit
    assert {edge.dest.name for edge in made.true_edges if edge.src.name == "A9.9"} == {"Resid End"}
    made.model.graph.delete()
    tasks.TASK_DICT.pop("ioi")


@pytest.mark.parametrize("circuit", IOI_CIRCUIT_TYPE)
def test_what_the_ioi_circuit_recovers(gpt2_shaped, ioi_path, tmp_path, monkeypatch, circuit):
    folder = tmp_path / "datasets" / "ioi"
    folder.mkdir(parents=True)
    (folder / "ioi_ABBA_template_0_prompts.json").write_bytes(ioi_path.read_bytes())
    monkeypatch.chdir(tmp_path)
    factorized = circuit is not IOI_CIRCUIT_TYPE.NODES
    options = {"factorized": factorized, "circuit": circuit, "ablation_type": AblationType.RESAMPLE, "batch_size": 4}
    found = ioi_circuit_single_template_logit_diff_percent(gpt2_shaped, 8, True, "ABBA", 0, **options)
    count, mean, deviation, each, scores = found
    assert sum(int(np.asarray(array).sum()) for array in scores.values()) == count > 0
    each = np.asarray(each)
    assert each.shape == (8,) and mean == pytest.approx(each.mean())
    assert deviation == pytest.approx(each.std(ddof=1))
    # By hand: all edges but the circuit's carry the other prompt.
    rows = json.loads(ioi_path.read_text())["prompts"][:8]
    graph = gpt2_shaped.graph(factorized=factorized, seq_len=16)
    graph.set_patch_mask({name: 1 - np.asarray(array) for name, array in scores.items()})
    clean, corrupt = (
        gpt2_shaped.to_tokens([row[key] for row in rows], prepend_bos=True) for key in ("clean", "corrupt")
    )
    whole = gpt2_shaped(clean, slice_output="last_seq")
    kept = graph.forward(clean, ablation="resample", ablation_input=corrupt, slice_output="last_seq")
    graph.delete()
    answers, wrong = (
        [gpt2_shaped.to_single_token(row[key][0]) for row in rows] for key in ("answers", "wrong_answers")
    )
    at = np.arange(8)
    by_hand = (kept[at, answers] - kept[at, wrong]) / (whole[at, answers] - whole[at, wrong]) * 100
    np.testing.assert_allclose(each, by_hand, rtol=2e-3)


def test_completeness_is_the_clients(task):
    model, loader = task.model, task.test_loader
    circuit = model.circuit_prune_scores(task.true_edges)
    knockouts = model.circuit_prune_scores(list(task.true_edges)[:5])
    [row] = same_under_knockout(task, circuit, knockouts, 16, knockout_threshold=0.5)
    prompts = loader.resident(model.client, bool(model.prefix))
    [plain] = model.client.completeness(
        circuit, knockouts, [16], knockout_threshold=0.5, dataset=prompts, batch_size=8
    )
    assert row == (16, 5, plain.kl_div, plain.knockout_kl_div)
    measured = measure_same_under_knockouts(
        {"tiny": {"Official Circuit": circuit}}, {"tiny": {"Official Circuit": knockouts}}
    )
    assert measured["tiny"]["Official Circuit"][0][0] == 16
    pytest.importorskip("plotly", reason="pictures are drawn by plotly")
    figure = same_under_knockouts_fig(measured)
    assert list(figure.data[0].x)[0] == measured["tiny"]["Official Circuit"][0][2] and figure.data[1].name == "y=x"


def test_knockouts_are_trained_as_the_client_trains_them(task):
    model, loader = task.model, task.test_loader
    circuit = model.circuit_prune_scores(task.true_edges)
    trained = train_same_under_knockout_prune_scores(task, PRUNE_ALGO_DICT["Official Circuit"], circuit, 16, 0.2, 2, 1.0, "sigmoid")
    knockouts = ablate.Knockouts(circuit, 16, learning_rate=0.2, epochs=2, regularize_lambda=1, mask_fn="sigmoid")
    plain = model.graph.prune_scores(
        loader.resident(model.client, bool(model.prefix)), knockouts, batch_size=loader.batch_size, prepend_bos=False
    )
    for name, array in plain.items():
        np.testing.assert_array_equal(trained[name], array)
    by_task = train_same_under_knockouts({"tiny": {"Official Circuit": circuit}}, [], 0.2, 1, 1.0, "logit_diff")
    [row] = same_under_knockout(task, circuit, by_task["tiny"]["Official Circuit"], 16)
    assert row[0] == 16


def test_constrained_circuits_avoid_what_was_found(task, monkeypatch):
    quick = partial(avoid_edges.circuit_probing_prune_scores)
    asked = {}

    def probing(*args, **options):
        asked.update(options)
        return quick(*args, **{**options, "epochs": 2, "show_train_graph": False})

    monkeypatch.setattr(avoid_edges, "circuit_probing_prune_scores", probing)
    circuit = task.model.circuit_prune_scores(task.true_edges)
    found = avoid_edges.run_constrained_prune_funcs({"tiny": {"Official Circuit": circuit, "Random": circuit}})
    key = "Constrained Circuit Probing Official Circuit"
    try:
        assert list(found["tiny"]) == [key] and asked["avoid_edges"] == task.true_edges
        assert PRUNE_ALGO_DICT[key].short_name == "¬GT TP" and set(found["tiny"][key]) == set(circuit)
    finally:
        PRUNE_ALGO_DICT.pop(key)


def test_pictures_of_measurements(task):
    pytest.importorskip("plotly", reason="pictures are drawn by plotly")
    circuit = task.model.circuit_prune_scores(task.true_edges)
    rates = measure_roc({"tiny": {"Official Circuit": circuit}})
    [line] = task_roc_plot(rates).data
    assert line.name == "GT" and list(zip(line.x, line.y, strict=True)) == rates["tiny"]["Official Circuit"]
    wide = roc_plot({"b": {"x": [(0, 0), (1, 1)], "y": [(0, 1)]}, "a": {"x": [(0, 1)]}}, variable_width=True)
    assert [trace.line.width for trace in wide.data] == [4, 12, 4] and wide.layout.annotations[0].text == "a"
    curves = {"tiny": {"Random": [(0, 4.0), (10, 0.0)], "Official Circuit": [(0, 4.0), (10, 2.0)]}}
    bars = average_auc_plot(curves, False, False, None, inverse=False)
    by_name = dict(zip(bars.data[0].y, bars.data[0].x, strict=True))
    assert by_name["Random"] == 1.0 and set(by_name) == {"Random", "Ground Truth"}
    with pytest.raises(ValueError, match="Random"):
        average_auc_plot({"tiny": {"Official Circuit": curves["tiny"]["Random"]}}, False, False, None, False)
    rows = [{"Task": "Tiny IOI", "Algorithm": "Random", "X": x, "Y": y} for x, y in ((10, 1.0), (1, 2.0))]
    single = {"tiny": {"Official Circuit": [(16, 1.5)]}}
    figure = edge_patching_plot(rows, single, AblationType.ZERO, "KL", True, False, True, 3.0, 0.0)
    assert list(figure.data[0].x) == [1, 10] and figure.data[1].name == "GT"
    assert figure.layout.yaxis.title.text == "KL (Zero)"
    assert tuple(figure.layout.yaxis.range) == (0.0, pytest.approx(2.4))


def test_nodes_and_edges_of_a_model_are_its_graphs(base):
    before = len(base.graphs())
    model = patchable_model(base, True, "last_seq", 4, True)
    nodes, srcs, dests, by_position, edges, seq_dim, seq_len = graph_edges(base, True, True, 4)
    assert (nodes, srcs, dests, edges) == (model.nodes, model.srcs, model.dests, model.edges)
    assert by_position == model.edge_dict and (seq_dim, seq_len) == (1, 4)
    model.graph.delete()
    assert transformer_lens_utils.factorized_src_nodes(base) == srcs
    assert transformer_lens_utils.factorized_dest_nodes(base, True) == dests
    merged = transformer_lens_utils.factorized_dest_nodes(base, False)
    assert len(merged) < len(dests)
    simple_srcs, simple_dests = transformer_lens_utils.simple_graph_nodes(base)
    assert "Resid Start" in {node.name for node in simple_srcs}
    assert "Resid End" in {node.name for node in simple_dests}
    assert len(base.graphs()) == before


def test_the_small_helpers(base, capsys):
    run_prompt(base, "Then, Alice and Bob", answer=" Alice", top_k=3)
    shown = capsys.readouterr().out
    logits = np.asarray(base("Then, Alice and Bob", prepend_bos=False))[0, -1]
    assert f"Logit: {logits.max():5.2f}" in shown and shown.count("Top ") == 3 and '" Alice" token rank:' in shown
    _, cache = base.run_with_cache("Then, Alice and Bob", ["blocks.3.hook_resid_post"], prepend_bos=False)
    vector = np.asarray(cache["resid_post", 3])[0, -1]
    get_most_similar_embeddings(base, vector, " Alice", 3, apply_ln_final=True, apply_unembed=True)
    again = capsys.readouterr().out
    assert again[again.index("Top 0th") :] == shown[shown.index("Top 0th") :]
    get_most_similar_embeddings(base, np.asarray(base.embed.W_E)[7] * 100, top_k=1, apply_embed=True)
    assert capsys.readouterr().out.startswith("Top 0th token")
    with pytest.raises(ValueError, match="take one"):
        get_most_similar_embeddings(base, vector, apply_unembed=True, apply_embed=True)
    assert percent_gpu_mem_used().startswith("Memory used ") and percent_gpu_mem_used(1) > percent_gpu_mem_used()
    graph = base.graph()
    with pytest.raises(ablate.NotFoundError), remove_hooks() as handles:
        handles.add(graph.add_hook("blocks.0.hook_mlp_out", "zero"))
        assert len(graph.hooks()) == 1
        raise ablate.NotFoundError("the block fails")
    assert graph.hooks() == []
    graph.delete()
