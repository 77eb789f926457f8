// SPDX-License-Identifier: Apache-2.0
// A graph's hooks in words. They act in all that is run on it, whoever added them.
import { hookWords, factsOf, type HookFacts } from "../lib/hookwords.js";
import { usePolled } from "../lib/poll.js";
import { QUICK, run } from "../lib/rpc.js";

export function HookList({ hooks, label }: { hooks: HookFacts[]; label: string }) {
  return (
    <ul class="hook-list" aria-label={label}>
      {hooks.map((hook, index) => <li key={index}>{hookWords(hook)}</li>)}
    </ul>
  );
}

/** The hooks that a graph has now; undefined until they are known. */
export function useGraphHooks(graphId: string): HookFacts[] | undefined {
  const polled = usePolled(async (signal) => ({
    graphId, hooks: (await run.listHooks({ graphId }, { ...QUICK, signal })).hooks.flatMap(({ intervention }) => intervention ?? []),
  }), 2);
  const now = polled.value.value;
  return now?.graphId === graphId ? now.hooks.map(factsOf) : undefined;
}

/** Nothing where there are none. Keyed by its graph. */
export function GraphHooks({ graphId }: { graphId: string }) {
  const hooks = useGraphHooks(graphId);
  if (!hooks || hooks.length === 0) return null;
  return <HookList hooks={hooks} label={`Hooks of ${graphId}`} />;
}
