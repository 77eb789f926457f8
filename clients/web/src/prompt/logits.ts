// SPDX-License-Identifier: Apache-2.0
// The logits of one prompt at every position, and what is read off them.
import { OutSlice } from "#gen/ablate/v1/common_pb.js";
import { run } from "../lib/rpc.js";

/** Row major [positions, vocabulary]. */
export interface Logits {
  values: Float32Array;
  positions: number;
  vocabulary: number;
}

export interface Candidate {
  id: number;
  logit: number;
  probability: number;
}

/** A plain pass; streamed, for all positions of a large vocabulary fit in no message. */
export async function fetchLogits(modelId: string, prompt: string, signal: AbortSignal): Promise<Logits> {
  const prompts = { input: { case: "text" as const, value: { prompts: [prompt] } } };
  const forward = { target: { case: "modelId" as const, value: modelId }, prompts, outSlice: OutSlice.ALL };
  let values = new Float32Array();
  let shape: number[] = [];
  for await (const { chunk } of run.runWithCache({ forward }, { signal })) {
    if (chunk?.name !== "logits") continue;
    if (shape.length === 0) {
      shape = chunk.shape.map(Number);
      values = new Float32Array(shape.reduce((product, length) => product * length, 1));
    }
    new Uint8Array(values.buffer).set(chunk.data, Number(chunk.offsetBytes));
  }
  const vocabulary = shape[shape.length - 1] ?? 0;
  if (vocabulary === 0) throw new Error("The daemon sent no logits.");
  return { values, vocabulary, positions: values.length / vocabulary };
}

export function rowOf(logits: Logits, position: number): Float32Array {
  return logits.values.subarray(position * logits.vocabulary, (position + 1) * logits.vocabulary);
}

/** log of the sum of exp. */
function normaliser(row: Float32Array): number {
  let most = -Infinity;
  for (const logit of row) if (logit > most) most = logit;
  let sum = 0;
  for (const logit of row) sum += Math.exp(logit - most);
  return most + Math.log(sum);
}

export function probability(logits: Logits, position: number, id: number): number {
  const row = rowOf(logits, position);
  return Math.exp(row[id]! - normaliser(row));
}

/** The likeliest next tokens at a position. */
export function topTokens(logits: Logits, position: number, count: number): Candidate[] {
  const row = rowOf(logits, position);
  const log = normaliser(row);
  const best: number[] = [];
  row.forEach((logit, id) => {
    if (best.length === count && logit <= row[best[count - 1]!]!) return;
    let at = best.length;
    while (at > 0 && row[best[at - 1]!]! < logit) at--;
    best.splice(at, 0, id);
    if (best.length > count) best.pop();
  });
  return best.map((id) => ({ id, logit: row[id]!, probability: Math.exp(row[id]! - log) }));
}

/** logit(answer) - logit(wrong answer), at every position. */
export function logitDifference(logits: Logits, answer: number, wrong: number): number[] {
  return Array.from({ length: logits.positions }, (_, position) => {
    const row = rowOf(logits, position);
    return row[answer]! - row[wrong]!;
  });
}
