// SPDX-License-Identifier: Apache-2.0
// What a job's events say of its way: the steps of a training, the taus of an ACDC. Pure, for tests.
import type { AcdcTau, JobEvent } from "#gen/ablate/v1/prune_pb.js";
import type { Point } from "../ui/series.js";

/** An optimizer step. */
export interface Step {
  /** Counted over the whole job, from 1. */
  number: number;
  circuitSize: number;
  loss: number;
  faithfulness: number;
  regularization: number;
  /** Percent of the clean answer difference that is kept, where there are validation prompts. */
  validation: number | undefined;
}

/** A tau, and how edges went while it was tried. */
export interface TauRun {
  newest: AcdcTau;
  /** Edges removed, and the effect, over the edges that were tried. */
  removed: Point[];
  effect: Point[];
}

export interface Curves {
  steps: Step[];
  /** By rising tau, as far as they have begun. */
  taus: TauRun[];
}

export const NO_CURVES: Curves = { steps: [], taus: [] };

/** More steps than this are kept at every second one: a line of more could not be told apart. */
const STEPS_MAX = 20_000;

function withSteps(steps: Step[], event: JobEvent): Step[] {
  if (event.training.length === 0) return steps;
  let number = steps[steps.length - 1]?.number ?? 0;
  const next = steps.concat(event.training.map((point) => ({
    number: ++number,
    circuitSize: Number(point.circuitSize),
    loss: point.loss,
    faithfulness: point.faithfulness,
    regularization: point.regularization,
    validation: point.hasValidation ? point.validation : undefined,
  })));
  return next.length <= STEPS_MAX ? next : next.filter((_, index) => index % 2 === 1 || index === next.length - 1);
}

function withTau(run: TauRun | undefined, newest: AcdcTau): TauRun {
  if (run && run.newest.decidedEdges === newest.decidedEdges) return run;
  const x = Number(newest.decidedEdges);
  return {
    newest,
    removed: [...(run?.removed ?? [{ x: 0, y: 0 }]), { x, y: Number(newest.removedEdges) }],
    effect: [...(run?.effect ?? [{ x: 0, y: 0 }]), { x, y: newest.effect }],
  };
}

/** The curves with an event more. */
export function withEvent({ steps, taus }: Curves, event: JobEvent): Curves {
  return {
    steps: withSteps(steps, event),
    taus: event.acdc.length === 0 ? taus
      : event.acdc.map((newest) => withTau(taus.find((run) => run.newest.tau === newest.tau), newest)),
  };
}

/** Where another circuit size begins to be trained. */
export function sizeBreaks(steps: Step[]): { x: number; label: string }[] {
  return steps.flatMap((step, index) => {
    const before = steps[index - 1];
    return before && before.circuitSize !== step.circuitSize
      ? [{ x: step.number, label: `from here for circuits of ${step.circuitSize} edges` }] : [];
  });
}
