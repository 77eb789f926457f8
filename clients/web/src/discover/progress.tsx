// SPDX-License-Identifier: Apache-2.0
// How a run gets to its scores, drawn while it does: a training's losses step by step, ACDC's removed
// edges over tau and over the edges that were tried.
import { brief, count } from "../lib/format.js";
import { param, setParams } from "../lib/route.js";
import { Chart } from "../ui/chart.js";
import { sizeBreaks, type Curves, type Step } from "./curves.js";

const pointsOf = (steps: Step[], value: (step: Step) => number) => steps.map((step) => ({ x: step.number, y: value(step) }));

function Training({ steps, live }: { steps: Step[]; live: boolean }) {
  const last = steps[steps.length - 1]!;
  const validated = steps.filter(({ validation }) => validation !== undefined);
  const breaks = sizeBreaks(steps);
  return (
    <section aria-labelledby="training-title">
      <h2 id="training-title">
        Training <small>{last.circuitSize > 0 ? `now for circuits of ${count(last.circuitSize)} edges` : `${count(last.number)} steps`}</small>
      </h2>
      <Chart axis="linear" xLabel="steps" yLabel="loss" live={live} breaks={breaks} series={[
        { name: "loss", points: pointsOf(steps, ({ loss }) => loss) },
        { name: "faithfulness", points: pointsOf(steps, ({ faithfulness }) => faithfulness) },
        { name: "regularization", points: pointsOf(steps, ({ regularization }) => regularization) },
      ]} />
      {validated.length > 0 && (
        <Chart axis="linear" xLabel="steps" yLabel="validation, %" live={live} breaks={breaks}
               series={[{ name: "answer difference kept", points: pointsOf(validated, ({ validation }) => validation!) }]} />
      )}
      {breaks.length > 0 && <p class="quiet">A line across: another circuit size begins.</p>}
    </section>
  );
}

function Acdc({ taus, live }: { taus: Curves["taus"]; live: boolean }) {
  const chosen = param("tau").value;
  const run = taus.find(({ newest }) => String(newest.tau) === chosen) ?? taus[taus.length - 1]!;
  return (
    <section aria-labelledby="acdc-title">
      <h2 id="acdc-title">
        ACDC <small>{count(run.newest.removedEdges)} edges removed at τ = {brief(run.newest.tau)}</small>
      </h2>
      <Chart axis="log" xLabel="τ" yLabel="edges removed" mark={run.newest.tau} fromZero={false} live={live}
             series={[{ name: "removed", points: taus.map(({ newest }) => ({ x: newest.tau, y: Number(newest.removedEdges) })) }]} />
      <label>Step by step at τ{" "}
        <select value={chosen} onChange={(event) => setParams({ tau: event.currentTarget.value })}>
          <option value="">the newest, {brief(taus[taus.length - 1]!.newest.tau)}</option>
          {taus.map(({ newest }) => <option key={newest.tau} value={String(newest.tau)}>{brief(newest.tau)}</option>)}
        </select>
      </label>
      <Chart axis="linear" xLabel="edges tried" yLabel="edges removed" live={live} series={[{ name: "removed", points: run.removed }]} />
      {live && run.newestEdge && <p class="quiet">Newest: {run.newestEdge}.</p>}
      <details>
        <summary>What the removed edges cost</summary>
        <Chart axis="log" xLabel="τ" yLabel="effect" mark={run.newest.tau} live={live}
               series={[{ name: "effect", points: taus.map(({ newest }) => ({ x: newest.tau, y: newest.effect })) }]} />
        <Chart axis="linear" xLabel="edges tried" yLabel="effect" live={live} series={[{ name: "effect", points: run.effect }]} />
      </details>
    </section>
  );
}

/** Nothing for algorithms that have no such way. `live`: the job still runs. */
export function Progress({ curves, live }: { curves: Curves; live: boolean }) {
  return (
    <>
      {curves.steps.length > 1 && <Training steps={curves.steps} live={live} />}
      {curves.taus.length > 0 && <Acdc taus={curves.taus} live={live} />}
    </>
  );
}
