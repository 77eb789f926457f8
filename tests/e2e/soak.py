# SPDX-License-Identifier: Apache-2.0
"""A daemon under mixed load for as long as one likes, and whether anything of it grows.

    python3 tests/e2e/soak.py [--minutes 20] [--clients 8] [--seed 0]

In each round of a minute clients load and unload models, make graphs, run sweeps and jobs and leave them at
random moments, send requests that must be refused and bytes that are no requests. Between rounds everything is
deleted, and the idle daemon's memory, files and threads are read from /proc; a row a round. It fails when the
daemon ends, when a call fails in a way that its service does not promise, or when an idle figure has grown.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import ablate
from ablate.v1 import run_pb2
from bad_input import CASES, World
from daemon import LONG_JOB, Daemon, goldens

ROUND_S = 60
PROMPTS = goldens() / "prompts" / "ioi_abba.json"
GROWTH_MIB = 48  # what an allocator may keep of a round's peaks
# What somebody else's deletion, a full queue or a full machine make of a good request.
RACES = {"NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "CANCELLED"}


class Person:
    """One client: each method is something that people do with a daemon."""

    def __init__(self, daemon: Daemon, seed: int):
        self.daemon, self.random = daemon, random.Random(seed)
        self.client = ablate.connect(daemon.grpc, arrays="numpy")

    def model(self) -> ablate.Model:
        mode, dtype = self.random.choice([("hf", "float32"), ("tl", "float32"), ("hf", "bfloat16")])
        return self.client.load_model("tiny-ioi", mode, dtype=dtype, progress=False)

    def graph(self) -> Any:
        graph = self.model().graph(separate_qkv=self.random.random() < 0.7)
        return contextlib.closing(Deleted(graph))

    def pause(self) -> None:
        time.sleep(self.random.choice([0, 0, 0.001, 0.02, 0.3]))

    def passes(self) -> None:
        with self.graph() as held:
            for _ in range(20):
                held.it([[1, 2, 3, 4]], ablation="zero")

    def unload(self) -> None:
        self.model().unload()

    def prune(self) -> None:
        with self.graph() as held:
            algorithm = self.random.choice(["eap", "random", "mask_gradient"])
            scores = held.it.prune_scores(PROMPTS, algorithm, batch_size=8, progress=False)
            held.it.evaluate(scores, [3, 30], prompt_count=8, progress=False)

    def job(self) -> None:
        with self.graph() as held:
            job = held.it.submit(PROMPTS, **LONG_JOB)
            with contextlib.closing(job.watch()) as events:
                next(events)
            self.pause()
            job.cancel()

    def stream(self) -> None:
        with self.graph() as held, held.it.stream_prune_scores(PROMPTS, **LONG_JOB) as events:
            next(iter(events))
            self.pause()

    def sweep(self) -> None:
        with self.graph() as held:
            scores = held.it.prune_scores(PROMPTS, "random", progress=False)
            sweep = run_pb2.CircuitSweep(job_id=scores.job.id, edge_counts=range(400), batch_size=1)
            stream = self.client._call("RunCircuits", run_pb2.RunCircuitsRequest(sweep=sweep))
            self.pause()
            stream.cancel()

    def drop(self) -> None:
        """A connection that breaks under a stream."""
        with ablate.connect(self.daemon.grpc, arrays="numpy") as other, self.graph() as held:
            graph = next(graph for graph in other.model(held.it.model.id).graphs() if graph.id == held.it.id)
            stream = graph.stream_prune_scores(PROMPTS, **LONG_JOB)
            self.pause()
            other._channel.close()
            self.client.cancel(stream.job.id)

    def keep(self) -> None:
        model = self.model()
        _, kept = model.run_with_cache([[1, 2, 3]], "blocks.0.hook_resid_pre", keep_on_server=True)
        with kept:
            model.run_with_hooks([[1, 2, 3]], [("blocks.0.hook_resid_pre", {"op": "patch", "source": kept})])
        model.kv_cache([[self.random.randrange(50) for _ in range(5)]])
        model.create_ablation(PROMPTS, progress=False).delete()

    def upload(self) -> None:
        content = json.loads(PROMPTS.read_text())
        content["prompts"] = self.random.sample(content["prompts"], 4)
        self.client.upload_dataset(content, "some").delete()

    def refused(self) -> None:
        model = self.model()
        with self.graph() as held:
            dataset = self.client.upload_dataset(PROMPTS)
            what, call, *_ = self.random.choice(CASES)
            try:
                call(World(self.client, model, held.it, dataset, self.client.server_info().limits))
            except ablate.AblateError as error:
                assert error.code != "INTERNAL", f"{what}: {error}"

    def noise(self) -> None:
        """Bytes that are no requests, and requests that end half way, at both ports."""
        for address in (self.daemon.grpc, self.daemon.http):
            host, _, port = address.rpartition("//")[2].rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10) as wire:
                wire.sendall(self.random.choice([
                    self.random.randbytes(200), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.random.randbytes(60),
                    b"POST /ablate.v1.RunService/Forward HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc",
                ]))  # fmt: skip
        with urllib.request.urlopen(f"http://{self.daemon.http}/metrics", timeout=30) as answer:
            answer.read()


DEEDS = [Person.passes, Person.unload, Person.prune, Person.job, Person.stream, Person.sweep, Person.drop,
         Person.keep, Person.upload, Person.refused, Person.noise]  # fmt: skip


class Deleted:
    """A graph that is deleted at the end, whatever runs on it."""

    def __init__(self, it: ablate.Graph):
        self.it = it

    def close(self) -> None:
        self.it.delete()


def live(person: Person, until: float, seen: collections.Counter, wrong: list[str]) -> None:
    while time.monotonic() < until and not wrong:
        deed = person.random.choice(DEEDS)
        try:
            deed(person)
            seen[deed.__name__] += 1
        except ablate.AblateError as error:
            seen[f"{error.reason or error.code}"] += 1
            if error.code not in RACES:
                wrong.append(f"{deed.__name__}: {error.code} {error}")
        except (AssertionError, LookupError, OSError, StopIteration, TypeError, ValueError) as error:
            wrong.append(f"{deed.__name__}: {error!r}")


def clean(client: ablate.Client) -> None:
    """Deletes all that is deletable, until nothing runs and nothing is held but jobs."""
    deadline = time.monotonic() + 60
    while True:
        for job in client.jobs():
            if job.state in ("queued", "running"):
                job.cancel()
        for model in client.models():
            for each in (*model.graphs(), *client.ablations(model), *model.activations(), *client.datasets()):
                with contextlib.suppress(ablate.AblateError):
                    each.delete()
            with contextlib.suppress(ablate.AblateError):
                model.unload()
        info = client.server_info()
        if not client.models() and not client.datasets() and info.active_job_count == 0:
            return
        assert time.monotonic() < deadline, f"what is left after a minute: {info}"


def idle(daemon: Daemon, client: ablate.Client) -> dict[str, float]:
    proc = Path(f"/proc/{daemon.process.pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    held = sum(value for _, value in client.server_info().resident_bytes.ListFields())
    return {
        "rss_mib": (int(status["VmRSS"].split()[0]) * 1024 - held) / 2**20,
        "jobs_mib": held / 2**20,
        "files": len(list((proc / "fd").iterdir())),
        "threads": int(status["Threads"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rounds = []
    wrong: list[str] = []
    total: collections.Counter = collections.Counter()
    with Daemon() as daemon, ablate.connect(daemon.grpc, arrays="numpy") as client:
        people = [Person(daemon, options.seed * 1000 + i) for i in range(options.clients)]
        end = time.monotonic() + options.minutes * 60
        while time.monotonic() < end and not wrong:
            seen: collections.Counter = collections.Counter()
            until = min(time.monotonic() + ROUND_S, end)
            threads = [threading.Thread(target=live, args=(person, until, seen, wrong)) for person in people]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if not daemon.alive():
                wrong.append(f"the daemon ended with {daemon.process.returncode}:\n{daemon.log()[-4000:]}")
                break
            clean(client)
            rounds.append(idle(daemon, client))
            total += seen
            row = "  ".join(f"{name} {value:8.1f}" for name, value in rounds[-1].items())
            print(f"round {len(rounds):3}  {row}  deeds {sum(seen.values())}", flush=True)
        for person in people:
            person.client.close()
    print(", ".join(f"{name} {count}" for name, count in total.most_common()))
    if len(rounds) > 4:
        early, late = rounds[1], rounds[-1]
        for name, slack in (("rss_mib", GROWTH_MIB), ("files", 16), ("threads", 8)):
            if late[name] > early[name] + slack:
                wrong.append(f"{name} of the idle daemon grew from {early[name]:.1f} to {late[name]:.1f}")
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
