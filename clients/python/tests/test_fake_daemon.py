# SPDX-License-Identifier: Apache-2.0
"""The client's own logic against a daemon made of Python."""

import json

import grpc
import numpy as np
import pytest

import ablate
from ablate import _arrays
from ablate._upload import upload_messages
from ablate.errors import _ErrorInfo, _Status
from ablate.v1 import admin_pb2, common_pb2, graph_pb2, model_pb2, prune_pb2, run_pb2

CONFIG = model_pb2.ModelConfig(family="gpt2", n_layers=2, n_heads=2, d_vocab=5)
MODEL = model_pb2.Model(model_id="m1", name="tiny", config=CONFIG)


def tensor_chunks(name, array, size=8):
    data = array.astype("<f4").tobytes()
    for start in range(0, len(data), size):
        yield common_pb2.TensorChunk(
            name=name,
            dtype=common_pb2.DTYPE_FLOAT32,
            shape=array.shape,
            offset_bytes=start,
            data=data[start : start + size],
            is_last=start + size >= len(data),
        )


def job(state=prune_pb2.JOB_STATE_RUNNING, **fields):
    return prune_pb2.Job(job_id="j1", state=state, **fields)


def event(sequence, done=0):
    edge = common_pb2.EdgeValue(edge="A0.0->MLP 1", value=sequence)
    return prune_pb2.JobEvent(
        sequence=sequence,
        state=prune_pb2.JOB_STATE_RUNNING,
        done_units=done,
        total_units=4,
        top_edges=[edge],
    )


@pytest.fixture
def model(client, daemon):
    daemon.on("GetModel", lambda request, context: model_pb2.GetModelResponse(model=MODEL))
    return client.model("tiny")


@pytest.fixture
def graph(model, daemon):
    proto = graph_pb2.Graph(graph_id="g1", model_id="m1", edge_count=12)
    proto.modules.add(name="blocks.0.hook_mlp_in", shape=[3])
    daemon.on("CreateGraph", lambda request, context: graph_pb2.CreateGraphResponse(graph=proto))
    return model.graph()


# What ablate.aio leaves to the plain object: attributes that are here already, weights, which are fetched
# where they are read (client.run), and autograd's passes.
ATTRIBUTES = {"acdc", "done_units", "elapsed_ms", "error", "last_sequence", "owner", "provenance", "total_units"}
WEIGHTS = {"blocks", "embed", "ln_final", "parameters", "pos_embed", "unembed"}
NOT_ASYNC = {"Job": ATTRIBUTES, "Model": WEIGHTS, "Graph": {"train_mask_mode"}}


@pytest.mark.parametrize("name", ["Client", "Model", "Graph", "Job", "PruneStream"])
def test_the_asynchronous_classes_have_what_the_plain_ones_have(name):
    plain, asynchronous = getattr(ablate, name), getattr(ablate.aio, f"Async{name}")
    lacking = {member for member in dir(plain) if not member.startswith("_") and not hasattr(asynchronous, member)}
    assert lacking == NOT_ASYNC.get(name, set())


def test_the_client_names_its_version_in_every_call(client, daemon):
    client.server_info()
    assert daemon.metadata["ablate-client-version"] == f"python/{ablate.__version__}"


def test_nobody_listening_is_one_sentence_that_says_what_to_do():
    with pytest.raises(ablate.UnavailableError, match="start one with `ablated`"):
        ablate.connect("127.0.0.1:1", timeout=5)


def test_another_protocol_is_refused_with_a_sentence(daemon):
    info = admin_pb2.GetServerInfoResponse(version="9.0.0", protocol="ablate.v9")
    daemon.on("GetServerInfo", lambda request, context: info)
    with pytest.raises(ablate.VersionSkewError, match="speaks ablate.v1 and the daemon .* ablate.v9"):
        ablate.connect(f"127.0.0.1:{daemon.port}")


def test_an_error_carries_code_reason_and_message(client, daemon):
    def fail(request, context):
        status = _Status(code=5, message="no such model")
        info = _ErrorInfo(reason="MODEL_UNKNOWN", domain="ablate", metadata={"model": "x"})
        status.details.add(
            type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString()
        )
        details = ("grpc-status-details-bin", status.SerializeToString())
        context.set_trailing_metadata((details,))
        context.abort(grpc.StatusCode.NOT_FOUND, "no such model")

    daemon.on("GetJob", fail)
    with pytest.raises(ablate.NotFoundError, match=r"no such model \[MODEL_UNKNOWN\]") as caught:
        client.job("x")
    assert (caught.value.reason, caught.value.metadata) == ("MODEL_UNKNOWN", {"model": "x"})
    assert isinstance(caught.value, ablate.AblateError)


