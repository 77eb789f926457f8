// SPDX-License-Identifier: Apache-2.0
// How faithful the circuit under the slider is: the sweep of its size, of nothing and of everything,
// streamed as it runs. A moved slider ends the sweep before it and begins another.
import { useSignal, useSignalEffect, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Metric, type EvaluateCircuitsResponse } from "#gen/ablate/v1/evaluate_pb.js";
import type { SweepProgress } from "#gen/ablate/v1/run_pb.js";
import { describe, isCancelled } from "../lib/errors.js";
import { count, number } from "../lib/format.js";
import { evaluate } from "../lib/rpc.js";
import { Curve, type CurvePoint } from "../ui/curve.js";
import { Meter } from "../ui/meter.js";
import { Notice } from "../ui/notice.js";

const METRICS = [Metric.KL_DIV, Metric.ANSWER_DIFF, Metric.CORRECT_ANSWER_PERCENT];
const NAMES = ["KL, nats", "Logit diff.", "Accuracy, %"];
const SETTLE_MS = 250;

interface Props {
  jobId: string;
  edgeCount: number;
  shownCount: Signal<number>;
  final: Signal<boolean>;
}

type Row = { edgeCount: number; values: number[] };

async function* sweep(jobId: string, edgeCounts: bigint[], signal: AbortSignal): AsyncGenerator<Row | SweepProgress> {
  const request = { sweep: { jobId, ...(edgeCounts.length > 0 ? { edgeCounts } : {}) }, metrics: METRICS };
  for await (const message of evaluate.evaluateCircuits(request, { signal })) {
    if (message.progress) yield message.progress;
    else yield rowOf(message);
  }
}

function rowOf(message: EvaluateCircuitsResponse): Row {
  return { edgeCount: Number(message.edgeCount), values: message.values.map(({ value }) => value) };
}

const isRow = (message: Row | SweepProgress): message is Row => "edgeCount" in message;

export function Faithfulness({ jobId, edgeCount, shownCount, final }: Props) {
  const rows = useSignal<Row[]>([]);
  const curve = useSignal<Row[]>([]);
  const progress = useSignal<number | undefined>(undefined);
  const error = useSignal("");
  const measured = useSignal(-1);
  const curveController = useRef<AbortController | undefined>(undefined);
  useEffect(() => () => curveController.current?.abort(), []);

  const follow = async (sizes: bigint[], signal: AbortSignal, into: Signal<Row[]>) => {
    const found: Row[] = [];
    error.value = "";
    progress.value = 0;
    try {
      for await (const message of sweep(jobId, sizes, signal)) {
        if (isRow(message)) found.push(message);
        else if (message.totalCount > 0n) progress.value = Number(message.doneCount) / Number(message.totalCount);
      }
      if (!signal.aborted) into.value = found;
    } catch (failure) {
      if (!signal.aborted && !isCancelled(failure)) error.value = describe(failure);
    }
    if (!signal.aborted) progress.value = undefined;
  };

  useSignalEffect(() => {
    const size = shownCount.value;
    if (!final.value || edgeCount === 0) return undefined;
    const controller = new AbortController();
    const timer = setTimeout(() => {
      const sizes = [...new Set([0, size, edgeCount])].sort((a, b) => a - b).map(BigInt);
      void follow(sizes, controller.signal, rows).then(() => {
        if (!controller.signal.aborted) measured.value = size;
      });
    }, SETTLE_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  });

  const whole = () => {
    curveController.current?.abort();
    curveController.current = new AbortController();
    void follow([], curveController.current.signal, curve);
  };

  const fresh = measured.value === shownCount.value && error.value === "";
  const [none, all] = [rows.value[0], rows.value[rows.value.length - 1]];
  const circuit = rows.value.length === 3 ? rows.value[1] : rows.value.find((row) => row.edgeCount === measured.value);
  const points: CurvePoint[] = curve.value.map((row) => ({ x: row.edgeCount, y: row.values[0] ?? Number.NaN }));
  return (
    <section aria-labelledby="faith-title">
      <h2 id="faith-title">
        Faithfulness <small>of the circuit under the slider</small>
      </h2>
      {!final.value && <p class="quiet">Measured when the job has ended.</p>}
      {error.value && <Notice kind="error">{error.value}</Notice>}
      {none && all && circuit && (
        <table class={`list figures ${fresh ? "" : "stale"}`} aria-busy={!fresh}>
          <thead>
            <tr>
              <th scope="col"><span class="hidden">Metric</span></th>
              <th scope="col" class="num">0 edges</th>
              <th scope="col" class="num">{count(circuit.edgeCount)} edges</th>
              <th scope="col" class="num">all</th>
            </tr>
          </thead>
          <tbody>
            {NAMES.map((name, index) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td class="num quiet">{number(none.values[index]!)}</td>
                <td class="num"><strong>{number(circuit.values[index]!)}</strong></td>
                <td class="num quiet">{number(all.values[index]!)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <div class="row">
        {progress.value !== undefined
          ? <Meter share={progress.value} label="Progress of the sweep" />
          : final.value && <button type="button" onClick={whole}>Measure the whole curve</button>}
      </div>
      {points.length > 1 && (
        <Curve points={points} mark={shownCount.value} xLabel="edges in the circuit" yLabel="KL divergence, nats" />
      )}
    </section>
  );
}
