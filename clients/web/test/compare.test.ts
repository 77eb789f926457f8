// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { difference, mismatch, normalised, scatterPoints } from "../src/compare/difference.js";
import type { Topology } from "../src/graph/topology.js";

test("runs of other units compare by their largest score", () => {
  expect([...normalised(Float32Array.of(2, -4, 0))]).toEqual([0.5, -1, 0]);
  expect([...normalised(Float32Array.of(1, Infinity))]).toEqual([1, 1]);
  expect([...normalised(new Float32Array(2))]).toEqual([0, 0]);
});

test("a difference is positive where the first run finds more, whatever the sign", () => {
  expect([...difference(Float32Array.of(-1, 0.5), Float32Array.of(0.5, -1))]).toEqual([0.5, -0.5]);
});

test("only the edges that matter to either run are dots", () => {
  const points = scatterPoints(Float32Array.of(0, 1, 0.1), Float32Array.of(0.5, 0, 0), 2);
  expect(points.map(({ edge }) => edge)).toEqual([1, 0]);
});

test("graphs of other edges are refused with what to do", () => {
  const topology = (shape: number[]) => ({ blocks: [{ name: "m", shape, begin: 0, size: 1 }] }) as unknown as Topology;
  expect(mismatch(topology([2]), topology([2]))).toBe("");
  expect(mismatch(topology([2]), topology([3]))).toContain("Choose jobs of one graph");
});
