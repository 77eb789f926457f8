# SPDX-License-Identifier: Apache-2.0
"""Each job says how its scores came about, in full: from that alone they are had again, bit for bit."""

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import ablate
import numpy as np
import pytest
from ablate.v1 import common_pb2, prune_pb2

DOWN = ["MLP 2->Resid End", "A1.2->MLP 2", "MLP 0->A1.2.Q"]  # down the layers, as ACDC wants them
TRAINED = {
    "learning_rate": 0.05, "epochs": 2, "regularize_lambda": 3.5, "mask_fn": "sigmoid", "dropout_p": 0.25,
    "init_val": 1.25, "tree_optimisation": True, "avoid_edges": DOWN, "avoid_lambda": 0.5,
    "faithfulness_target": "answer", "validation_prompt_count": 4, "seed": 2**64 - 3, "ablation": "zero",
}  # fmt: skip
# Every option of every algorithm is one that is not its default.
ALGORITHMS = [
    ablate.EdgeAttributionPatching(ablation="batch_tokenwise_mean"),
    ablate.MaskGradient("prob", "avg_val", mask_val=0.3, ablation="tokenwise_mean_clean"),
    ablate.MaskGradient("logprob", "mse", integrated_grad_samples=3, clean_corrupt="clean"),
    ablate.GroundTruth(ablation="zero", edges=DOWN),
    ablate.RandomScores(seed=2**63 + 1),
    ablate.ActivationMagnitude(),
    ablate.EAPIG("activations", 3, "zero", "logprob", "avg_val"),
    ablate.ACDC(taus=[0.011, 0.2], faithfulness_target="mse", ablation="zero", edges=DOWN, candidate_count_max=2),
    ablate.SubnetworkProbing(circuit_size=300, **TRAINED),
    ablate.CircuitProbing(circuit_sizes=(100, 300), **TRAINED),
]
NAMES = {"mask_function": "mask_fn", "training": None}
# Options that cannot change a number: how many edges ACDC tries in one pass.
SILENT = {"candidate_count_max"}
OPTIONS = {"batch_size": 3, "prompt_count": 6, "prepend_bos": False}


def kind_of(algorithm):
    return type(algorithm).__name__


def said_of(job):
    return json.loads(job.provenance.algorithm_json)


def algorithm_of(said):
    """The algorithm that a job's provenance describes."""
    kinds = {
        "eap": ablate.EdgeAttributionPatching, "mask_gradient": ablate.MaskGradient, "acdc": ablate.ACDC,
        "ground_truth": ablate.GroundTruth, "random": ablate.RandomScores, "eap_ig": ablate.EAPIG,
        "activation_magnitude": ablate.ActivationMagnitude, "subnetwork_probing": ablate.SubnetworkProbing,
        "circuit_probing": ablate.CircuitProbing,
    }  # fmt: skip
    kind = kinds[said["algorithm"]]
    options = {name: value for name, value in said.items() if name in {one.name for one in fields(kind)}}
    options.pop("ablation", None)  # a resident one
    if "ablation_type" in said:
        options["ablation"] = said["ablation_type"]
    if "mask_value" in said:
        options["mask_val"] = said["mask_value"]
    if said.get("ablate_by_clean") and kind is ablate.MaskGradient:
        options["clean_corrupt"] = "clean"
    if "seed" in said:
        options["seed"] = int(said["seed"])
    return kind(**{name: value for name, value in options.items() if name != "circuit_size" or value})


def run_of(said):
    """The arguments of the job beside its algorithm."""
    return {name: said[name] for name in ("batch_size", "prompt_count", "prepend_bos")}


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=kind_of)
def test_every_option_is_told_and_gives_the_same_scores_again(graph, ioi, algorithm):
    first = graph.prune_scores(ioi, algorithm, progress=False, **OPTIONS)
    said = said_of(first.job)
    spec = first.job._proto.spec
    message = getattr(spec, spec.WhichOneof("algorithm"))
    told = {field.name for field, _ in message.ListFields()}
    if spec.WhichOneof("algorithm") == "circuit_probing":
        told |= {field.name for field, _ in message.training.ListFields()}
    missing = {NAMES.get(name, name) for name in told - SILENT} - {None} - set(said)
    assert not missing, said
    assert run_of(said) == OPTIONS
    again = graph.prune_scores(ioi, algorithm_of(said), progress=False, **run_of(said))
    assert said_of(again.job) == said
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)


def test_the_options_above_are_all_there_are():
    """Whoever adds an option to an algorithm adds it here, and so to what its jobs tell."""
    for oneof in prune_pb2.PruneJobSpec.DESCRIPTOR.oneofs_by_name["algorithm"].fields:
        if oneof.name == "uploaded":  # tests/e2e/test_scores.py
            continue
        specs = []
        for algorithm in ALGORITHMS:
            spec = prune_pb2.PruneJobSpec()
            algorithm._fill(spec)
            if spec.WhichOneof("algorithm") == oneof.name:
                specs.append(getattr(spec, oneof.name))
        if oneof.name == "subnetwork_probing":  # tests/e2e/test_training.py
            specs[0].knockouts_of.SetInParent()
        assert specs, oneof.name
        there = {one.name for one in oneof.message_type.fields}
        assert there == {field.name for spec in specs for field, _ in spec.ListFields()}, oneof.name


