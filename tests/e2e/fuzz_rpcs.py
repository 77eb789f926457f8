# SPDX-License-Identifier: Apache-2.0
"""Requests that are almost right, of every kind, to a real daemon.

    python3 tests/e2e/fuzz_rpcs.py [--minutes 5] [--clients 2] [--seed 0]

What the Python client sends when it is used, well and badly, is recorded. Those requests are sent again with a
few of their fields made something else: limits of their types, no numbers, other objects' ids, other names of the
field, a field more or less, or with broken bytes. Now and then a call is cut off. A daemon may refuse what it
likes; it may not end, hang, or answer INTERNAL or UNKNOWN, which say that the fault is its own. Best against the
build with sanitizers: ABLATE_BUILD=build/asan.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import random
import sys
import threading
import time
from typing import Any, Callable, Iterator

import ablate
import grpc
from ablate import _rpc
from ablate.v1 import run_pb2
from bad_input import CASES, World
from daemon import Daemon, goldens
from google.protobuf import message_factory

PROMPTS = goldens() / "prompts" / "ioi_abba.json"
METHODS = {
    method.name: (f"/{service.full_name}/{method.name}", method)
    for file in _rpc._FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS}
TIMEOUT_S = {True: 4, False: 60}  # a stream may be long; a single answer may not
FLAGS = ("--memory-budget-mib", "2048")
RARE = ("Delete", "Unload", "Reset")  # methods that leave nothing for others
INTS = [0, 0, 1, 1, 2, 3, 5, 17, 1000, 65536, 1 << 30, (1 << 31) - 1, 1 << 40, (1 << 63) - 1, -1, -2, -(1 << 31), -(1 << 63)]
FLOATS = [0.0, 1.0, 0.5, -1.0, 2.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan")]
WORDS = [
    "", " ", "blocks.0.hook_z", "blocks.1.attn.hook_q", "blocks.0.hook_resid_pre", "hook_embed", "ln_final.hook_scale",
    "blocks.99.hook_z", "A0.0", "A0.0.Q", "MLP 0", "Resid Start", "Resid End", "0.attn", "tiny-ioi", "tiny-rand", "cpu",
    "cuda:0", "blocks.0.attn.W_Q", "unembed.W_U", "a\0b", "\u00e9\U0001f600", "%s%n%s", "../../etc/passwd", "{", "[]",
    "x" * 300,
]  # fmt: skip


def use(client: ablate.Client, dtype: str) -> None:
    """A tour of the client that asks for something of every service."""
    model = client.load_model("tiny-ioi", dtype=dtype, progress=False)
    data = client.upload_dataset(PROMPTS)
    graph = model.graph()
    graph([[1, 2, 3]], ablation="zero")
    model.run_with_cache([[1, 2, 3]], "blocks.0.hook_resid_pre", keep_on_server=True)
    model.kv_cache([[1, 2, 3]])
    ablation = model.create_ablation(PROMPTS, progress=False)
    for algorithm in ("eap", "random"):
        scores = graph.prune_scores(data, algorithm, batch_size=8, progress=False)
    graph.evaluate(scores, [3, 30], prompt_count=8, ablation=ablation, progress=False)
    sweep = run_pb2.CircuitSweep(job_id=scores.job.id, edge_counts=[1, 5], batch_size=2, prompt_count=4)
    list(client._call("RunCircuits", run_pb2.RunCircuitsRequest(sweep=sweep)))
    with graph.stream_prune_scores(data, "eap", batch_size=8) as events:
        for _ in events:
            pass
    graph.set_patch_mask(graph.get_patch_mask())
    model.run_with_hooks([[1, 2, 3]], [("blocks.0.hook_resid_pre", {"op": "zero"})])
    client.jobs(), client.models(), model.graphs(), client.datasets(), model.parameters(), client.server_info()


@contextlib.contextmanager
def recorded(client: ablate.Client) -> Iterator[dict[str, list[bytes]]]:
    """The requests that the client sends meanwhile, by method."""
    corpus: dict[str, list[bytes]] = collections.defaultdict(list)
    call = client._channel.call

    def keep(method: str, request: Any, *more: Any) -> Any:
        if not METHODS[method][1].client_streaming and request.ByteSize() < 1 << 16:
            corpus[method].append(request.SerializeToString())
        return call(method, request, *more)

    client._channel.call = keep
    try:
        yield corpus
    finally:
        client._channel.call = call


def record(client: ablate.Client, cases: list[Any]) -> dict[str, list[bytes]]:
    """Well used, and badly; what is good counts as often as what is bad."""
    with recorded(client) as good:
        for dtype in ("float32", "bfloat16"):
            use(client, dtype)
    with recorded(client) as bad:
        model = client.load_model("tiny-ioi", progress=False)
        world = World(client, model, model.graph(), client.upload_dataset(PROMPTS), client.server_info().limits)
        for case in cases:
            with contextlib.suppress(ablate.AblateError, ValueError, TypeError, LookupError):
                case[1](world)
    corpus = {}
    for method in {*good, *bad}:
        fine, refused = sorted(set(good[method])), sorted(set(bad[method]))
        corpus[method] = fine * (1 + len(refused) // max(1, len(fine))) + refused
    return corpus


class Mutator:
    """Changes requests; `ids` are of objects that there are or were."""

    def __init__(self, seed: int, ids: list[str]):
        self.random, self.ids = random.Random(seed), ids

    def value(self, field: Any) -> Any:
        """Something for one item of a field that holds no message."""
        pick = self.random.choice
        if field.enum_type is not None:
            return pick([*(value.number for value in field.enum_type.values), 99, -1])
        if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
            return pick([*FLOATS, self.random.uniform(-2, 2)])
        if field.cpp_type == field.CPPTYPE_BOOL:
            return pick([True, False])
        if field.type == field.TYPE_BYTES:
            return self.random.randbytes(pick([0, 1, 4, 12, 16, 48, 4096]))
        if field.cpp_type == field.CPPTYPE_STRING:
            return pick(self.ids if field.name.endswith(("_id", "_ids")) and self.random.random() < 0.8 else WORDS)
        bits = 32 if field.cpp_type in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 64
        low = 0 if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else -(1 << (bits - 1))
        return pick([number for number in INTS if low <= number < 1 << (bits - 1)])

    def places(self, message: Any) -> list[Any]:
        """The message, and all that are in it."""
        found = [message]
        for field, value in message.ListFields():
            if field.message_type is not None:
                for child in value if field.is_repeated else [value]:
                    found += self.places(child)
        return found

    def change(self, message: Any) -> None:
        """One field of one of its messages."""
        place = self.random.choice(self.places(message))
        fields = [field for field, _ in place.ListFields()]
        if not fields or self.random.random() < 0.3:
            fields = list(place.DESCRIPTOR.fields)
        if not fields:
            return
        field = self.random.choice(fields)
        if field.name.endswith("_id") and self.random.random() < 0.8:
            return  # what is about nothing goes nowhere
        held = getattr(place, field.name)
        if self.random.random() < 0.1:
            place.ClearField(field.name)
        elif field.is_repeated:
            self.change_list(held, field)
        elif field.message_type is not None:
            held.SetInParent()
        else:
            setattr(place, field.name, self.value(field))

    def change_list(self, held: Any, field: Any) -> None:
        what = self.random.choice(["more", "less", "item", "many"])
        if what in ("more", "many"):
            for _ in range(1 if what == "more" else self.random.choice([2, 9, 300])):
                if field.message_type is not None:
                    held.add()
                else:
                    held.append(self.value(field))
        elif held and what == "less":
            del held[self.random.randrange(len(held))]
        elif held and field.message_type is None:
            held[self.random.randrange(len(held))] = self.value(field)

    def aim(self, message: Any) -> None:
        """What the message names is there, where anything of its kind is."""
        for place in self.places(message):
            for field, value in place.ListFields():
                if field.name.endswith("_id") and value not in self.ids:
                    kin = [each for each in self.ids if each.partition("-")[0] == value.partition("-")[0]]
                    setattr(place, field.name, self.random.choice(kin) if kin else value)

    def payload(self, method: str, corpus: dict[str, list[bytes]]) -> bytes:
        message = message_factory.GetMessageClass(METHODS[method][1].input_type)()
        if corpus.get(method):
            message.ParseFromString(self.random.choice(corpus[method]))
            self.aim(message)
        for _ in range(self.random.choice([0, 1, 1, 2, 4])):
            self.change(message)
        data = bytearray(message.SerializeToString())
        if data and self.random.random() < 0.1:
            for _ in range(self.random.choice([1, 3])):
                data[self.random.randrange(len(data))] = self.random.randrange(256)
        return bytes(data)


def send(channel: grpc.Channel, method: str, payload: bytes, cut: bool) -> grpc.StatusCode:
    """The call's code; CANCELLED where it is cut off."""
    path, descriptor = METHODS[method]
    kind = "stream" if descriptor.client_streaming else "unary"
    call = getattr(channel, f"{kind}_stream")(path)  # what comes once is a stream of one
    answers = call(iter([payload]) if kind == "stream" else payload, timeout=TIMEOUT_S[descriptor.server_streaming])
    try:
        for _ in answers:
            if cut:
                answers.cancel()
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        return error.code()


