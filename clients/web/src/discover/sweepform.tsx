// SPDX-License-Identifier: Apache-2.0
// How circuits are run and measured: made from CircuitSweep and the metrics of EvaluateCircuits.
import { useMemo } from "preact/hooks";
import { EvaluateCircuitsRequestSchema } from "#gen/ablate/v1/evaluate_pb.js";
import { CircuitSweepSchema } from "#gen/ablate/v1/run_pb.js";
import { AblationField } from "../forms/ablation.js";
import { Fields } from "../forms/fields.js";
import type { FormContent } from "../forms/schema.js";
import { ablationHandle, fetchKept } from "../lib/kept.js";
import { usePolled } from "../lib/poll.js";
import { jsonCell, type Cell } from "../lib/route.js";
import { SWEEP_OPTIONS } from "./sweep.js";

/** How a view's sweeps are run and measured: parts of its address. `standard`: unless somebody says otherwise. */
export function useSweepCells(standard: FormContent): Pick<Props, "sweep" | "metrics"> {
  return useMemo(() => ({ sweep: jsonCell("sweep", standard), metrics: jsonCell<FormContent>("metrics", {}) }), [JSON.stringify(standard)]);
}

interface Props {
  modelId: string;
  sweep: Cell<FormContent>;
  metrics: Cell<FormContent>;
}

export function SweepForm({ modelId, sweep, metrics }: Props) {
  const kept = usePolled(fetchKept, 5);
  const ablations = (kept.value.value?.ablations ?? []).filter((one) => one.modelId === modelId).map(ablationHandle);
  return (
    <details>
      <summary>How circuits are measured</summary>
      <AblationField content={sweep} kept={ablations} />
      <Fields message={CircuitSweepSchema} content={sweep} only={SWEEP_OPTIONS} />
      <Fields message={EvaluateCircuitsRequestSchema} content={metrics} only={["metrics"]} />
    </details>
  );
}
