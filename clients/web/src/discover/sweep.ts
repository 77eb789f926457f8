// SPDX-License-Identifier: Apache-2.0
// A job's circuits of several sizes, run and measured: how it is asked for, and what comes back.
import { fromJson, type JsonObject } from "@bufbuild/protobuf";
import { EvaluateCircuitsRequestSchema, Metric, type EvaluateCircuitsResponse } from "#gen/ablate/v1/evaluate_pb.js";
import type { SweepProgress } from "#gen/ablate/v1/run_pb.js";
import { evaluate } from "../lib/rpc.js";
import type { FormContent } from "../forms/schema.js";

export const DEFAULT_METRICS = [Metric.KL_DIV, Metric.ANSWER_DIFF, Metric.CORRECT_ANSWER_PERCENT];

/** Members of CircuitSweep that are asked for as they are. */
export const SWEEP_OPTIONS = [
  "patch_type", "reverse_clean_corrupt", "batch_size", "prompt_count", "tail_divergence", "signed_scores",
];

const WORDS: Partial<Record<Metric, string>> = {
  [Metric.KL_DIV]: "KL, nats",
  [Metric.ANSWER_DIFF]: "Logit diff.",
  [Metric.CORRECT_ANSWER_PERCENT]: "Accuracy, %",
};

/** A metric that is new in the protos goes by its name there. */
export function metricWords(metric: Metric): string {
  const words = metricName(metric).toLowerCase().replaceAll("_", " ").replace(" percent", ", %");
  return WORDS[metric] ?? words.charAt(0).toUpperCase() + words.slice(1);
}

export interface Row {
  edgeCount: number;
  /** In the order of the metrics that were asked for. */
  values: number[];
}

/** What was measured, and by which metrics. */
export interface Measured {
  metrics: Metric[];
  rows: Row[];
}

/** "KL_DIV". */
export const metricName = (metric: Metric): string => Metric[metric] ?? String(metric);

/** Which of what was measured is drawn: the metric of this name, else the first. */
export function drawnOf(measured: Measured | undefined, name: string): number {
  return Math.max(0, measured?.metrics.findIndex((metric) => metricName(metric) === name) ?? 0);
}

/**
 * Of a sweep of nothing, a circuit and everything, each as far as it is there: edges of one score come
 * together, so a circuit may be larger than was asked for, and no circuit empty.
 */
export function figuresOf({ rows }: Measured, size: number): { none?: Row; circuit?: Row; all?: Row } {
  const bySize = [...rows].sort((a, b) => a.edgeCount - b.edgeCount);
  const none = bySize[0]?.edgeCount === 0 ? bySize[0] : undefined;
  const circuit = bySize.find(({ edgeCount }) => edgeCount >= size);
  const all = bySize[bySize.length - 1];
  return { ...(none ? { none } : {}), ...(circuit ? { circuit } : {}), ...(all ? { all } : {}) };
}

function rowOf(message: EvaluateCircuitsResponse): Row {
  return { edgeCount: Number(message.edgeCount), values: message.values.map(({ value }) => value) };
}

/**
 * Runs circuits of these sizes, or of the default ones. `sweep`: the sweep's other members as JSON;
 * `metrics`: names in proto/, none: the default ones. `progress` is told shares from 0 to 1.
 */
export async function measureCircuits(
  jobId: string, edgeCounts: number[], sweep: FormContent, metrics: string[], signal: AbortSignal,
  progress: (share: number) => void,
): Promise<Measured> {
  const request = fromJson(EvaluateCircuitsRequestSchema, {
    sweep: { ...(sweep as JsonObject), jobId, edgeCounts: edgeCounts.map(String) },
    metrics,
  });
  const asked = request.metrics.length > 0 ? request.metrics : DEFAULT_METRICS;
  const rows: Row[] = [];
  for await (const message of evaluate.evaluateCircuits({ ...request, metrics: asked }, { signal })) {
    if (!message.progress) rows.push(rowOf(message));
    else progress(shareOf(message.progress));
  }
  return { metrics: asked, rows };
}

function shareOf({ doneCount, totalCount }: SweepProgress): number {
  return totalCount > 0n ? Number(doneCount) / Number(totalCount) : 0;
}
