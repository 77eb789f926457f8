// SPDX-License-Identifier: Apache-2.0
// Interventions at hook points: zero, scale, or steer by the difference of the two prompts. They are of
// the page's own graph and act in its next pass; the address has them.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { describe } from "../lib/errors.js";
import type { Cell } from "../lib/route.js";
import { QUICK, models, run } from "../lib/rpc.js";
import { Notice } from "../ui/notice.js";
import { interventionOf, recipeWords, type Operation, type Prompts, type Recipe } from "./recipes.js";

const OPERATIONS: Record<Operation, string> = { zero: "Zero", scale: "Scale by", steer: "Steer: add × (corrupt − clean)" };

/** "0, 3 7" → [0, 3, 7]; throws a sentence. */
export function wholeNumbers(text: string, what: string): number[] {
  return text.split(/[\s,;]+/).filter(Boolean).map((part) => {
    const value = Number(part);
    if (!Number.isInteger(value)) throw new Error(`${what}: '${part}' is no whole number.`);
    return value;
  });
}

interface Props {
  graphId: string;
  prompts: Prompts;
  recipes: Cell<Recipe[]>;
}

export function Hooks({ graphId, prompts, recipes }: Props) {
  const points = useSignal<string[]>([]);
  const name = useSignal("");
  const operation = useSignal<Operation>("zero");
  const factor = useSignal("1");
  const heads = useSignal("");
  const positions = useSignal("");
  const error = useSignal("");
  const { modelId } = prompts;
  useEffect(() => {
    void models.listHookPoints({ modelId }, QUICK)
      .then(({ hookPoints }) => {
        points.value = hookPoints.map((point) => point.name);
        name.value ||= points.value.find((point) => point.endsWith("hook_resid_post")) ?? points.value[0] ?? "";
      })
      .catch((failure: unknown) => (error.value = describe(failure)));
  }, [modelId]);

  const add = async () => {
    error.value = "";
    try {
      const times = Number(factor.value);
      if (!Number.isFinite(times)) throw new Error(`'${factor.value}' is no number.`);
      const recipe: Recipe = {
        name: name.value, op: operation.value, factor: operation.value === "zero" ? 0 : times,
        heads: wholeNumbers(heads.value, "Heads"), positions: wholeNumbers(positions.value, "Positions"),
      };
      if (recipe.op === "steer") {
        if (recipe.heads.length > 0) throw new Error("Steering is of all heads of a point: leave Heads empty.");
        if (recipe.positions.length === 0) recipe.positions = [-1];
      }
      await run.addHook({ graphId, intervention: await interventionOf(recipe, prompts) }, QUICK); // refuses what cannot be
      recipes.value = [...recipes.value, recipe];
    } catch (failure) {
      error.value = describe(failure);
    }
  };

  return (
    <section aria-labelledby="hooks-title">
      <h2 id="hooks-title">Hooks</h2>
      <form class="hooks" onSubmit={(event) => { event.preventDefault(); void add(); }}>
        <label>Hook point
          <input list="hook-points" value={name.value} spellcheck={false} onInput={(event) => (name.value = event.currentTarget.value)} />
        </label>
        <datalist id="hook-points">{points.value.map((point) => <option key={point} value={point} />)}</datalist>
        <label>Operation
          <select value={operation.value} onChange={(event) => (operation.value = event.currentTarget.value as Operation)}>
            {Object.entries(OPERATIONS).map(([key, label]) => <option key={key} value={key}>{label}</option>)}
          </select>
        </label>
        {operation.value !== "zero" && (
          <label>Factor
            <input value={factor.value} inputMode="decimal" onInput={(event) => (factor.value = event.currentTarget.value)} />
          </label>
        )}
        <label>Heads
          <input value={heads.value} placeholder="all" onInput={(event) => (heads.value = event.currentTarget.value)} />
        </label>
        <label>Positions
          <input value={positions.value} placeholder={operation.value === "steer" ? "the last" : "all"}
                 onInput={(event) => (positions.value = event.currentTarget.value)} />
        </label>
        <button type="submit">Add hook</button>
      </form>
      {error.value && <Notice kind="error">{error.value}</Notice>}
      <ul class="chips" aria-label="Hooks of this view">
        {recipes.value.map((recipe, index) => (
          <li key={index}>
            {recipeWords(recipe)}{" "}
            <button type="button" aria-label={`Remove hook ${recipeWords(recipe)}`}
                    onClick={() => (recipes.value = recipes.value.filter((_, other) => other !== index))}>×</button>
          </li>
        ))}
      </ul>
      {recipes.value.length === 0
        ? <p class="quiet">None. Hooks act in the patched pass only.</p>
        : <button type="button" class="below" onClick={() => (recipes.value = [])}>Remove all hooks</button>}
    </section>
  );
}
