// SPDX-License-Identifier: Apache-2.0
// How faithful the circuit under the slider is: the sweep of its size, of nothing and of everything,
// streamed as it runs. A moved slider ends the sweep before it and begins another.
import { useSignal, useSignalEffect, type Signal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import type { FormContent } from "../forms/schema.js";
import { recoveries } from "../lib/connection.js";
import { describe, isCancelled } from "../lib/errors.js";
import { count, number } from "../lib/format.js";
import { textCell } from "../lib/route.js";
import { Chart } from "../ui/chart.js";
import { Meter } from "../ui/meter.js";
import { Notice } from "../ui/notice.js";
import { drawnOf, figuresOf, measureCircuits, metricName, metricWords, type Measured } from "./sweep.js";
import { SweepForm, useSweepCells } from "./sweepform.js";

const SETTLE_MS = 250;

interface Props {
  jobId: string;
  modelId: string;
  edgeCount: number;
  shownCount: Signal<number>;
  final: Signal<boolean>;
  /** What sweeps of this job are like unless somebody says otherwise. */
  standard: FormContent;
}

/** What a measurement was asked for with: another one is not of it. */
const keyOf = (size: number, sweep: FormContent, metrics: FormContent) => JSON.stringify([size, sweep, metrics]);

export function Faithfulness({ jobId, modelId, edgeCount, shownCount, final, standard }: Props) {
  const { sweep, metrics } = useSweepCells(standard);
  const wanted = useMemo(() => textCell("curve"), []);
  const chosen = useMemo(() => textCell("draw"), []);
  const measured = useSignal<Measured | undefined>(undefined);
  const measuredKey = useSignal("");
  const measuredSize = useSignal(0);
  const curve = useSignal<Measured | undefined>(undefined);
  const curveKey = useSignal("");
  const progress = useSignal<number | undefined>(undefined);
  const error = useSignal("");
  const curveController = useRef<AbortController | undefined>(undefined);
  useEffect(() => () => curveController.current?.abort(), []);

  const follow = async (sizes: number[], signal: AbortSignal): Promise<Measured | undefined> => {
    error.value = "";
    progress.value = 0;
    let found: Measured | undefined;
    try {
      const names = (metrics.value["metrics"] ?? []) as string[];
      found = await measureCircuits(jobId, sizes, sweep.value, names, signal, (share) => (progress.value = share));
    } catch (failure) {
      if (!signal.aborted && !isCancelled(failure)) error.value = describe(failure);
    }
    if (signal.aborted) return undefined;
    progress.value = undefined;
    return found;
  };

  useSignalEffect(() => {
    const size = shownCount.value;
    const key = keyOf(size, sweep.value, metrics.value);
    void recoveries.value; // a sweep that failed while the daemon was away is made anew
    if (!final.value || edgeCount === 0) return undefined;
    const controller = new AbortController();
    const timer = setTimeout(() => {
      const sizes = [...new Set([0, size, edgeCount])].sort((a, b) => a - b);
      void follow(sizes, controller.signal).then((found) => {
        if (!found) return;
        measured.value = found;
        measuredKey.value = key;
        measuredSize.value = size;
      });
    }, SETTLE_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  });

  const whole = async () => {
    curveController.current?.abort();
    curveController.current = new AbortController();
    const key = keyOf(0, sweep.value, metrics.value);
    const found = await follow([], curveController.current.signal);
    if (!found) return;
    curve.value = found;
    curveKey.value = key;
    wanted.value = "1";
  };
  useEffect(() => {
    if (final.value && wanted.value !== "" && !curve.value) void whole(); // a link to a measured curve
  }, [final.value]);

  const fresh = measuredKey.value === keyOf(shownCount.value, sweep.value, metrics.value) && error.value === "";
  const { none, circuit, all } = measured.value ? figuresOf(measured.value, measuredSize.value) : {};
  const drawn = drawnOf(curve.value, chosen.value);
  const curveFresh = curveKey.value === keyOf(0, sweep.value, metrics.value);
  return (
    <section aria-labelledby="faith-title">
      <h2 id="faith-title">
        Faithfulness <small>of the circuit shown</small>
      </h2>
      {!final.value && <p class="quiet">Measured when the job has ended.</p>}
      {error.value && <Notice kind="error">{error.value}</Notice>}
      {all && circuit && (
        <table class={`list figures ${fresh ? "" : "stale"}`} aria-busy={!fresh}>
          <thead>
            <tr>
              <th scope="col"><span class="hidden">Metric</span></th>
              {none && <th scope="col" class="num">none</th>}
              <th scope="col" class="num">{count(circuit.edgeCount)} edges</th>
              <th scope="col" class="num">all</th>
            </tr>
          </thead>
          <tbody>
            {measured.value!.metrics.map((metric, index) => (
              <tr key={metric}>
                <th scope="row">{metricWords(metric)}</th>
                {none && <td class="num quiet">{number(none.values[index]!)}</td>}
                <td class="num"><strong>{number(circuit.values[index]!)}</strong></td>
                <td class="num quiet">{number(all.values[index]!)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {circuit && circuit.edgeCount !== measuredSize.value && (
        <p class="quiet">
          Edges of one score come together: measured with {count(circuit.edgeCount)}, not {count(measuredSize.value)}.
        </p>
      )}
      <div class="row">
        {progress.value !== undefined
          ? <Meter share={progress.value} label="Progress of the sweep" />
          : final.value && <button type="button" onClick={() => void whole()}>Measure the whole curve</button>}
        {curve.value && curve.value.metrics.length > 1 && (
          <label>Draw{" "}
            <select value={drawn} onChange={(event) => (chosen.value = metricName(curve.value!.metrics[event.currentTarget.selectedIndex]!))}>
              {curve.value.metrics.map((metric, index) => <option key={metric} value={index}>{metricWords(metric)}</option>)}
            </select>
          </label>
        )}
      </div>
      {curve.value && (
        <div class={curveFresh ? "" : "stale"}>
          <Chart axis="sizes" xLabel="edges in the circuit" yLabel={metricWords(curve.value.metrics[drawn]!)} mark={shownCount.value}
                 series={[{ name: "circuit", points: curve.value.rows.map((row) => ({ x: row.edgeCount, y: row.values[drawn] ?? Number.NaN })) }]} />
          {!curveFresh && <p class="quiet">Measured in another way than is chosen now: measure the curve again.</p>}
        </div>
      )}
      {final.value && <SweepForm modelId={modelId} sweep={sweep} metrics={metrics} />}
    </section>
  );
}
