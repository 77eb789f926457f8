// SPDX-License-Identifier: Apache-2.0
// Scores and a circuit as the graph JSON of EAP-IG 2.0 and the MIB benchmark. There in_graph true means
// kept. A node is in the graph when an edge leads into it and one out of it.
import type { Model } from "#gen/ablate/v1/model_pb.js";
import { eapName, type Topology } from "../graph/topology.js";

/** Why this graph has no such file; empty where it has one. */
export function mibProblem(topology: Topology, model: Model): string {
  const options = topology.graph.options;
  const grouped = model.config!.nKeyValueHeads !== model.config!.nHeads && !options?.expandKvHeads;
  const split = !options?.mergeQkv && (options?.seqLen ?? 0) === 0;
  const named = topology.edgeCount === 0 || eapName(topology, 0) !== undefined;
  return split && named && !grouped ? ""
    : "MIB's files are of factorized graphs without token positions, with q, k and v apart and a key and " +
      "value input for each head. Run on a graph with those options (expand KV heads, for grouped queries).";
}

/** `kept`: the edges of the circuit. */
export function toMib(topology: Topology, model: Model, values: Float32Array, kept: ReadonlySet<number>): string {
  const config = model.config!;
  const edges: Record<string, { score: number; in_graph: boolean }> = {};
  const sends = new Map<string, boolean>();
  const reads = new Map<string, boolean>();
  for (let edge = 0; edge < topology.edgeCount; edge++) {
    const name = eapName(topology, edge)!;
    const inGraph = kept.has(edge);
    edges[name] = { score: values[edge]!, in_graph: inGraph };
    const [source = "", reader = ""] = name.split("->");
    const node = reader.split("<")[0]!;
    sends.set(source, (sends.get(source) ?? false) || inGraph);
    reads.set(node, (reads.get(node) ?? false) || inGraph);
  }
  const nodes: Record<string, { in_graph: boolean }> = {};
  for (const [name, sending] of sends) nodes[name] = { in_graph: sending && (reads.get(name) ?? true) };
  nodes["logits"] = { in_graph: true };
  const cfg = {
    n_layers: config.nLayers, n_heads: config.nHeads,
    parallel_attn_mlp: config.parallelAttnMlp, d_model: config.dModel,
  };
  return JSON.stringify({ cfg, nodes, edges });
}
