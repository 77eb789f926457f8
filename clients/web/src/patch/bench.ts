// SPDX-License-Identifier: Apache-2.0
// Where edges are ablated by hand: a graph of the view's own, so that nobody else's mask changes, with
// the edges of a job to choose from. A graph keeps its model from being unloaded, so it goes with the
// view or the tab, and by itself if the tab could not say so; it is made anew when it is gone. What was
// done by hand is the view's, not the graph's: ablated edges and hooks are in the address.
import type { GraphOptions } from "#gen/ablate/v1/common_pb.js";
import type { Job } from "#gen/ablate/v1/prune_pb.js";
import { fetchScores, ranking, scale } from "../graph/scores.js";
import { edgeKey, picker } from "../graph/pick.js";
import { fetchTopology, type Topology } from "../graph/topology.js";
import { QUICK, graphs, leaving } from "../lib/rpc.js";

export interface Bench {
  modelId: string;
  graphId: string;
  topology: Topology;
  /** The job's scores, or zeros. */
  values: Float32Array;
  order: Uint32Array;
  largest: number;
}

/** The daemon deletes the graph when it has not heard of it for this long: a tab can end unsaid. */
const IDLE_MS = 150_000n;
/** How often an open view names its graph; hidden tabs' timers run about once a minute. */
export const TOUCH_MS = 30_000;

async function ownGraph(modelId: string, options: GraphOptions | undefined, signal: AbortSignal): Promise<string> {
  const request = { modelId, idleTimeoutMs: IDLE_MS, ...(options ? { options } : {}) };
  const { graph } = await graphs.createGraph(request, { ...QUICK, signal });
  return graph!.graphId;
}

/** Tells the daemon that nobody needs the graph any more, also while the page goes. */
export function closeBench(graphId: string): void {
  leaving.deleteGraph({ graphId }).catch(() => undefined); // it may be gone already; else it goes by itself
}

export async function openBench(modelId: string, job: Job | undefined, signal: AbortSignal): Promise<Bench> {
  const graphId = await ownGraph(modelId, job?.provenance?.graph, signal);
  try {
    const topology = await fetchTopology(graphId, signal);
    const values = job ? await fetchScores(topology, job.jobId, signal) : new Float32Array(topology.edgeCount);
    const order = ranking(values);
    return { modelId, graphId, topology, values, order, largest: scale(values, order) };
  } catch (failure) {
    closeBench(graphId);
    throw failure;
  }
}

/** The edges that leave a place, at every position. */
export function edgesFrom(topology: Topology, place: number): number[] {
  const out: number[] = [];
  for (let edge = 0; edge < topology.edgeCount; edge++) {
    if (topology.sourcePlace[topology.edgeSource[edge]!] === place) out.push(edge);
  }
  return out;
}

/** What is ablated as an address has it: "A0.3,MLP 0->A1.2.Q,A0.1->MLP 1@4". */
export function formatCut(topology: Topology, places: Iterable<number>, edges: Iterable<number>): string {
  const nodes = [...places].map((place) => topology.places[place]!.name);
  return [...nodes, ...[...edges].map((edge) => edgeKey(topology, edge))].join(",");
}

/** The other way; names that this graph does not have are left out. */
export function parseCut(topology: Topology, text: string): { places: Set<number>; edges: Set<number> } {
  const [places, edges] = [new Set<number>(), new Set<number>()];
  const pick = picker(topology);
  for (const part of text.split(",").filter(Boolean)) {
    const { place, edge } = pick(part);
    if (place >= 0) places.add(place);
    if (edge >= 0) edges.add(edge);
  }
  return { places, edges };
}
