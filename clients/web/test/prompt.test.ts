// SPDX-License-Identifier: Apache-2.0
import { expect, test } from "vitest";
import { logitDifference, probability, topTokens, type Logits } from "../src/prompt/logits.js";
import { visible } from "../src/prompt/tokens.js";

const logits: Logits = { values: Float32Array.of(0, 1, 2, 3, 1, 1, 1000, 0), positions: 2, vocabulary: 4 };

test("the likeliest tokens come in order with probabilities that add up", () => {
  const top = topTokens(logits, 0, 4);
  expect(top.map(({ id }) => id)).toEqual([3, 2, 1, 0]);
  expect(top.reduce((sum, one) => sum + one.probability, 0)).toBeCloseTo(1);
  expect(topTokens(logits, 0, 2)).toHaveLength(2);
  expect(probability(logits, 0, 2)).toBeCloseTo(Math.exp(2) / (1 + Math.E + Math.exp(2) + Math.exp(3)));
});

test("huge logits do not overflow", () => {
  expect(topTokens(logits, 1, 1)[0]).toMatchObject({ id: 2, probability: 1 });
});

test("the logit difference is of one position at a time", () => {
  expect(logitDifference(logits, 2, 0)).toEqual([2, 999]);
});

test("blanks of tokens can be seen", () => {
  expect(visible(" Mary")).toBe("·Mary");
  expect(visible("\n")).toBe("↵");
});
