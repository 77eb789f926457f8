// SPDX-License-Identifier: Apache-2.0
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe as group, expect, test } from "vitest";
import { ErrorInfoSchema } from "#gen/google/rpc/error_details_pb.js";
import { GetServerInfoResponseSchema } from "#gen/ablate/v1/admin_pb.js";
import { JobEventSchema, JobState } from "#gen/ablate/v1/prune_pb.js";
import { backoffMs } from "../src/lib/backoff.js";
import { answered, epoch, restartMs } from "../src/lib/connection.js";
import { describe, isCancelled, isLost, reasonOf } from "../src/lib/errors.js";
import * as format from "../src/lib/format.js";
import { watchJob } from "../src/lib/jobs.js";
import { formatHash, parseHash } from "../src/lib/route.js";
import docs from "../build/gen/docs.json" with { type: "json" };

group("waiting", () => {
  test("attempts come less and less often, and at least every ten seconds", () => {
    const waits = [0, 1, 2, 3, 9, 1000].map((n) => backoffMs(n, () => 0));
    expect(waits).toEqual([500, 1000, 2000, 4000, 10_000, 10_000]);
    expect(backoffMs(0, () => 1)).toBe(400);
  });
  test("a daemon of another instance was started anew, however long it has been up", () => {
    const answers = (instanceId: string, uptimeMs: bigint) =>
      answered(create(GetServerInfoResponseSchema, { instanceId, uptimeMs }));
    answers("aaaa", 60_000n);
    answers("aaaa", 1000n); // a clock that was set is no restart
    expect([epoch.value, restartMs.value]).toEqual([0, 0]);
    answers("bbbb", 90_000n);
    expect(epoch.value).toBe(1);
    expect(restartMs.value).toBeGreaterThan(0);
  });
});

group("numbers", () => {
  test("are short, exact enough, and say their unit", () => {
    expect(format.bytes(0)).toBe("0 B");
    expect(format.bytes(1536n)).toBe("1.5 KiB");
    expect(format.bytes(538_000_000)).toBe("513 MiB");
    expect(format.duration(75_000)).toBe("1 min 15 s");
    expect(format.counted(1, "edge")).toBe("1 edge");
    expect(format.counted(32_491n, "edge")).toBe("32,491 edges");
    expect(format.number(-0.28149)).toBe("−0.2815");
    expect([1508, 30380, 1.5e9].map(format.number)).toEqual(["1508", "30,380", "1.50e+9"]);
    expect(format.number(Number.NaN)).toBe("n/a");
    expect(format.number(Infinity)).toBe("∞");
    expect(format.percent(0.0731)).toBe("7.3 %");
    const short = [0, 0.05, 0.001234, -10.3, 1460, 2e-5].map((value) => format.brief(value));
    expect(short).toEqual(["0", "0.05", "0.00123", "−10.3", "1,460", "2e-5"]);
    expect([1455, 1460].map((value) => format.brief(value, 4))).toEqual(["1,455", "1,460"]);
    expect(format.counted(2, "set of activations", "sets of activations")).toBe("2 sets of activations");
  });
});

group("the address", () => {
  test("names the view and its parameters, there and back", () => {
    const hash = formatHash({ view: "discover", params: { job: "job-1", top: "50", empty: "" } });
    expect(hash).toBe("#/discover?job=job-1&top=50");
    expect(parseHash(hash)).toEqual({ view: "discover", params: { job: "job-1", top: "50" } });
  });
  test("of no view is the overview", () => {
    expect(parseHash("#/nonsense?x=1").view).toBe("overview");
    expect(parseHash("").view).toBe("overview");
  });
});

function refusal(code: Code, reason: string, message: string): ConnectError {
  const value = create(ErrorInfoSchema, { reason, domain: "ablate" });
  return new ConnectError(message, code, undefined, [{ desc: ErrorInfoSchema, value }]);
}

group("errors", () => {
  test("of the daemon keep its sentence", () => {
    const error = refusal(Code.InvalidArgument, "ALGORITHM_OPTIONS", "steps: at most 1000");
    expect(reasonOf(error)).toBe("ALGORITHM_OPTIONS");
    expect(describe(error)).toBe("Steps: at most 1000.");
    expect(isLost(error)).toBe(false);
  });
  test("about what is gone say what to do", () => {
    expect(describe(refusal(Code.NotFound, "JOB_UNKNOWN", "no job has the id 'job-9'; ListJobs lists them"))).toBe(
      "No job has the id 'job-9'. It was removed, or the daemon was started again since. Choose another.");
  });
  test("of a lost connection are no sentence of the browser's", () => {
    const error = new TypeError("Failed to fetch");
    expect(isLost(error)).toBe(true);
    expect(describe(error)).toContain("does not answer");
    expect(isCancelled(error)).toBe(false);
  });
  test("of this page's own making are kept as they are", () => {
    const error = new Error("there is no dataset: upload one");
    expect(isLost(error)).toBe(false);
    expect(describe(error)).toBe("There is no dataset: upload one.");
  });
  test("of a daemon that drains are worth another attempt", () => {
    expect(isLost(refusal(Code.Unavailable, "DRAINING", "the daemon stops"))).toBe(true);
  });
});

group("watching a job", () => {
  const event = (sequence: number, state = JobState.RUNNING) => ({
    event: create(JobEventSchema, { sequence: BigInt(sequence), state }),
  });

  test("goes on behind the last event when the connection breaks, and repeats none", async () => {
    const asked: bigint[] = [];
    async function* watch(_: string, after: bigint) {
      asked.push(after);
      if (after === 0n) {
        yield event(1);
        yield event(2);
        throw new TypeError("network error");
      }
      yield event(2);
      yield event(3, JobState.SUCCEEDED);
    }
    const seen: bigint[] = [];
    for await (const { sequence } of watchJob("job-1", 0n, new AbortController().signal, watch)) seen.push(sequence);
    expect(seen).toEqual([1n, 2n, 3n]);
    expect(asked).toEqual([0n, 2n]);
  });

  test("ends with the daemon's refusal", async () => {
    async function* watch(): AsyncGenerator<never> {
      throw refusal(Code.NotFound, "JOB_UNKNOWN", "there is no such job");
    }
    const events = watchJob("job-1", 0n, new AbortController().signal, watch);
    await expect(events.next()).rejects.toThrow("there is no such job");
  });

  test("of a job that has ended ends", async () => {
    async function* watch(): AsyncGenerator<never> {}
    const events = watchJob("job-1", 7n, new AbortController().signal, watch);
    expect((await events.next()).done).toBe(true);
  });
});

test("the comments of the protos are there for forms to show", () => {
  expect((docs as Record<string, string>)["ablate.v1.EapIg.steps"]).toMatch(/^Points on the way/);
  expect((docs as Record<string, string>)["ablate.v1.AblationType.ABLATION_TYPE_ZERO"]).toBe("zero");
});
