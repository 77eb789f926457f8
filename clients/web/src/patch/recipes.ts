// SPDX-License-Identifier: Apache-2.0
// Hooks as the address has them: what is to be done, not the numbers that do it. A steering vector is
// computed from the two prompts when it is needed, so a link carries a line and not a tensor.
import type { MessageInitShape } from "@bufbuild/protobuf";
import { DType } from "#gen/ablate/v1/common_pb.js";
import type { InterventionSchema } from "#gen/ablate/v1/hooks_pb.js";
import { describe, isLost, reasonOf } from "../lib/errors.js";
import { given, whereWords } from "../lib/hookwords.js";
import { QUICK, run } from "../lib/rpc.js";

export type Operation = "zero" | "scale" | "steer";

export type Recipe = {
  name: string;
  op: Operation;
  /** Of scale and steer. */
  factor: number;
  /** Empty: all. */
  heads: number[];
  positions: number[];
};

export interface Prompts {
  modelId: string;
  clean: string;
  corrupt: string;
}

/** What an address has, as far as it makes sense. */
export function recipesOf(value: unknown): Recipe[] {
  const numbers = (list: unknown) => (Array.isArray(list) ? list.filter(Number.isInteger) as number[] : []);
  return (Array.isArray(value) ? value : []).flatMap((item: Partial<Recipe> | null) =>
    item && typeof item.name === "string" && (item.op === "zero" || item.op === "scale" || item.op === "steer")
      ? [{
          name: item.name, op: item.op, factor: Number(item.factor) || 0,
          heads: numbers(item.heads), positions: numbers(item.positions),
        }]
      : []);
}

/** "blocks.0.hook_mlp_out: set to zero (head 1; position −1)". */
export function recipeWords({ name, op, factor, heads, positions }: Recipe): string {
  const what = {
    zero: "set to zero",
    scale: `scaled by ${given(factor)}`,
    steer: `plus ${given(factor)} × (corrupt − clean)`,
  }[op];
  return `${name}: ${what} (${whereWords({ heads, positions })})`;
}

async function activation(modelId: string, name: string, prompt: string, positions: number[]) {
  const prompts = { input: { case: "text" as const, value: { prompts: [prompt] } } };
  let values = new Float32Array();
  let shape: bigint[] = [];
  const forward = { target: { case: "modelId" as const, value: modelId }, prompts };
  for await (const { chunk } of run.runWithCache({ forward, names: [name], positions })) {
    if (chunk?.name !== name) continue;
    if (shape.length === 0) {
      shape = chunk.shape;
      values = new Float32Array(Number(shape.reduce((product, length) => product * length, 1n)));
    }
    new Uint8Array(values.buffer).set(chunk.data, Number(chunk.offsetBytes));
  }
  return { values, shape };
}

const VECTORS_MAX = 16;
const vectors = new Map<string, ReturnType<typeof steering>>();

/** corrupt − clean at a hook point. */
async function steering(name: string, positions: number[], { modelId, clean, corrupt }: Prompts) {
  const from = await activation(modelId, name, clean, positions);
  const to = await activation(modelId, name, corrupt, positions);
  const data = new Uint8Array(to.values.map((value, index) => value - from.values[index]!).buffer);
  return { dtype: DType.DTYPE_FLOAT32, shape: to.shape, data };
}

/** Computed once for a point and prompts: every measurement asks for it. */
function kept(name: string, positions: number[], prompts: Prompts): ReturnType<typeof steering> {
  const key = JSON.stringify([name, positions, prompts]);
  let found = vectors.get(key);
  if (!found) {
    if (vectors.size >= VECTORS_MAX) vectors.clear();
    vectors.set(key, (found = steering(name, positions, prompts)));
    found.catch(() => vectors.delete(key));
  }
  return found;
}

/** The intervention that a recipe is for these prompts. */
export async function interventionOf(
  { name, op, factor, heads, positions }: Recipe, prompts: Prompts,
): Promise<MessageInitShape<typeof InterventionSchema>> {
  const where = { name, heads, positions };
  if (op === "zero") return { ...where, operation: { case: "zero", value: {} } };
  if (op === "scale") return { ...where, operation: { case: "scale", value: { factor } } };
  return { ...where, operation: { case: "add", value: { factor, value: await kept(name, positions, prompts) } } };
}

/** Makes these a graph's hooks, in place of what it has. Throws which one the daemon refuses, and why. */
export async function setHooks(graphId: string, recipes: Recipe[], prompts: Prompts): Promise<void> {
  await run.resetHooks({ graphId }, QUICK);
  for (const recipe of recipes) {
    try {
      await run.addHook({ graphId, intervention: await interventionOf(recipe, prompts) }, QUICK);
    } catch (failure) {
      if (isLost(failure) || reasonOf(failure) === "GRAPH_UNKNOWN") throw failure;
      throw new Error(`The hook '${recipeWords(recipe)}' does not work: ${describe(failure)}`, { cause: failure });
    }
  }
}
