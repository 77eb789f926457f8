# SPDX-License-Identifier: Apache-2.0
"""Bad requests: each gets its code, a reason and a sentence, and the daemon lives on unchanged."""

import json
import os
import shutil

import ablate
import pytest
from bad_input import CASES, World
from bad_runs import CASES as RUNS
from daemon import Daemon, goldens


@pytest.fixture
def world(client, tiny, tiny_tl, graph, ioi):
    """With both variants of the model resident, so that no case is the first to load one."""
    return World(client, tiny, graph, ioi, client.server_info().limits)


@pytest.mark.parametrize(
    ("what", "call", "code", "reason", "words"), [pytest.param(*(*case, "")[:5], id=case[0]) for case in [*CASES, *RUNS]]
)
def test_it_is_refused(daemon, client, world, what, call, code, reason, words):
    masks = {name: array.copy() for name, array in world.graph.get_patch_mask().items()}
    weights = client.server_info().resident_bytes.weights
    with pytest.raises(ablate.AblateError) as caught:
        call(world)
    error = caught.value
    print(f"{what}: {error.code} {error}")
    assert error.code in code.split("|"), f"{error.code}: {error}"
    assert error.reason, "an error without a reason"
    assert not reason or error.reason in reason.split("|"), str(error)
    assert len(error.message) > 15, "an error without a sentence"
    assert words in error.message
    assert "/state/" not in error.message, "what was sent is told by name, not by where the daemon keeps it"
    for name, array in world.graph.get_patch_mask().items():
        assert (array == masks[name]).all(), f"{name} was changed by a request that was refused"
    assert client.server_info().resident_bytes.weights == weights


def test_a_dataset_over_the_limit_or_the_message_is_refused(client, daemon):
    limits = client.server_info().limits
    size = min(limits.dataset_bytes, limits.message_bytes) + 1
    with pytest.raises(ablate.ResourceExhaustedError):
        client.upload_dataset(b" " * size)


def test_a_job_on_an_unloaded_model_is_refused(client, daemon, ioi):
    model = client.load_model("tiny-rand", progress=False)
    graph = model.graph()
    with pytest.raises(ablate.FailedPreconditionError, match=graph.id) as caught:
        model.unload()
    assert caught.value.reason == "MODEL_IN_USE"
    graph.delete()
    model.unload()
    with pytest.raises(ablate.AblateError) as caught:
        graph.submit(ioi)
    assert caught.value.reason in ("GRAPH_UNKNOWN", "MODEL_NOT_RESIDENT")
    with pytest.raises(ablate.NotFoundError):
        model([[1]])


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Model folders, each spoiled in its own way."""
    root = tmp_path_factory.mktemp("roots")
    outside = tmp_path_factory.mktemp("outside")
    good = goldens() / "models" / "tiny-rand"
    for name in ("no-config", "no-weights", "family", "config", "cut", "shape", "linked-file", "pickle"):
        shutil.copytree(good, root / name)
    shutil.copytree(good, outside / "model")
    (root / "no-config" / "config.json").unlink()
    for name in ("no-weights", "linked-file", "pickle"):
        (root / name / "model.safetensors").unlink()
    (root / "pickle" / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    config = json.loads((good / "config.json").read_text())
    (root / "family" / "config.json").write_text(json.dumps(config | {"model_type": "rwkv"}))
    (root / "config" / "config.json").write_text("{not json")
    (root / "shape" / "config.json").write_text(json.dumps(config | {"n_embd": config["n_embd"] * 2}))
    weights = (good / "model.safetensors").read_bytes()
    (root / "cut" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (root / "linked-folder").symlink_to(outside / "model")
    (root / "linked-file" / "model.safetensors").symlink_to(outside / "model" / "model.safetensors")
    with Daemon(roots=[root]) as daemon, ablate.connect(daemon.grpc, arrays="numpy") as client:
        yield daemon, client, outside


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("no-config", "NOT_FOUND", "config.json"),
        ("no-weights", "NOT_FOUND", "safetensors"),
        ("pickle", "FAILED_PRECONDITION|NOT_FOUND", "safetensors"),
        ("family", "UNIMPLEMENTED", "gpt2"),
        ("config", "INVALID_ARGUMENT", "config.json"),
        ("cut", "INVALID_ARGUMENT", "model.safetensors"),
        ("shape", "INVALID_ARGUMENT", ""),
        ("linked-folder", "PERMISSION_DENIED", ""),
        ("linked-file", "PERMISSION_DENIED", ""),
        ("../outside0/model", "PERMISSION_DENIED|INVALID_ARGUMENT", ""),
        ("no-config/../cut", "PERMISSION_DENIED|INVALID_ARGUMENT", ""),
        ("OUTSIDE/model", "PERMISSION_DENIED", ""),
        ("/etc", "PERMISSION_DENIED", ""),
        ("", "INVALID_ARGUMENT", ""),
        ("x" * 5000, "INVALID_ARGUMENT", ""),
        ("a\nb", "INVALID_ARGUMENT", ""),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(roots, name, code, words):
    daemon, client, outside = roots
    name = name.replace("OUTSIDE", os.fspath(outside))
    with pytest.raises(ablate.AblateError) as caught:
        client.load_model(name, progress=False)
    print(caught.value)
    assert caught.value.code in code.split("|"), str(caught.value)
    assert caught.value.reason and words in caught.value.message
    assert daemon.alive() and client.models() == []


def test_a_listing_says_what_is_wrong_with_each(roots):
    _, client, _ = roots
    problems = {entry.name: entry.problem for entry in client.model_files()}
    assert problems["family"] and problems["no-weights"]
