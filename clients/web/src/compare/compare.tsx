// SPDX-License-Identifier: Apache-2.0
// Two runs against each other: how far their scores agree, how much their circuits share, where they
// differ.
import { useComputed, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { CompareScoresResponse } from "#gen/ablate/v1/evaluate_pb.js";
import type { Job } from "#gen/ablate/v1/prune_pb.js";
import { Picture } from "../graph/picture.js";
import { buildScene } from "../graph/scene.js";
import { fetchScores, nonzeroCount, ranking, scale } from "../graph/scores.js";
import { fetchTopology, type Topology } from "../graph/topology.js";
import { epoch, recoveries } from "../lib/connection.js";
import { describe, isCancelled } from "../lib/errors.js";
import { count, number, percent } from "../lib/format.js";
import { algorithmName, isActive, jobTitle } from "../lib/jobs.js";
import { usePolled } from "../lib/poll.js";
import { route, setParams } from "../lib/route.js";
import { QUICK, evaluate, prune } from "../lib/rpc.js";
import { Notice } from "../ui/notice.js";
import { FaithfulnessCurves } from "./faithfulness.js";
import { difference, mismatch, normalised, scatterPoints } from "./difference.js";
import { Scatter } from "./scatter.js";

const DOTS_MAX = 5000;
const SHOWN = 60;

interface Comparison {
  jobs: [Job, Job];
  topology: Topology;
  values: [Float32Array, Float32Array];
  result: CompareScoresResponse;
}

async function compare(one: Job, other: Job, signal: AbortSignal): Promise<Comparison> {
  const topology = await fetchTopology(one.spec!.graphId, signal);
  if (other.spec!.graphId !== one.spec!.graphId) {
    const problem = mismatch(topology, await fetchTopology(other.spec!.graphId, signal));
    if (problem) throw new Error(problem);
  }
  const [result, first, second] = await Promise.all([
    evaluate.compareScores({ jobId: one.jobId, otherJobId: other.jobId }, { signal }),
    fetchScores(topology, one.jobId, signal),
    fetchScores(topology, other.jobId, signal),
  ]);
  return { jobs: [one, other], topology, values: [first, second], result };
}

/** "EAP" and "EAP-IG", or with their numbers where both are the same. */
function namesOf([one, other]: [Job, Job]): [string, string] {
  const [a, b] = [one, other].map((job) => algorithmName(job.spec?.algorithm.case)) as [string, string];
  return a === b ? [`${a} (${one.jobId})`, `${b} (${other.jobId})`] : [a, b];
}

function Overlaps({ result }: { result: CompareScoresResponse }) {
  const rows = result.overlaps.filter(({ edgeCount }) => edgeCount > 0n && /^[125]0*$/.test(String(edgeCount)));
  return (
    <table class="list bars-list">
      <thead>
        <tr>
          <th scope="col" class="num">Circuit size</th>
          <th scope="col" class="num">in both</th>
          <th scope="col" colSpan={2}>Jaccard</th>
        </tr>
      </thead>
      <tbody>
        {rows.map((row) => (
          <tr key={String(row.edgeCount)}>
            <th scope="row" class="num">{count(row.edgeCount)}</th>
            <td class="num">{count(row.commonCount)}</td>
            <td class="bar" aria-hidden="true"><i style={{ width: `${(Number.isNaN(row.jaccard) ? 0 : row.jaccard) * 100}%` }} /></td>
            <td class="num">{Number.isNaN(row.jaccard) ? "n/a" : percent(row.jaccard)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Result({ comparison }: { comparison: Comparison }) {
  const { topology, values, result } = comparison;
  const names = namesOf(comparison.jobs);
  const pointed = useSignal(-1);
  const pictures = useComputed(() => {
    const [first, second] = [normalised(values[0]), normalised(values[1])];
    const delta = difference(first, second);
    const order = ranking(delta);
    const shown = order.subarray(0, Math.min(SHOWN, nonzeroCount(delta, order)));
    return { points: scatterPoints(first, second, DOTS_MAX), delta, scene: buildScene(topology, delta, shown, scale(delta, order)) };
  });
  const tied = result.overlaps.some((row) => row.firstCount > row.edgeCount || row.secondCount > row.edgeCount);
  const scene = useComputed(() => pictures.value.scene);
  const delta = useComputed(() => pictures.value.delta);
  return (
    <>
      <div class="two">
        <section aria-labelledby="agree-title">
          <h2 id="agree-title">Agreement</h2>
          <table class="facts">
            <tbody>
              <tr><th scope="row">Rank correlation of |score| (Spearman)</th><td class="num">{number(result.spearman)}</td></tr>
              <tr><th scope="row">Correlation of scores (Pearson)</th><td class="num">{number(result.pearson)}</td></tr>
            </tbody>
          </table>
          <h3>Overlap of the circuits of one size</h3>
          <Overlaps result={result} />
          {tied && <p class="quiet">Edges of one score are in a circuit together: such circuits are larger than their size.</p>}
        </section>
        <section aria-labelledby="scatter-title">
          <h2 id="scatter-title">Scores, edge by edge</h2>
          <Scatter topology={topology} points={pictures.value.points} values={values} names={names} />
        </section>
      </div>
      <FaithfulnessCurves jobs={comparison.jobs} names={names} />
      <section aria-labelledby="differ-title">
        <h2 id="differ-title">Where they differ</h2>
        <div class="tabs">
          <span class="legend quiet">
            <i class="plus" aria-hidden="true" /> larger in {names[0]} <i class="minus" aria-hidden="true" /> larger in {names[1]};
            the {SHOWN} largest differences of |score|, each run's by its largest
          </span>
        </div>
        <Picture scene={scene} values={delta} pointed={pointed} label={`Where ${names[0]} and ${names[1]} differ`} />
      </section>
    </>
  );
}

export function Compare() {
  const polled = usePolled(async (signal) => (await prune.listJobs({ pageSize: 100 }, { ...QUICK, signal })).jobs, 2);
  const jobs = polled.value.value?.filter((job) => !isActive(job.state));
  const { a = "", b = "" } = route.value.params;
  const partner = (job: Job) => jobs?.find((other) => other !== job && other.modelId === job.modelId);
  const one = a ? jobs?.find(({ jobId }) => jobId === a) : jobs?.find(partner) ?? jobs?.[0];
  const other = b ? jobs?.find(({ jobId }) => jobId === b)
    : (one && partner(one)) ?? jobs?.[0];
  const gone = jobs ? [one ? "" : a, other ? "" : b].filter(Boolean) : [];
  const comparison = useSignal<Comparison | undefined>(undefined);
  useEffect(() => {
    if (one && other) setParams({ a: one.jobId, b: other.jobId }); // newer jobs do not move what is shown
  }, [one?.jobId, other?.jobId]);
  const error = useSignal("");
  useEffect(() => {
    comparison.value = undefined;
    error.value = "";
    if (!one || !other) return undefined;
    const controller = new AbortController();
    compare(one, other, controller.signal)
      .then((result) => (comparison.value = result))
      .catch((failure: unknown) => {
        if (!controller.signal.aborted && !isCancelled(failure)) error.value = describe(failure);
      });
    return () => controller.abort();
  }, [one?.jobId, other?.jobId, epoch.value, recoveries.value]);
  return (
    <>
      <h1>Compare</h1>
      <div class="stack">
        <section aria-label="Runs">
          {jobs?.length === 0 && gone.length === 0 ? (
            <p class="quiet">No finished runs. <a href="#/discover">Discover</a> two circuits first.</p>
          ) : (
            <div class="row tight">
              {([["First run", "a", one], ["Second run", "b", other]] as const).map(([label, key, chosen]) => (
                <label key={key}>{label}{" "}
                  <select value={chosen?.jobId ?? ""} onChange={(event) => setParams({ [key]: event.currentTarget.value })}>
                    {!chosen && <option value="">{(key === "a" ? a : b) || "none"} (gone)</option>}
                    {jobs?.map((job) => <option key={job.jobId} value={job.jobId}>{jobTitle(job)}</option>)}
                  </select>
                </label>
              ))}
            </div>
          )}
          {one && one === other && <Notice kind="info">Both are the same run. Choose another as the second.</Notice>}
          {gone.length > 0 && (
            <Notice kind="error">
              {gone.join(" and ")} {gone.length > 1 ? "are no finished runs" : "is no finished run"} of this daemon: removed, still
              at work, or of before it was started again. Choose among those there are, or <a href="#/discover">discover</a> anew.
            </Notice>
          )}
          {error.value && <Notice kind="error">{error.value}</Notice>}
        </section>
        {comparison.value && one !== other && <Result key={comparison.value.jobs.map(({ jobId }) => jobId).join()} comparison={comparison.value} />}
      </div>
    </>
  );
}
