// SPDX-License-Identifier: Apache-2.0
// A score for each edge, as one Float32Array in the order of topology.ts.
import type { TensorChunk } from "#gen/ablate/v1/common_pb.js";
import { prune } from "../lib/rpc.js";
import type { Topology } from "./topology.js";

/** Puts a chunk where it belongs; chunks of other modules than the graph's are an error. */
export function place(topology: Topology, bytes: Uint8Array, chunk: TensorChunk): void {
  const block = topology.blocks.find((candidate) => candidate.name === chunk.name);
  if (!block) throw new Error(`The scores have a module ${chunk.name} that the graph has not.`);
  bytes.set(chunk.data, block.begin * 4 + Number(chunk.offsetBytes));
}

/** The scores of a job, final or so far. */
export async function fetchScores(topology: Topology, jobId: string, signal: AbortSignal): Promise<Float32Array> {
  const values = new Float32Array(topology.edgeCount);
  const bytes = new Uint8Array(values.buffer);
  for await (const { chunk } of prune.getPruneScores({ jobId }, { signal })) {
    if (chunk) place(topology, bytes, chunk);
  }
  return values;
}

/** Edges by falling |score|; ties stay in canonical order. Edges that score 0 come last. */
export function ranking(values: Float32Array): Uint32Array {
  const size = values.map(Math.abs);
  const order = Uint32Array.from(values, (_, edge) => edge);
  return order.sort((a, b) => (size[b] === size[a] ? a - b : size[b]! > size[a]! ? 1 : -1));
}

/** How many of a ranking's edges score other than 0. */
export function nonzeroCount(values: Float32Array, order: Uint32Array): number {
  let low = 0;
  let high = order.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[order[middle]!] !== 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The largest finite |score|: what widths and colours are relative to; 0: no score yet. */
export function scale(values: Float32Array, order: Uint32Array): number {
  for (const edge of order) {
    const size = Math.abs(values[edge]!);
    if (Number.isFinite(size)) return size;
  }
  return 0;
}
