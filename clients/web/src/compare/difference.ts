// SPDX-License-Identifier: Apache-2.0
// Two sets of scores over graphs of one shape: do they fit together, and what differs.
import type { Topology } from "../graph/topology.js";
import { ranking, scale } from "../graph/scores.js";

/** Why these cannot be compared; empty where they can. */
export function mismatch(one: Topology, other: Topology): string {
  const shape = (topology: Topology) => topology.blocks.map(({ name, shape }) => `${name}[${shape.join()}]`).join(" ");
  return shape(one) === shape(other) ? ""
    : "These two jobs are over graphs of different edges (other options, or another model). Choose jobs of one graph.";
}

/** Each set divided by its largest score, so that algorithms of different units compare. */
export function normalised(values: Float32Array): Float32Array {
  const largest = scale(values, ranking(values));
  return largest > 0 ? values.map((value) => Math.max(-1, Math.min(1, value / largest))) : values.slice();
}

/** |first| - |second| of normalised scores: positive where the first finds more in an edge. */
export function difference(first: Float32Array, second: Float32Array): Float32Array {
  return first.map((value, edge) => Math.abs(value) - Math.abs(second[edge]!));
}

export interface Point {
  x: number;
  y: number;
  edge: number;
}

/** The edges that matter to either, at most `most`: of the others a picture would show one blot. */
export function scatterPoints(first: Float32Array, second: Float32Array, most: number): Point[] {
  const size = first.map((value, edge) => Math.max(Math.abs(value), Math.abs(second[edge]!)));
  const order = ranking(size).subarray(0, most);
  return Array.from(order, (edge) => ({ x: first[edge]!, y: second[edge]!, edge }));
}
