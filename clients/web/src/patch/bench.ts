// SPDX-License-Identifier: Apache-2.0
// Where edges are ablated by hand: a graph of the page's own, so that nobody else's mask changes, with
// the edges of a job to choose from. The graph is kept for the tab, and is made anew when it is gone.
import type { GraphOptions } from "#gen/ablate/v1/common_pb.js";
import type { Job } from "#gen/ablate/v1/prune_pb.js";
import { fetchScores, ranking, scale } from "../graph/scores.js";
import { fetchTopology, type Topology } from "../graph/topology.js";
import { reasonOf } from "../lib/errors.js";
import { QUICK, graphs } from "../lib/rpc.js";

export interface Bench {
  modelId: string;
  graphId: string;
  topology: Topology;
  /** The job's scores, or zeros. */
  values: Float32Array;
  order: Uint32Array;
  largest: number;
}

const graphKey = (modelId: string, options: GraphOptions | undefined) =>
  `ablate-hand ${modelId} ${options?.kind} ${options?.mergeQkv} ${options?.seqLen} ${options?.expandKvHeads}`;

async function ownGraph(modelId: string, options: GraphOptions | undefined, signal: AbortSignal): Promise<string> {
  const key = graphKey(modelId, options);
  const known = sessionStorage.getItem(key);
  if (known !== null) {
    try {
      const { graph } = await graphs.getGraph({ graphId: known }, { ...QUICK, signal });
      if (graph) return graph.graphId;
    } catch (failure) {
      if (reasonOf(failure) !== "GRAPH_UNKNOWN") throw failure;
    }
  }
  const { graph } = await graphs.createGraph({ modelId, ...(options ? { options } : {}) }, { ...QUICK, signal });
  sessionStorage.setItem(key, graph!.graphId);
  return graph!.graphId;
}

export async function openBench(modelId: string, job: Job | undefined, signal: AbortSignal): Promise<Bench> {
  const graphId = await ownGraph(modelId, job?.provenance?.graph, signal);
  const topology = await fetchTopology(graphId, signal);
  const values = job ? await fetchScores(topology, job.jobId, signal) : new Float32Array(topology.edgeCount);
  const order = ranking(values);
  return { modelId, graphId, topology, values, order, largest: scale(values, order) };
}

/** The edges that leave a place, at every position. */
export function edgesFrom(topology: Topology, place: number): number[] {
  const out: number[] = [];
  for (let edge = 0; edge < topology.edgeCount; edge++) {
    if (topology.sourcePlace[topology.edgeSource[edge]!] === place) out.push(edge);
  }
  return out;
}