def ids_of(client: ablate.Client) -> list[str]:
    models = client.models()
    objects = [*models, *client.datasets(), *client.jobs()]
    for model in models:
        objects += [*model.graphs(), *client.ablations(model), *model.activations(), *model.kv_caches()]
    return [each.id for each in objects] + ["", "no-such"]


def fuzz(
    daemon: Daemon,
    corpus: dict[str, list[bytes]],
    seed: int,
    count: int,
    go_on: Callable[[], bool],
    report: Callable[[str], None],
) -> collections.Counter:
    """Sends `count` requests, or fewer where it is told to stop; what it saw, by code."""
    seen: collections.Counter = collections.Counter()
    options = [("grpc.max_receive_message_length", -1)]
    with ablate.connect(daemon.grpc, arrays="numpy") as client, grpc.insecure_channel(daemon.grpc, options) as channel:
        mutator = Mutator(seed, ids_of(client))
        names = sorted(METHODS)
        for turn in range(count):
            if not go_on():
                break
            if turn % 200 == 0:
                for job in client.jobs():
                    if job.state in ("queued", "running"):
                        job.cancel()
                with contextlib.suppress(ablate.AblateError):  # others delete meanwhile
                    use(client, "float32")
                mutator.ids = ids_of(client)
            method = mutator.random.choice(names)
            if method.startswith(RARE) and mutator.random.random() < 0.9:
                continue
            payload = mutator.payload(method, corpus)
            code = send(channel, method, payload, mutator.random.random() < 0.2)
            seen[code.name] += 1
            late = code is grpc.StatusCode.DEADLINE_EXCEEDED and not METHODS[method][1].server_streaming
            if code in FAULTS or late:
                report(f"{method}: {code.name} for {payload.hex()}")
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong: list[str] = []
    total: collections.Counter = collections.Counter()
    with Daemon(*FLAGS) as daemon:
        with ablate.connect(daemon.grpc, arrays="numpy") as client:
            corpus = record(client, CASES)
            print(f"{sum(map(len, corpus.values()))} requests of {len(corpus)} methods recorded", flush=True)
        end = time.monotonic() + options.minutes * 60

        def go_on() -> bool:
            return time.monotonic() < end and daemon.alive() and len(wrong) < 20

        def live(seed: int) -> None:
            try:
                while go_on():
                    total.update(fuzz(daemon, corpus, seed, sys.maxsize, go_on, wrong.append))
            except Exception as error:  # any: the thread's end would go unseen
                wrong.append(f"client {seed}: {error!r}")

        threads = [threading.Thread(target=live, args=(options.seed * 1000 + i,)) for i in range(options.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not daemon.alive():
            wrong.append(f"the daemon ended with {daemon.process.returncode}:\n{daemon.log()[-8000:]}")
    print(", ".join(f"{name} {count}" for name, count in total.most_common()))
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
