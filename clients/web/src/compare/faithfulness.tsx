// SPDX-License-Identifier: Apache-2.0
// The faithfulness of both runs' circuits over their size, in one picture. It costs two sweeps, so it
// is measured when somebody asks.
import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import type { Job } from "#gen/ablate/v1/prune_pb.js";
import { drawnOf, measureCircuits, metricName, metricWords, type Measured } from "../discover/sweep.js";
import { SweepForm, useSweepCells } from "../discover/sweepform.js";
import { describe, isCancelled } from "../lib/errors.js";
import { textCell } from "../lib/route.js";
import { Chart } from "../ui/chart.js";
import { Meter } from "../ui/meter.js";
import { Notice } from "../ui/notice.js";

export function FaithfulnessCurves({ jobs, names }: { jobs: [Job, Job]; names: [string, string] }) {
  const { sweep, metrics } = useSweepCells({});
  const wanted = useMemo(() => textCell("curve"), []);
  const chosen = useMemo(() => textCell("draw"), []);
  const found = useSignal<{ curves: [Measured, Measured]; key: string } | undefined>(undefined);
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
      wanted.value = "1";
    } catch (failure) {
      if (!signal.aborted && !isCancelled(failure)) error.value = describe(failure);
    }
    if (!signal.aborted) progress.value = undefined;
  };

  useEffect(() => {
    if (wanted.value !== "") void measure(); // a link to measured curves
  }, []);

  const curves = found.value?.curves;
  const drawn = drawnOf(curves?.[0], chosen.value);
  return (
    <section aria-labelledby="curves-title">
      <h2 id="curves-title">Faithfulness over circuit size</h2>
      <div class="row tight">
        {progress.value !== undefined
          ? <Meter share={progress.value} label="Progress of the sweeps" />
          : <button type="button" onClick={() => void measure()}>Measure both curves</button>}
        {curves && curves[0].metrics.length > 1 && (
          <label>Draw{" "}
            <select value={drawn} onChange={(event) => (chosen.value = metricName(curves[0].metrics[event.currentTarget.selectedIndex]!))}>
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
