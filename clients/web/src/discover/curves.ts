// SPDX-License-Identifier: Apache-2.0
// What a job's events say of its way: the steps of a training, the taus of an ACDC. Pure, for tests.
import type { AcdcDecision, AcdcTau, JobEvent } from "#gen/ablate/v1/prune_pb.js";
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
  /** The newest edge that was decided, in words; empty: unknown. */
  newestEdge: string;
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

/** More decisions than this are kept at every second one. */
const DECISIONS_MAX = 4000;
const halved = (points: Point[]) =>
  points.length <= DECISIONS_MAX ? points : points.filter((_, index) => index % 2 === 0 || index === points.length - 1);

const edgeWords = ({ edge, seqNumber, removed }: AcdcDecision) =>
  `${edge}${seqNumber > 0 ? ` at position ${seqNumber - 1}` : ""} ${removed ? "goes" : "stays"}`;

/** `decisions`: those of this tau since the event before. Where there were too many, the first are left out. */
function withTau(run: TauRun | undefined, newest: AcdcTau, decisions: AcdcDecision[]): TauRun {
  if (run && run.newest.decidedEdges === newest.decidedEdges) return run;
  const decided = Number(newest.decidedEdges);
  let count = Number(newest.removedEdges) - decisions.filter(({ removed }) => removed).length;
  let effect = run?.newest.effect ?? 0;
  const removedPoints = run ? [...run.removed] : [{ x: 0, y: 0 }];
  const effectPoints = run ? [...run.effect] : [{ x: 0, y: 0 }];
  decisions.forEach((decision, index) => {
    const x = decided - decisions.length + index + 1;
    count += decision.removed ? 1 : 0;
    effect = decision.removed ? decision.effect : effect;
    removedPoints.push({ x, y: count });
    effectPoints.push({ x, y: effect });
  });
  if (decisions.length === 0) {
    removedPoints.push({ x: decided, y: Number(newest.removedEdges) });
    effectPoints.push({ x: decided, y: newest.effect });
  }
  const last = decisions[decisions.length - 1];
  return {
    newest, removed: halved(removedPoints), effect: halved(effectPoints), newestEdge: last ? edgeWords(last) : "",
  };
}

/** The curves with an event more. */
export function withEvent({ steps, taus }: Curves, event: JobEvent): Curves {
  return {
    steps: withSteps(steps, event),
    taus: event.acdc.length === 0 ? taus
      : event.acdc.map((newest) => withTau(
        taus.find((run) => run.newest.tau === newest.tau), newest, event.acdcDecisions.filter(({ tau }) => tau === newest.tau))),
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