def test_damaged_details_do_not_hide_the_error(client, daemon):
    def fail(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.INTERNAL, "oops")

    daemon.on("GetJob", fail)
    with pytest.raises(ablate.InternalError, match="oops"):
        client.job("x")


def test_every_canonical_code_has_a_class_of_its_own():
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            assert ablate.errors._BY_CODE[code.name].code == code.name


def test_pieces_become_arrays_and_gaps_are_refused():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    chunks = list(tensor_chunks("a", array)) + list(tensor_chunks("b", array[:1]))
    result = dict(_arrays.collect_chunks(chunks, "numpy"))
    np.testing.assert_array_equal(result["a"], array)
    np.testing.assert_array_equal(result["b"], array[:1])
    with pytest.raises(ValueError, match="at byte 16 after 8"):
        list(_arrays.collect_chunks([chunks[0], chunks[2]], "numpy"))
    with pytest.raises(ValueError, match="ended inside 'a'"):
        list(_arrays.collect_chunks(chunks[:2], "numpy"))


def test_bfloat16_is_widened_for_numpy():
    words = np.array([0x3F80, 0xC000], dtype="<u2")
    array = _arrays.decode(common_pb2.DTYPE_BFLOAT16, [2], words.tobytes(), "numpy")
    assert array.tolist() == [1.0, -2.0]


def test_tokens_get_a_batch_dimension_and_must_be_integers():
    assert list(_arrays.encode_tokens([1, 2, 3]).shape) == [1, 3]
    with pytest.raises(TypeError, match="integers"):
        _arrays.encode_tokens([0.5])
    with pytest.raises(ValueError, match="32 bits"):
        _arrays.encode_tokens([2**40])


@pytest.mark.parametrize(
    ("short", "name"),
    [
        (("resid_post", 3), "blocks.3.hook_resid_post"),
        (("q", 0), "blocks.0.attn.hook_q"),
        (("attn", 1), "blocks.1.attn.hook_pattern"),
        (("mlp_post", 2), "blocks.2.mlp.hook_post"),
        (("post", 2), "blocks.2.mlp.hook_post"),
        (("scale", 0, "ln1"), "blocks.0.ln1.hook_scale"),
        (("mlp_out", 0), "blocks.0.hook_mlp_out"),
        (("embed",), "hook_embed"),
        (("scale",), "ln_final.hook_scale"),
        (("blocks.0.hook_resid_pre",), "blocks.0.hook_resid_pre"),
    ],
)
def test_shorthand_is_that_of_transformerlens(short, name):
    assert ablate.get_act_name(*short) == name


def test_a_cache_answers_shorthand_negative_layers_and_both_vocabularies(model):
    name, bridge = "blocks.1.hook_resid_post", "blocks.1.hook_out"
    cache = ablate.ActivationCache({name: "x"}, model)
    keys = [name, bridge, ("resid_post", 1), ("resid_post", -1)]
    assert [cache[key] for key in keys] == ["x"] * 4
    with pytest.raises(KeyError, match="blocks.0.hook_resid_post was not captured"):
        cache["resid_post", 0]


def test_a_filter_may_be_a_predicate(model, daemon):
    points = [
        model_pb2.HookPoint(name=f"blocks.{layer}.hook_resid_{place}", shape=["batch"])
        for layer in range(2)
        for place in ("pre", "post")
    ]
    response = model_pb2.ListHookPointsResponse(hook_points=points)
    daemon.on("ListHookPoints", lambda request, context: response)

    def run(request, context):
        for name in (*request.names, "logits"):
            for chunk in tensor_chunks(name, np.ones((1, 5))):
                yield run_pb2.RunWithCacheResponse(chunk=chunk)

    daemon.on("RunWithCache", run)
    logits, cache = model.run_with_cache([[0]], lambda name: name.endswith("post"))
    assert list(cache) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert logits.shape == (1, 5)


def test_a_broken_watch_goes_on_after_the_last_event(client, daemon):
    attempts = []

    def watch(request, context):
        attempts.append(request.after_sequence)
        for sequence in range(request.after_sequence + 1, 5):
            yield prune_pb2.WatchJobResponse(event=event(sequence))
            if sequence == 2 and len(attempts) == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    daemon.on("GetJob", lambda request, context: prune_pb2.GetJobResponse(job=job()))
    daemon.on("WatchJob", watch)
    assert [e.sequence for e in client.job("j1").watch()] == [1, 2, 3, 4]
    assert attempts == [0, 2]


