// SPDX-License-Identifier: Apache-2.0
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { Metric } from "#gen/ablate/v1/evaluate_pb.js";
import { JobEventSchema } from "#gen/ablate/v1/prune_pb.js";
import { NO_CURVES, sizeBreaks, withEvent } from "../src/discover/curves.js";
import { figuresOf, metricWords } from "../src/discover/sweep.js";
import { nearest, onAxis, thin, ticksOf } from "../src/ui/series.js";

const event = (init: MessageInitShape<typeof JobEventSchema>) => create(JobEventSchema, init);

test("axes are even in decades, and sizes have room for 0", () => {
  expect([0, 1, 10, 100].map((x) => onAxis("sizes", x))).toEqual([0, 1, 2, 3]);
  expect(onAxis("log", 0.01)).toBe(-2);
  expect(onAxis("linear", 7)).toBe(7);
});

test("ticks are round and within the range", () => {
  expect(ticksOf("linear", 0, 9.5, 5)).toEqual([0, 2, 4, 6, 8]);
  expect(ticksOf("linear", -1, 1, 4)).toEqual([-1, -0.5, 0, 0.5, 1]);
  expect(ticksOf("linear", 3, 3, 4)).toEqual([3]);
  expect(ticksOf("sizes", 0, 1519, 6)).toEqual([0, 1, 10, 100, 1000]);
  expect(ticksOf("log", 1e-5, 0.09, 6)).toHaveLength(4);
});

test("a thinned line keeps its extremes and its order", () => {
  const points = Array.from({ length: 10_000 }, (_, x) => ({ x, y: Math.sin(x / 500) }));
  points[5003]!.y = 9;
  points[7001]!.y = -9;
  const few = thin(points, 600);
  expect(few.length).toBeLessThanOrEqual(600);
  expect(Math.max(...few.map(({ y }) => y))).toBe(9);
  expect(Math.min(...few.map(({ y }) => y))).toBe(-9);
  expect(few.map(({ x }) => x)).toEqual([...few.map(({ x }) => x)].sort((a, b) => a - b));
  expect(thin(points.slice(0, 5), 600)).toHaveLength(5);
});

test("the nearest point is found from either side", () => {
  const points = [0, 1, 10].map((x) => ({ x, y: 0 }));
  expect([-5, 0.4, 0.6, 5, 6, 99].map((x) => nearest(points, x))).toEqual([0, 0, 1, 1, 2, 2]);
});

test("a training's steps are counted over its events, and other sizes are told", () => {
  let curves = withEvent(NO_CURVES, event({ training: [{ loss: 3, circuitSize: 10n }, { loss: 2, circuitSize: 10n }] }));
  curves = withEvent(curves, event({ training: [{ loss: 5, circuitSize: 20n, hasValidation: true, validation: 80 }] }));
  expect(curves.steps.map(({ number, loss, validation }) => [number, loss, validation]))
    .toEqual([[1, 3, undefined], [2, 2, undefined], [3, 5, 80]]);
  expect(sizeBreaks(curves.steps)).toEqual([{ x: 3, label: "from here for circuits of 20 edges" }]);
});

test("a very long training keeps a bounded number of steps, the newest among them", () => {
  let curves = NO_CURVES;
  for (let index = 0; index < 60; index++) {
    curves = withEvent(curves, event({ training: Array.from({ length: 1000 }, () => ({ loss: index })) }));
  }
  expect(curves.steps.length).toBeLessThanOrEqual(20_000);
  expect(curves.steps[curves.steps.length - 1]).toMatchObject({ number: 60_000, loss: 59 });
});

test("ACDC's taus grow by what its events say", () => {
  let curves = withEvent(NO_CURVES, event({ acdc: [{ tau: 0.1, decidedEdges: 5n, removedEdges: 4n, effect: 0.2 }] }));
  curves = withEvent(curves, event({ acdc: [
    { tau: 0.1, decidedEdges: 5n, removedEdges: 4n, effect: 0.2 }, { tau: 0.3, decidedEdges: 2n, removedEdges: 2n, effect: 0.1 },
  ] }));
  expect(curves.taus.map(({ removed }) => removed)).toEqual([
    [{ x: 0, y: 0 }, { x: 5, y: 4 }], [{ x: 0, y: 0 }, { x: 2, y: 2 }],
  ]);
  expect(withEvent(curves, event({})).taus).toBe(curves.taus);
});

test("ACDC's decisions are steps of their tau, counted back from its sums", () => {
  const decision = (edge: string, removed: boolean, effect: number, tau = 0.1) => ({ edge, removed, effect, tau });
  const curves = withEvent(NO_CURVES, event({
    acdc: [{ tau: 0.1, decidedEdges: 5n, removedEdges: 4n, effect: 0.2 }],
    // the first two decisions came too fast to be told
    acdcDecisions: [decision("A", true, 0.1), decision("B", false, 0.9), decision("C", true, 0.2)],
  }));
  expect(curves.taus[0]).toMatchObject({
    removed: [{ x: 0, y: 0 }, { x: 3, y: 3 }, { x: 4, y: 3 }, { x: 5, y: 4 }],
    effect: [{ x: 0, y: 0 }, { x: 3, y: 0.1 }, { x: 4, y: 0.1 }, { x: 5, y: 0.2 }],
    newestEdge: "C goes",
  });
});

test("metrics have words, new ones their name", () => {
  expect(metricWords(Metric.KL_DIV)).toBe("KL, nats");
  expect(metricWords(Metric.ANSWER_PROB_DIFF_PERCENT)).toBe("Answer prob diff, %");
});

test("a sweep's figures: a circuit with ties is larger than its size, and may leave no empty one", () => {
  const row = (edgeCount: number) => ({ edgeCount, values: [edgeCount] });
  const figures = (sizes: number[], size: number) => {
    const { none, circuit, all } = figuresOf({ metrics: [], rows: sizes.map(row) }, size);
    return [none?.edgeCount, circuit?.edgeCount, all?.edgeCount];
  };
  expect(figures([0, 40, 1519], 40)).toEqual([0, 40, 1519]);
  expect(figures([46, 1519], 40)).toEqual([undefined, 46, 1519]);
  expect(figures([46, 1519], 0)).toEqual([undefined, 46, 1519]);
  expect(figures([0, 1519], 1519)).toEqual([0, 1519, 1519]);
  expect(figures([], 3)).toEqual([undefined, undefined, undefined]);
});
