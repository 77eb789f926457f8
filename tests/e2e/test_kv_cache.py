# SPDX-License-Identifier: Apache-2.0
"""KV caches: made, found, shared, evicted; and that nothing can be seen of them in results."""

from __future__ import annotations

import json
import urllib.request

import ablate
import numpy as np
import pytest
from daemon import Daemon, goldens
from test_cli import run

LATE = goldens() / "prompts" / "ioi_late.json"
PREFIX = 11  # tokens that all of its prompts share, BOS included


@pytest.fixture(scope="module")
def late(client):
    return client.upload_dataset(LATE)


@pytest.fixture(scope="module")
def prompts(tiny_tl):
    """Clean and corrupt prompts as ids, int64 [8, 16]."""
    pairs = json.loads(LATE.read_text())["prompts"]
    return [tiny_tl.to_tokens([pair[side] for pair in pairs], True) for side in ("clean", "corrupt")]


@pytest.fixture(scope="module", autouse=True)
def alone(client):
    """What other files' tests left is counted and listed here, too: so nothing is left."""
    for left in client.kv_caches():
        left.delete()


@pytest.fixture
def cache(daemon, tiny_tl, prompts):
    made = tiny_tl.kv_cache(prompts[0][:1, :PREFIX])
    yield made
    if made.id in {left.id for left in tiny_tl.kv_caches()}:
        made.delete()


def same(a, b, tolerance=1e-4):
    assert a.shape == b.shape
    assert np.max(np.abs(a - b)) <= tolerance


def test_the_same_request_twice_gives_the_same_cache(client, tiny_tl, tiny, prompts, cache):
    again = tiny_tl.kv_cache(prompts[0][0, :PREFIX][None])
    assert again.id == cache.id and again.hits == cache.hits + 1
    assert again.tokens == tuple(prompts[0][0, :PREFIX])
    other = tiny.kv_cache(prompts[0][:1, :PREFIX])  # the same tokens, another variant of the weights
    assert other.id != cache.id and other.bytes == cache.bytes
    assert {one.id for one in client.kv_caches()} >= {cache.id, other.id}
    assert [one.id for one in tiny.kv_caches()] == [other.id]
    other.delete()
    assert other.id not in {one.id for one in client.kv_caches()}
    text = "Then, Alice and Bob had"
    assert tiny_tl.kv_cache(text).tokens == tuple(tiny_tl.to_tokens(text)[0])
    for left in tiny_tl.kv_caches():
        if left.id != cache.id:
            left.delete()


def test_a_pass_behind_a_cache_is_the_end_of_the_whole_pass(tiny_tl, prompts, cache):
    for batch in (1, 3, 8):  # one cache serves any batch
        whole = tiny_tl(prompts[0][:batch])
        same(tiny_tl(prompts[0][:batch], kv_cache=cache), whole[:, PREFIX:])
        same(tiny_tl(prompts[0][:batch], kv_cache=cache, slice_output="last_seq"), whole[:, -1])
        same(tiny_tl(prompts[0][:batch], use_prefix_cache=True, slice_output="last_seq"), whole[:, -1])
    assert cache.refresh().hits == 9
    _, acts = tiny_tl.run_with_cache(prompts[0], ["blocks.2.hook_resid_post", "blocks.2.attn.hook_pattern"])
    _, tail = tiny_tl.run_with_cache(
        prompts[0], ["blocks.2.hook_resid_post", "blocks.2.attn.hook_pattern"], kv_cache=cache
    )
    same(tail["resid_post", 2], acts["resid_post", 2][:, PREFIX:])
    same(tail["pattern", 2], acts["pattern", 2][:, :, PREFIX:])


def test_forward_says_which_cache_it_used(client, tiny_tl, prompts, cache):
    from ablate.v1 import common_pb2, run_pb2

    tokens = common_pb2.Tensor(
        dtype=common_pb2.DTYPE_INT32, shape=[8, 16], data=prompts[0].astype("<i4").tobytes()
    )
    request = run_pb2.ForwardRequest(
        model_id=tiny_tl.id, prompts=common_pb2.Prompts(tokens=tokens), use_prefix_cache=True, top_k=1
    )
    response = client._call("Forward", request)
    assert (response.kv_cache_id, response.prefix_length) == (cache.id, PREFIX)
    assert {top.pos for top in response.top} == {15}
    cache.delete()
    response = client._call("Forward", request)
    assert (response.kv_cache_id, response.prefix_length) == ("", 0)