def stream_scores(request, context):
    part = prune_pb2.StreamPruneScoresResponse
    yield part(created=job())
    for sequence in (1, 2):
        yield part(event=event(sequence, sequence))
    for chunk in tensor_chunks("blocks.0.hook_mlp_in", np.array([1.0, 2.0, 3.0])):
        yield part(scores=chunk)
    yield part(ended=job(prune_pb2.JOB_STATE_SUCCEEDED))


@pytest.fixture
def dataset(daemon):
    from ablate.v1 import dataset_pb2

    kept = dataset_pb2.UploadDatasetResponse(dataset=dataset_pb2.Dataset(dataset_id="d1"))
    daemon.on("UploadDataset", lambda request, context: kept)
    return {"prompts": []}


def test_a_stream_yields_events_and_then_has_the_scores(graph, daemon, dataset):
    daemon.on("StreamPruneScores", stream_scores)
    with graph.stream_prune_scores(dataset) as stream:
        assert [e.top_edges[0].score for e in stream] == [1.0, 2.0]
        assert stream.scores["blocks.0.hook_mlp_in"].tolist() == [1.0, 2.0, 3.0]
        assert stream.job.state == "succeeded"
    assert graph.prune_scores(dataset, progress=False).top_edges[0].edge == "A0.0->MLP 1"


def test_leaving_a_stream_early_cancels_the_call(graph, daemon, dataset):
    import threading

    ended = threading.Event()

    def endless(request, context):
        context.add_callback(ended.set)
        yield prune_pb2.StreamPruneScoresResponse(created=job())
        yield prune_pb2.StreamPruneScoresResponse(event=event(1))
        ended.wait(30)

    daemon.on("StreamPruneScores", endless)
    with graph.stream_prune_scores(dataset) as stream:
        next(stream)
    assert ended.wait(10)


def test_an_interrupt_cancels_the_job_and_says_where_its_scores_are(graph, daemon, dataset, monkeypatch):
    cancelled = []

    def cancel(request, context):
        cancelled.append(request.job_id)
        return prune_pb2.CancelJobResponse(job=job(prune_pb2.JOB_STATE_CANCELLED))

    daemon.on("StreamPruneScores", stream_scores)
    daemon.on("CancelJob", cancel)

    def interrupted(proto):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablate.JobEvent, "_from_proto", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"client.job\('j1'\).scores\(\)"):
        graph.prune_scores(dataset, progress=False)
    assert set(cancelled) == {"j1"}


def test_a_failed_job_raises_what_it_says(graph, daemon, dataset):
    def failing(request, context):
        yield prune_pb2.StreamPruneScoresResponse(created=job())
        ended = job(prune_pb2.JOB_STATE_FAILED, error="the device is gone")
        yield prune_pb2.StreamPruneScoresResponse(ended=ended)

    daemon.on("StreamPruneScores", failing)
    with pytest.raises(ablate.AblateError, match="the device is gone"):
        graph.prune_scores(dataset, progress=False)


@pytest.mark.parametrize(
    "call",
    [
        lambda graph: graph.submit({}, "no_such_algorithm"),
        lambda graph: graph.submit({}, ablate.MaskGradient("tanh")),
        lambda graph: graph.submit({}, ablate.MaskGradient(mask_val=0.5, integrated_grad_samples=3)),
        lambda graph: graph.forward([[0]], slice_output="middle"),
        lambda graph: graph.set_circuit("j1"),
        lambda graph: graph.add_hook("blocks.0.attn.hook_z", lambda value, hook: value),
        lambda graph: graph.add_hook(lambda name: True, "zero"),
        lambda graph: graph.client.load_model("x", "best"),
        lambda graph: graph.client.evaluate("j1", metrics=["beauty"]),
    ],
)
def test_wrong_choices_are_refused_here_and_name_the_right_ones(graph, dataset, call):
    with pytest.raises(ValueError):
        call(graph)


def test_an_upload_is_one_safetensors_file_whatever_its_source(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}
    for part, name in enumerate(tensors):
        safetensors.save_file({name: tensors[name]}, tmp_path / f"part-{part}.safetensors")
    weight_map = {"a": "part-0.safetensors", "b": "part-1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text("{}")
    whole = safetensors.save(tensors)
    for source in (tmp_path, ({}, tensors), ({}, whole)):
        _, size, pieces = upload_messages(source, None)
        files: dict[str, bytes] = {}
        for name, piece in pieces:
            files[name] = files.get(name, b"") + piece
        assert list(files) == ["config.json", "model.safetensors"]
        assert size == sum(map(len, files.values()))
        loaded = safetensors.load(files["model.safetensors"])
        for name, array in tensors.items():
            np.testing.assert_array_equal(loaded[name], array)
