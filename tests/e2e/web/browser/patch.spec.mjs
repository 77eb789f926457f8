// SPDX-License-Identifier: Apache-2.0
// Patch by hand: what is clicked away changes the output, by as much as the Python client says.
import { expect, python, test } from "./fixtures.mjs";
import { CLEAN, CORRUPT, expectKl, graph, open, output, patched } from "./patching.mjs";

/** Moves over the picture until an edge is under the pointer; says which. */
async function findEdge(page) {
  const box = await graph(page).boundingBox();
  const words = page.locator("#picture-words");
  for (const height of [0.5, 0.44, 0.62, 0.3]) {
    for (let x = 0.08; x < 0.92; x += 0.02) {
      await page.mouse.move(box.x + box.width * x, box.y + box.height * height);
      const text = await words.innerText();
      if (/^\S.*->.*: .*exactly/.test(text)) return text.split(": ")[0];
    }
  }
  throw new Error("no edge in the picture");
}

test("an edge that is clicked away changes the distribution, and comes back", async ({ page, daemon }) => {
  await open(page, daemon);
  await graph(page).scrollIntoViewIfNeeded();
  const edge = await findEdge(page);
  await page.mouse.down();
  await page.mouse.up();
  await expect(page.getByRole("list", { name: "Ablated" })).toContainText(edge);
  await expect(page.getByText("1 edge ablated.")).toBeVisible();
  const { kl } = await patched(daemon, { [edge]: 1 });
  await expectKl(page, kl);
  await page.getByRole("button", { name: `Restore ${edge}` }).click();
  await expect(output(page)).toContainText("KL to the whole model 0 nats");
  await expect(page.getByText("0 edges ablated.")).toBeVisible();
});

test("nodes and edges by name, by resampling and by zero", async ({ page, daemon }) => {
  await open(page, daemon);
  const name = page.getByLabel("Node or edge by name");
  await name.fill("MLP 0->Resid End");
  await name.press("Enter");
  const resampled = await patched(daemon, { "MLP 0->Resid End": 1 });
  await expectKl(page, resampled.kl);
  await page.getByLabel("Ablated edges carry").selectOption({ label: "ZERO" });
  const zeroed = await patched(daemon, { "MLP 0->Resid End": 1 }, "zero");
  expect(Math.abs(zeroed.kl - resampled.kl)).toBeGreaterThan(1e-3);
  await expectKl(page, zeroed.kl);
  const row = output(page).locator("tbody tr").filter({ hasText: zeroed.top.trim() }).first();
  await expect(row.locator("td.num").nth(1)).toHaveText(`${(zeroed.share * 100).toFixed(1)} %`);

  await name.fill("A9.9");
  await name.press("Enter");
  await expect(page.getByRole("alert")).toContainText("This graph has no node or edge 'A9.9'.");
  await page.getByRole("button", { name: "Restore all" }).click();
  await expect(output(page)).toContainText("KL to the whole model 0 nats");
  await name.fill("A0.3");
  await name.press("Enter");
  await expect(page.getByText(/^\d+ edges ablated\.$/)).toBeVisible();
  await expect(page.getByRole("list", { name: "Ablated" })).toContainText("A0.3");
});

test("hooks zero, scale and steer, until they are removed", async ({ page, daemon }) => {
  await open(page, daemon);
  const hooks = page.getByRole("region", { name: "Hooks" });
  await hooks.getByLabel("Hook point").fill("blocks.0.hook_mlp_out");
  await hooks.getByRole("button", { name: "Add hook" }).click();
  await expect(hooks).toContainText("blocks.0.hook_mlp_out: set to zero (everywhere)");
  await expect(output(page)).not.toContainText("KL to the whole model 0 nats");
  const first = await output(page).getByRole("heading").innerText();

  await hooks.getByLabel("Operation").selectOption({ label: "Scale by" });
  await hooks.getByLabel("Factor").fill("many");
  await hooks.getByRole("button", { name: "Add hook" }).click();
  await expect(hooks.getByRole("alert")).toContainText("'many' is no number.");
  await hooks.getByRole("button", { name: /^Remove hook/ }).click();
  await expect(hooks).toContainText("None. Hooks act in the patched pass only.");
  await expect(output(page)).toContainText("KL to the whole model 0 nats");

  await hooks.getByLabel("Operation").selectOption({ label: "Steer: add × (corrupt − clean)" });
  await hooks.getByLabel("Hook point").fill("blocks.3.hook_resid_post");
  await hooks.getByLabel("Factor").fill("1");
  await hooks.getByRole("button", { name: "Add hook" }).click();
  await expect(hooks).toContainText(/plus 1 × \(corrupt − clean\) \(position −1\)/);
  // The last residual stream becomes the corrupt prompt's, and so does the output.
  const corrupt = await python(daemon, `
import json, ablate, numpy as np
model = ablate.connect(arrays="numpy").load_model("tiny-ioi", "tl", progress=False)
rows = [model(prompt)[0, -1].astype(np.float64) for prompt in (${JSON.stringify(CLEAN)}, ${JSON.stringify(CORRUPT)})]
logs = [row - np.log(np.exp(row).sum()) for row in rows]
print(json.dumps(float((np.exp(logs[0]) * (logs[0] - logs[1])).sum())))
`);
  await expectKl(page, corrupt);
  expect(await output(page).getByRole("heading").innerText()).not.toBe(first);

  await hooks.getByLabel("Hook point").fill("no.such.point");
  await hooks.getByRole("button", { name: "Add hook" }).click();
  await expect(hooks.getByRole("alert")).toContainText("no.such.point");
});
