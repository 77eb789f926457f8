// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { AblationType } from "#gen/ablate/v1/common_pb.js";
import { wholeNumbers } from "../src/patch/hooks.js";
import { Latest } from "../src/patch/latest.js";
import { ablationOf, klDivergence } from "../src/patch/outcome.js";

test("only the newest of what waits is run, and never two at once", async () => {
  const latest = new Latest();
  const ran: number[] = [];
  let running = 0;
  let release: () => void = () => undefined;
  const gate = new Promise<void>((done) => (release = done));
  const work = (name: number) => async () => {
    expect(++running).toBe(1);
    if (name === 1) await gate;
    ran.push(name);
    running--;
  };
  for (const name of [1, 2, 3]) latest.ask(work(name));
  release();
  await gate;
  await new Promise((done) => setTimeout(done));
  expect(ran).toEqual([1, 3]);
});

test("the divergence of equal outputs is 0, of others that of their distributions", () => {
  const whole = Float32Array.of(1, 2, 3);
  expect(klDivergence(whole, whole.map((logit) => logit + 5))).toBeCloseTo(0, 5);
  expect(klDivergence(Float32Array.of(0, 0), Float32Array.of(0, Math.log(3)))).toBeCloseTo(0.5 * Math.log(4 / 3), 5);
});

test("heads and positions are whole numbers, or a sentence", () => {
  expect(wholeNumbers(" 0, 3 -1", "Positions")).toEqual([0, 3, -1]);
  expect(() => wholeNumbers("x", "Heads")).toThrow("Heads: 'x' is no whole number.");
});

test("an ablation is of the prompts that its kind is of", () => {
  const text = (...prompts: string[]) => ({ input: { case: "text", value: { prompts } } });
  expect(ablationOf({}, "a", "b")).toEqual({ type: AblationType.UNSPECIFIED, prompts: text("b") });
  expect(ablationOf({ ablationType: "ABLATION_TYPE_ZERO" }, "a", "b")).toEqual({ type: AblationType.ZERO });
  expect(ablationOf({ ablationType: "ABLATION_TYPE_TOKENWISE_MEAN_CLEAN" }, "a", "b").prompts).toEqual(text("a"));
  expect(ablationOf({ ablationType: "ABLATION_TYPE_TOKENWISE_MEAN_CLEAN_AND_CORRUPT" }, "a", "b").prompts).toEqual(text("a", "b"));
  expect(ablationOf({ ablationId: "ablation-1" }, "a", "b")).toEqual({ ablationId: "ablation-1" });
});
