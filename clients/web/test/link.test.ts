// SPDX-License-Identifier: Apache-2.0
// What a link carries, and hooks in words.
import { create } from "@bufbuild/protobuf";
import { beforeEach, describe as group, expect, test, vi } from "vitest";
import { InterventionSchema } from "#gen/ablate/v1/hooks_pb.js";
import { formatView, parseView } from "../src/graph/canvas.js";
import { differenceWords } from "../src/discover/runhooks.js";
import { factsOf, hookWords } from "../src/lib/hookwords.js";
import { jsonCell, param, parseHash, route } from "../src/lib/route.js";
import { recipesOf, recipeWords } from "../src/patch/recipes.js";

group("values in the address", () => {
  beforeEach(() => {
    vi.stubGlobal("history", { replaceState: vi.fn() });
    route.value = parseHash("#/discover?job=job-1");
  });
  test("are left out where they are as usual, and read back as they were set", () => {
    const cell = jsonCell<{ tailDivergence: boolean }>("sweep", { tailDivergence: true });
    expect(cell.value).toEqual({ tailDivergence: true });
    cell.value = { tailDivergence: false };
    expect(route.value.params).toEqual({ job: "job-1", sweep: '{"tailDivergence":false}' });
    expect(cell.value).toEqual({ tailDivergence: false });
    cell.value = { tailDivergence: true };
    expect(param("sweep").value).toBe("");
  });
  test("that make no sense are the usual ones", () => {
    const cell = jsonCell<unknown[] & never[]>("hooks", [] as never);
    for (const text of ["{", "7", '{"a":1}', "null"]) {
      route.value = { view: "patch", params: { hooks: text } };
      expect(cell.value).toEqual([]);
    }
  });
  test("keep their identity while another parameter changes", () => {
    route.value = { view: "discover", params: { sweep: '{"batchSize":3}' } };
    const cell = jsonCell("sweep", {});
    const before = cell.value;
    route.value = { view: "discover", params: { sweep: '{"batchSize":3}', top: "9" } };
    expect(cell.value).toBe(before);
  });
});

group("the part in view", () => {
  const all = { scale: 0.5, x: 10, y: 20 };
  test("is the same in a picture of another size: what was in the middle is", () => {
    const text = formatView({ scale: 1, x: -100, y: -60 }, all, 800, 600);
    expect(text).toBe("2.000,500.0,360.0");
    expect(parseView(text, { scale: 0.25, x: 0, y: 0 }, 400, 300)).toEqual({ scale: 0.5, x: -50, y: -30 });
  });
  test("is left out where it is all, and where it makes no sense", () => {
    expect(formatView(all, all, 800, 600)).toBe("");
    for (const text of ["", "x", "1,2", "-1,2,3"]) expect(parseView(text, all, 800, 600)).toBeUndefined();
  });
});

group("hooks in words", () => {
  test("say the point, the operation, and where", () => {
    const hook = create(InterventionSchema, {
      name: "blocks.1.attn.hook_z", heads: [1, 3], positions: [-1], operation: { case: "scale", value: { factor: 0.3 } },
    });
    hook.operation = { case: "scale", value: { ...(hook.operation.value as object), factor: Math.fround(0.3) } as never };
    expect(hookWords(factsOf(hook))).toBe("blocks.1.attn.hook_z: scaled by 0.3 (heads 1, 3; position −1)");
    expect(hookWords({ name: "hook_embed", operation: "mean", over_rows: true, over_positions: true }))
      .toBe("hook_embed: replaced by its mean over rows and positions (everywhere)");
    expect(hookWords({ name: "p", operation: "clamp", low: -1, rows: [2] })).toBe("p: kept between −1 and ∞ (row 2)");
    expect(hookWords({ name: "p", operation: "add", factor: -2, shape: [128] })).toBe("p: plus −2 × a tensor [128] (everywhere)");
  });
  test("of a run and of its graph now are compared", () => {
    const zero = { name: "p", operation: "zero" };
    expect(differenceWords([{ ...zero, hook_id: "hook-1" }], [zero])).toBe("");
    expect(differenceWords([{ ...zero, hook_id: "hook-1" }], [])).toContain("were removed since");
    expect(differenceWords([], [zero])).toContain("with those of now (p: set to zero (everywhere))");
    expect(differenceWords([zero, zero], [])).toBe("Faithfulness is measured without the run's own interventions.");
  });
  test("of an address are taken as far as they make sense", () => {
    const steer = { name: "p", op: "steer", factor: "2", heads: "x", positions: [-1, 0.5] };
    const [recipe, ...rest] = recipesOf([steer, null, { op: "zero" }, 3]);
    expect(recipe).toEqual({ name: "p", op: "steer", factor: 2, heads: [], positions: [-1] });
    expect(rest).toEqual([]);
    expect(recipeWords(recipe!)).toBe("p: plus 2 × (corrupt − clean) (position −1)");
  });
});
