// SPDX-License-Identifier: Apache-2.0
// The model's output with and without what is ablated.
import { AblationType, AblationTypeSchema, OutSlice } from "#gen/ablate/v1/common_pb.js";
import type { FormContent } from "../forms/schema.js";
import { edgeName, type Topology } from "../graph/topology.js";
import { masks, run } from "../lib/rpc.js";
import type { Logits } from "../prompt/logits.js";
import { setHooks, type Prompts, type Recipe } from "./recipes.js";

export interface Outcome {
  whole: Logits;
  patched: Logits;
  maskedCount: number;
  /** KL(whole || patched), nats. */
  kl: number;
}

const textPrompts = (...prompts: string[]) => ({ input: { case: "text" as const, value: { prompts } } });

/** What a pass's Ablation is of a form's choice: means that say whose they are take those prompts. */
export function ablationOf({ ablationType, ablationId }: FormContent, clean: string, corrupt: string) {
  if (typeof ablationId === "string") return { ablationId };
  const type = AblationTypeSchema.values.find(({ name }) => name === ablationType)?.number ?? AblationType.UNSPECIFIED;
  if (type === AblationType.ZERO) return { type };
  const prompts = type === AblationType.TOKENWISE_MEAN_CLEAN ? [clean]
    : type === AblationType.TOKENWISE_MEAN_CLEAN_AND_CORRUPT ? [clean, corrupt] : [corrupt];
  return { type, prompts: textPrompts(...prompts) };
}

function last(data: Uint8Array | undefined): Logits {
  if (!data || data.length === 0) throw new Error("The daemon sent no logits.");
  const values = new Float32Array(data.slice().buffer);
  return { values, positions: 1, vocabulary: values.length };
}

export function klDivergence(whole: Float32Array, patched: Float32Array): number {
  const log = (row: Float32Array) => {
    const most = row.reduce((a, b) => Math.max(a, b), -Infinity);
    return most + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
  };
  const [a, b] = [log(whole), log(patched)];
  let sum = 0;
  whole.forEach((logit, id) => (sum += Math.exp(logit - a) * (logit - a - (patched[id]! - b))));
  return Math.max(0, sum);
}

/** Sets the graph's hooks to these and its mask to these edges, and runs the model with them and without. */
export async function measure(
  topology: Topology, edges: number[], hooks: Recipe[], prompt: Prompts, chosen: FormContent,
): Promise<Outcome> {
  const { graphId } = topology.graph;
  const { modelId, clean, corrupt } = prompt;
  await setHooks(graphId, hooks, prompt);
  const cut = edges.map((edge) => ({
    edge: edgeName(topology, edge), seqNumber: topology.edgePosition[edge]! + 1, value: 1,
  }));
  const mask = { case: "edges" as const, value: { edges: cut, resetOthers: true } };
  const { maskedEdgeCount } = await masks.setPatchMask({ graphId, mask });
  const prompts = textPrompts(clean);
  const ablation = ablationOf(chosen, clean, corrupt);
  const [whole, patched] = await Promise.all([
    run.forward({ target: { case: "modelId", value: modelId }, prompts, outSlice: OutSlice.LAST_SEQ }),
    run.forward({ target: { case: "graphId", value: graphId }, prompts, outSlice: OutSlice.LAST_SEQ, ablation }),
  ]);
  const [one, two] = [last(whole.logits?.data), last(patched.logits?.data)];
  return { whole: one, patched: two, maskedCount: Number(maskedEdgeCount), kl: klDivergence(one.values, two.values) };
}
