// SPDX-License-Identifier: Apache-2.0
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { number, percent } from "../lib/format.js";
import { probability, topTokens } from "../prompt/logits.js";
import { textsOf, visible } from "../prompt/tokens.js";
import type { Outcome } from "./outcome.js";

/** The next token with and without what is ablated; greyed while newer numbers are on their way. */
export function Output({ modelId, outcome, fresh }: { modelId: string; outcome: Outcome; fresh: boolean }) {
  const texts = useSignal<Map<number, string>>(new Map());
  const { whole, patched } = outcome;
  const ids = [...new Set([...topTokens(whole, 0, 6), ...topTokens(patched, 0, 6)].map(({ id }) => id))];
  useEffect(() => {
    const controller = new AbortController();
    void textsOf(modelId, ids, controller.signal).then((found) => (texts.value = found)).catch(() => undefined);
    return () => controller.abort();
  }, [ids.join()]);
  const rows = ids
    .map((id) => ({ id, before: probability(whole, 0, id), after: probability(patched, 0, id) }))
    .sort((a, b) => Math.max(b.before, b.after) - Math.max(a.before, a.after));
  return (
    <section aria-labelledby="output-title" class={fresh ? "" : "stale"} aria-busy={!fresh}>
      <h2 id="output-title">
        Next token <small>KL to the whole model {number(outcome.kl < 1e-9 ? 0 : outcome.kl)} nats</small>
      </h2>
      <table class="list next">
        <thead>
          <tr>
            <th scope="col">Token</th>
            <th scope="col" colSpan={2}>whole model</th>
            <th scope="col" colSpan={2}>patched</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(({ id, before, after }) => (
            <tr key={id}>
              <th scope="row" class="mono" title={`id ${id}`}>{texts.value.has(id) ? visible(texts.value.get(id)!) : `#${id}`}</th>
              <td class="bar" aria-hidden="true"><i style={{ width: `${before * 100}%` }} /></td>
              <td class="num">{percent(before)}</td>
              <td class="bar corrupt" aria-hidden="true"><i style={{ width: `${after * 100}%` }} /></td>
              <td class="num">{percent(after)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
