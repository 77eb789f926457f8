// SPDX-License-Identifier: Apache-2.0
// The hooks that a run was made with, and whether its graph has the same ones now: what is measured of
// its circuits is measured with the graph's of now, and without the run's own.
import type { Job } from "#gen/ablate/v1/prune_pb.js";
import { counted } from "../lib/format.js";
import { hookWords, hooksOfRun, type HookFacts } from "../lib/hookwords.js";
import { HookList, useGraphHooks } from "../ui/graphhooks.js";
import { Notice } from "../ui/notice.js";

const sameHooks = (some: HookFacts[], others: HookFacts[]) =>
  some.map(hookWords).join("\n") === others.map(hookWords).join("\n");

/** How the measures of a run's circuits differ from the run, in words; empty where they do not. */
export function differenceWords(ofRun: HookFacts[], now: HookFacts[]): string {
  const ofGraph = ofRun.filter((hook) => hook.hook_id !== undefined);
  const own = ofRun.length - ofGraph.length;
  return [
    sameHooks(ofGraph, now) ? ""
      : now.length === 0 ? "The graph's hooks were removed since: faithfulness is measured without them."
      : `The graph's hooks were changed since: faithfulness is measured with those of now (${now.map(hookWords).join("; ")}).`,
    own > 0 ? `Faithfulness is measured without the run's own ${own > 1 ? "interventions" : "intervention"}.` : "",
  ].filter(Boolean).join(" ");
}

export function RunHooks({ job }: { job: Job }) {
  const hooks = hooksOfRun(job);
  const now = useGraphHooks(job.spec!.graphId);
  const differs = now ? differenceWords(hooks, now) : "";
  if (hooks.length === 0 && differs === "") return null;
  const own = hooks.filter((hook) => hook.hook_id === undefined);
  const ofGraph = hooks.filter((hook) => hook.hook_id !== undefined);
  return (
    <details open class="run-hooks">
      <summary>{hooks.length === 0 ? "This run had no hooks" : `This run is of a model with ${counted(hooks.length, "hook")}`}</summary>
      {ofGraph.length > 0 && <HookList hooks={ofGraph} label="Hooks of the run's graph" />}
      {own.length > 0 && <><p class="quiet">Of this run alone:</p><HookList hooks={own} label="Interventions of the run" /></>}
      {differs && <Notice kind="info">{differs}</Notice>}
    </details>
  );
}