@pytest.mark.parametrize("options", [
    {"seq_len": 15}, {"factorized": False}, {"separate_qkv": False, "slice_output": "not_first_seq"},
], ids=str)  # fmt: skip
def test_a_job_tells_its_model_graph_and_dataset(client, tiny_tl, ioi_path, options):
    graph = tiny_tl.graph(**options)
    dataset = client.upload_dataset(ioi_path)
    first = graph.prune_scores(dataset, "eap", progress=False, **OPTIONS)
    provenance = first.job.provenance
    graph.delete()
    assert provenance.dataset_hash == hashlib.sha256(ioi_path.read_bytes()).hexdigest()
    assert provenance.model == tiny_tl.name and provenance.model_hash == tiny_tl.hash
    processing = provenance.processing
    assert processing.fold_ln and processing.center_writing_weights
    assert processing.center_unembed and processing.fold_value_biases
    assert provenance.dtype == common_pb2.DTYPE_FLOAT32 and provenance.device == "cpu"
    assert provenance.server_version == client.server_info().version
    told = provenance.graph
    kind = told.kind == common_pb2.GRAPH_KIND_FACTORIZED
    slices = {common_pb2.OUT_SLICE_NOT_FIRST_SEQ: "not_first_seq"}
    rebuilt = tiny_tl.graph(
        factorized=kind, separate_qkv=not told.merge_qkv, seq_len=told.seq_len or None,
        expand_kv_heads=told.expand_kv_heads, slice_output=slices.get(told.out_slice, "last_seq"),
    )  # fmt: skip
    said = said_of(first.job)
    again = rebuilt.prune_scores(dataset, algorithm_of(said), progress=False, **run_of(said))
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)
    rebuilt.delete()


def test_a_kept_ablation_is_told_as_it_was_made(graph, tiny, ioi):
    made = {"prompt_count": 7, "batch_size": 2, "prepend_bos": False}
    kept = tiny.create_ablation(ioi, "tokenwise_mean_clean", progress=False, **made)
    first = graph.prune_scores(
        ioi, ablate.MaskGradient(mask_val=0.5, ablation=kept), progress=False, **OPTIONS
    )
    kept.delete()
    told = said_of(first.job)["ablation"]
    assert told["ablation_id"] == kept.id and told["dataset_hash"] == ioi.hash
    kept = tiny.create_ablation(
        ioi, told["ablation_type"], clean=told["from_clean"], prompt_count=told["prompt_count"],
        batch_size=told["batch_size"], prepend_bos=told["prepend_bos"], progress=False,
    )  # fmt: skip
    again = graph.prune_scores(
        ioi, ablate.MaskGradient(mask_val=0.5, ablation=kept), progress=False, **OPTIONS
    )
    kept.delete()
    assert said_of(again.job)["ablation"] == told | {"ablation_id": kept.id}
    for name, array in first.items():
        np.testing.assert_array_equal(again[name], array)


def test_an_ablation_of_prompts_is_told_by_their_tokens(graph, tiny, ioi):
    def told(tokens):
        kept = tiny.create_ablation(np.array(tokens, np.int32), "tokenwise_mean_corrupt", progress=False)
        algo = ablate.EdgeAttributionPatching(ablation=kept)
        job = graph.submit(ioi, algo, batch_size=2, prompt_count=2).wait(progress=False)
        kept.delete()
        return said_of(job)["ablation"]

    one, same, other = (told([[0, last] * 8]) for last in (1, 1, 2))
    assert one["tokens_hash"] == same["tokens_hash"] != other["tokens_hash"]
    assert len(one["tokens_hash"]) == 64 and "dataset_hash" not in one


SIGNATURES = {
    "mask_gradient": "mask_gradient.mask_gradient_prune_scores",
    "subnetwork_probing": "subnetwork_probing.subnetwork_probing_prune_scores",
    "circuit_probing": "circuit_probing.circuit_probing_prune_scores",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_what_a_message_leaves_out_is_autocircuits_default(client, graph, ioi, name):
    recorded = json.loads(Path(__file__).with_name("autocircuit_signatures.json").read_text())
    defaults = dict(one for one in recorded[f"prune_algos.{SIGNATURES[name]}"] if len(one) == 2)
    spec = prune_pb2.PruneJobSpec(graph_id=graph.id, dataset_id=ioi.id, prompt_count=2)
    getattr(spec, name).SetInParent()
    if name == "circuit_probing":
        spec.circuit_probing.circuit_sizes.append(10)
    job = client.job(client._call("SubmitJob", prune_pb2.SubmitJobRequest(spec=spec)).job.job_id)
    job.wait(progress=False)
    said = said_of(job)
    said["ablation_type"] = f"AblationType.{said['ablation_type']}"
    told = {key: said[key] for key in set(defaults) & set(said) - {"circuit_sizes"}}
    assert len(told) == {"mask_gradient": 1}.get(name, 9 + (name == "subnetwork_probing"))
    nothing = {"circuit_size": 0}  # AutoCircuit's None
    for key, value in told.items():
        want = nothing.get(key, defaults[key])
        assert value == (pytest.approx(want) if isinstance(want, float) else want), key