def test_patched_passes_cover_the_tail(tiny_tl, prompts, cache):
    whole, tail = tiny_tl.graph(), tiny_tl.graph(kv_caches=[cache, cache, None])
    assert tail.kv_cache_ids == (cache.id,)
    try:
        for graph in (whole, tail):
            graph.set_patch_mask({"A0.0->MLP 1": 1.0, "MLP 0->A1.2.Q": 0.5, "A1.2->Resid End": 1.0})
        want = whole(prompts[0], ablation_input=prompts[1])
        same(tail(prompts[0], ablation_input=prompts[1]), want)
        same(whole(prompts[0], ablation_input=prompts[1], kv_cache=cache), want)
        zero = whole(prompts[0], ablation="zero")
        assert np.max(np.abs(tail(prompts[0], ablation="zero") - zero)) > 1e-2  # the prefix is kept there
        with pytest.raises(ablate.FailedPreconditionError, match=tail.id) as refused:
            cache.delete()
        assert refused.value.reason == "KV_CACHE_IN_USE"
        assert cache.refresh().user_ids == (tail.id,)
    finally:
        whole.delete()
        tail.delete()


def test_jobs_and_sweeps_behind_the_shared_prefix(client, tiny_tl, late, prompts):
    graph = tiny_tl.graph()
    try:
        for algo in ("eap", "mask_gradient", "ground_truth"):
            whole = graph.prune_scores(late, algo, batch_size=4, progress=False)
            tail = graph.prune_scores(late, algo, batch_size=4, tail_divergence=True, progress=False)
            largest = np.max(np.abs(whole.flat()))
            assert np.max(np.abs(whole.flat() - tail.flat())) <= 2e-5 * largest
        assert json.loads(tail.job.provenance.algorithm_json)["prefix_length"] == PREFIX
        [cache] = tiny_tl.kv_caches()
        assert cache.tokens == tuple(prompts[0][0, :PREFIX]) and cache.hits == 2
        sizes = [0, 100, graph.edge_count]
        want = graph.run_circuits(whole, sizes)
        got = graph.run_circuits(whole, sizes, tail_divergence=True)
        for size in sizes:
            same(got[size], want[size])
        rows = graph.evaluate(whole, sizes, tail_divergence=True, progress=False)
        for row, plain in zip(rows, graph.evaluate(whole, sizes, progress=False)):
            assert row == pytest.approx(plain, abs=1e-4)
        assert cache.refresh().hits == 4
        cache.delete()
    finally:
        graph.delete()


def test_a_graph_with_positions_and_caches_scores_the_tail(tiny_tl, late, cache):
    whole = tiny_tl.graph(seq_len=16)
    tail = tiny_tl.graph(seq_len=16 - PREFIX, kv_caches=[cache])
    try:
        full = whole.prune_scores(late, "eap", batch_size=4, progress=False)
        part = tail.prune_scores(late, "eap", batch_size=4, progress=False)
        for name, array in part.items():
            largest = max(np.max(np.abs(full[name])), 1e-3)
            same(array, full[name][PREFIX:], 2e-5 * largest)
        with pytest.raises(ablate.InvalidArgumentError) as refused:
            tail.prune_scores(late, "eap", tail_divergence=True, progress=False)
        assert refused.value.reason == "TAIL_DIVERGENCE"
    finally:
        whole.delete()
        tail.delete()


def test_ablations_are_made_behind_a_prefix_for_runs_behind_one(tiny_tl, late, prompts, cache):
    graph = tiny_tl.graph()
    made = []
    try:
        mean = tiny_tl.create_ablation(late, "tokenwise_mean_corrupt", tail_divergence=True, progress=False)
        made.append(mean)
        assert (mean.seq_len, mean.prefix_length, mean.row_count) == (16 - PREFIX, PREFIX, 1)
        options = {"batch_size": 4, "progress": False}
        want = graph.prune_scores(
            late, ablate.MaskGradient(mask_val=0.5, ablation="tokenwise_mean_corrupt"),
            tail_divergence=True, **options,
        )
        algorithm = ablate.MaskGradient(mask_val=0.5, ablation=mean)
        got = graph.prune_scores(late, algorithm, tail_divergence=True, **options)
        same(got.flat(), want.flat(), 2e-5 * np.max(np.abs(want.flat())))
        with pytest.raises(ablate.InvalidArgumentError) as refused:  # whole prompts
            graph.prune_scores(late, algorithm, **options)
        assert refused.value.reason == "ABLATION_SHAPE"
        rows = tiny_tl.create_ablation(prompts[1], "resample", kv_cache=cache, progress=False)
        made.append(rows)
        graph.set_patch_mask({"A0.0->MLP 1": 1.0})
        same(graph(prompts[0], ablation=rows, kv_cache=cache), graph(prompts[0], ablation_input=prompts[1]))
        with pytest.raises(ablate.InvalidArgumentError) as refused:
            graph(prompts[0][:, PREFIX:], ablation=rows)  # as long, but not behind the prefix
        assert refused.value.reason == "ABLATION_SHAPE"
    finally:
        graph.delete()
        for ablation in made:
            ablation.delete()


