// SPDX-License-Identifier: Apache-2.0
// Interventions in words: those of a graph, as ListHooks has them, and those that a run was made with,
// as its provenance has them.
import type { Intervention } from "#gen/ablate/v1/hooks_pb.js";
import type { Job } from "#gen/ablate/v1/prune_pb.js";

/** An intervention as Provenance.hooks_json writes it; hook_id: it is the graph's, else the job's own. */
export interface HookFacts {
  name: string;
  operation: string;
  hook_id?: string;
  factor?: number;
  shape?: number[];
  low?: number;
  high?: number;
  over_rows?: boolean;
  over_positions?: boolean;
  activations_id?: string;
  heads?: number[];
  positions?: number[];
  rows?: number[];
}

/** A number as somebody gave it, though the wire has it as a float32. */
export const given = (value: number): string =>
  (Number.isFinite(value) ? String(Number(value.toPrecision(7))) : value > 0 ? "∞" : "-∞").replace("-", "−");

const tensor = (shape: readonly (number | bigint)[] | undefined) => `a tensor [${shape?.join(", ") ?? ""}]`;

function operationWords(facts: HookFacts): string {
  const over = [facts.over_rows ? "rows" : "", facts.over_positions ? "positions" : ""].filter(Boolean).join(" and ");
  switch (facts.operation) {
    case "zero": return "set to zero";
    case "mean": return `replaced by its mean over ${over}`;
    case "set": return `replaced by ${tensor(facts.shape)}`;
    case "add": return `plus ${given(facts.factor || 1)} × ${tensor(facts.shape)}`;
    case "scale": return `scaled by ${given(facts.factor ?? 0)}`;
    case "clamp": return `kept between ${given(facts.low ?? -Infinity)} and ${given(facts.high ?? Infinity)}`;
    case "project_out": return `without what lies along ${tensor(facts.shape)}`;
    case "patch": return `replaced by that of ${facts.activations_id ?? "another run"}`;
    case "capture": return "captured";
    case "capture_gradient": return "its gradient captured";
    default: return facts.operation;
  }
}

const listed = (what: string, numbers: number[] | undefined) =>
  numbers && numbers.length > 0 ? `${what}${numbers.length > 1 ? "s" : ""} ${numbers.join(", ").replaceAll("-", "−")}` : "";

/** "heads 1, 3; position −1", or "everywhere". */
export function whereWords({ heads, positions, rows }: Pick<HookFacts, "heads" | "positions" | "rows">): string {
  return [listed("head", heads), listed("position", positions), listed("row", rows)].filter(Boolean).join("; ") || "everywhere";
}

/** "blocks.0.attn.hook_z: set to zero (head 1)". */
export function hookWords(facts: HookFacts): string {
  return `${facts.name}: ${operationWords(facts)} (${whereWords(facts)})`;
}

const shapeOf = (tensor?: { shape: bigint[] }) => (tensor?.shape ?? []).map(Number);

/** An intervention of the protos in the same terms. */
export function factsOf({ name, heads, positions, rows, operation }: Intervention): HookFacts {
  const facts = { name, heads, positions, rows };
  switch (operation.case) {
    case "mean": {
      const { overRows, overPositions } = operation.value;
      return { ...facts, operation: "mean", over_rows: overRows, over_positions: overPositions };
    }
    case "set": return { ...facts, operation: "set", shape: shapeOf(operation.value.value) };
    case "add": return { ...facts, operation: "add", factor: operation.value.factor, shape: shapeOf(operation.value.value) };
    case "scale": return { ...facts, operation: "scale", factor: operation.value.factor };
    case "clamp": return { ...facts, operation: "clamp", low: operation.value.low, high: operation.value.high };
    case "projectOut": return { ...facts, operation: "project_out", shape: shapeOf(operation.value.direction) };
    case "patch": return { ...facts, operation: "patch", activations_id: operation.value.activationsId };
    case "captureGradient": return { ...facts, operation: "capture_gradient" };
    default: return { ...facts, operation: operation.case ?? "unknown" };
  }
}

/** What a run's passes were made with: the graph's hooks as they were when it was submitted, and its own. */
export function hooksOfRun(job: Job): HookFacts[] {
  const text = job.provenance?.hooksJson ?? "";
  return text === "" ? [] : (JSON.parse(text) as HookFacts[]);
}
