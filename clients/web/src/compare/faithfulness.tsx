// SPDX-License-Identifier: Apache-2.0
// The faithfulness of both runs' circuits over their size, in one picture. It costs two sweeps, so it
// is measured when somebody asks.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Job } from "#gen/ablate/v1/prune_pb.js";
import { measureCircuits, metricWords, type Measured } from "../discover/sweep.js";
import { SweepForm } from "../discover/sweepform.js";
import type { FormContent } from "../forms/schema.js";
import { describe, isCancelled } from "../lib/errors.js";
import { Chart } from "../ui/chart.js";
import { Meter } from "../ui/meter.js";
import { Notice } from "../ui/notice.js";

export function FaithfulnessCurves({ jobs, names }: { jobs: [Job, Job]; names: [string, string] }) {
  const sweep = useSignal<FormContent>({});
  const metrics = useSignal<FormContent>({});
  const found = useSignal<{ curves: [Measured, Measured]; key: string } | undefined>(undefined);
  const chosen = useSignal(0);
  const progress = useSignal<number | undefined>(undefined);
  const error = useSignal("");
  const controller = useRef<AbortController | undefined>(undefined);
  useEffect(() => () => controller.current?.abort(), []);
  const key = JSON.stringify([sweep.value, metrics.value]);

  const measure = async () => {
    controller.current?.abort();
    const { signal } = (controller.current = new AbortController());
    error.value = "";
    const asked = (metrics.value["metrics"] ?? []) as string[];
    const one = (index: 0 | 1) => measureCircuits(jobs[index].jobId, [], sweep.value, asked, signal,
      (share) => (progress.value = (index + share) / 2));
    try {
      progress.value = 0;
      found.value = { curves: [await one(0), await one(1)], key };
    } catch (failure) {
      if (!signal.aborted && !isCancelled(failure)) error.value = describe(failure);
    }
    if (!signal.aborted) progress.value = undefined;
  };

  const curves = found.value?.curves;
  const drawn = Math.min(chosen.value, (curves?.[0].metrics.length ?? 1) - 1);
  return (
    <section aria-labelledby="curves-title">
      <h2 id="curves-title">Faithfulness over circuit size</h2>
      <div class="row tight">
        {progress.value !== undefined
          ? <Meter share={progress.value} label="Progress of the sweeps" />
          : <button type="button" onClick={() => void measure()}>Measure both curves</button>}
        {curves && curves[0].metrics.length > 1 && (
          <label>Draw{" "}
            <select value={drawn} onChange={(event) => (chosen.value = event.currentTarget.selectedIndex)}>
              {curves[0].metrics.map((metric, index) => <option key={metric} value={index}>{metricWords(metric)}</option>)}
            </select>
          </label>
        )}
      </div>
      {error.value && <Notice kind="error">{error.value}</Notice>}
      {curves && (
        <div class={found.value?.key === key ? "" : "stale"}>
          <Chart wide axis="sizes" xLabel="edges in the circuit" yLabel={metricWords(curves[0].metrics[drawn]!)}
                 series={curves.map((curve, index) => ({
                   name: names[index]!, points: curve.rows.map((row) => ({ x: row.edgeCount, y: row.values[drawn] ?? Number.NaN })),
                 }))} />
          {found.value?.key !== key && <p class="quiet">Measured in another way than is chosen now: measure again.</p>}
        </div>
      )}
      <SweepForm modelId={jobs[0].modelId} sweep={sweep} metrics={metrics} />
    </section>
  );
}