def test_bytes_and_hits_are_told(client, daemon, cache):
    info = client.server_info()
    assert info.resident_bytes.kv_caches == cache.bytes == 2 * 4 * PREFIX * 128 * 4 + 4 * PREFIX
    assert info.kv_cache_count == 1
    assert info.limits.kv_cache_bytes == 1 << 30
    with urllib.request.urlopen(f"http://{daemon.http.removeprefix('http://')}/metrics") as page:
        text = page.read().decode()
    assert f'ablate_resident_bytes{{kind="kv_caches"}} {cache.bytes}\n' in text
    assert f"ablate_kv_cache_hits {cache.hits}\n" in text


def test_caches_that_nothing_uses_make_room_and_go_with_their_model():
    with Daemon("--kv-cache-mib", "1") as small, ablate.connect(small.grpc, arrays="numpy") as client:
        model = client.load_model("tiny-ioi", "tl", progress=False)
        ids = [[[first] + [5] * 49] for first in range(7)]  # 50 tokens: a fifth of a MiB each
        made = [model.kv_cache(prefix) for prefix in ids[:5]]
        graph = model.graph(kv_caches=[made[0]])
        model.kv_cache(ids[1])  # used again: the third is now the one used longest ago
        made.append(model.kv_cache(ids[5]))
        left = {cache.id for cache in model.kv_caches()}
        assert left == {cache.id for cache in made} - {made[2].id}
        with pytest.raises(ablate.FailedPreconditionError, match=graph.id):
            model.unload()
        assert {cache.id for cache in model.kv_caches()} == left  # refused: nothing is gone
        graph.delete()
        assert model.unload() > 0
        assert client.server_info().resident_bytes.kv_caches == 0


def test_a_cache_over_the_budget_is_refused():
    with Daemon("--kv-cache-mib", "0") as small, ablate.connect(small.grpc, arrays="numpy") as client:
        model = client.load_model("tiny-ioi", "tl", progress=False)
        with pytest.raises(ablate.ResourceExhaustedError, match="--kv-cache-mib") as refused:
            model.kv_cache([[0, 1, 2]])
        assert refused.value.reason == "KV_CACHE_BUDGET"
        graph = model.graph()
        with pytest.raises(ablate.ResourceExhaustedError) as refused:
            graph.prune_scores(LATE, "eap", tail_divergence=True, progress=False)
        assert refused.value.reason == "KV_CACHE_BUDGET"


def test_the_command_line_lists_makes_and_ends_caches(daemon, tiny_tl, cache):
    out, _ = run(daemon.grpc, "caches", "list", "--model", tiny_tl.id)
    assert cache.id in out and f"{PREFIX}" in out
    words = ["caches", "create", "Then, Alice", "--model", tiny_tl.id, "--json"]
    made = json.loads(run(daemon.grpc, *words)[0])
    assert made["created"] is True
    again = json.loads(run(daemon.grpc, *words)[0])["kv_cache"]
    assert again["kv_cache_id"] == made["kv_cache"]["kv_cache_id"] and again["hits"] == 1
    out, _ = run(daemon.grpc, "caches", "delete", again["kv_cache_id"])
    assert "deleted" in out
    _, err = run(daemon.grpc, "caches", "delete", again["kv_cache_id"], code=1)
    assert "ListKvCaches" in err
    listed = json.loads(run(daemon.grpc, "caches", "list", "--json")[0])
    assert [one["kv_cache_id"] for one in listed["kv_caches"]] == [cache.id]
    assert "KV caches" in run(daemon.grpc, "status")[0]


def test_the_command_line_runs_behind_the_shared_prefix(daemon, tiny_tl, cache):
    words = ["discover", "--model", tiny_tl.id, "--dataset", LATE, "--batch-size", 4, "--json"]
    whole = [json.loads(line) for line in run(daemon.grpc, *words)[0].splitlines()]
    tail = [json.loads(line) for line in run(daemon.grpc, *words, "--tail-divergence")[0].splitlines()]
    assert cache.refresh().hits == 1
    tops = [[line["event"]["top_edges"] for line in lines if "event" in line][-1] for lines in (whole, tail)]
    assert tops[0] and [edge["edge"] for edge in tops[0]] == [edge["edge"] for edge in tops[1]]
