// SPDX-License-Identifier: Apache-2.0
// Graphs with hooks, and what they keep: the page says in words what acts in a run, and what was captured.
import { EAP, address, alone as test, expect } from "./fixtures.mjs";

const head = { name: "blocks.1.attn.hook_z", heads: [1], operation: { case: "zero", value: {} } };
const half = { name: "blocks.0.hook_mlp_out", positions: [-1], operation: { case: "scale", value: { factor: 0.5 } } };
const capture = { name: "blocks.2.hook_resid_post", operation: { case: "capture", value: {} } };

test("a hooked graph is marked where it is chosen, and its runs tell the hooks they had", async ({ page, daemon }) => {
  const prepared = await daemon.api.prepare();
  const { graphId } = prepared.graph;
  await daemon.api.run.addHook({ graphId, intervention: head });
  const { jobId } = await daemon.api.finish(prepared, { ...EAP, interventions: [half] });
  await page.goto(address("discover", { job: jobId }));
  const form = page.getByRole("region", { name: "New run" });
  await expect(form.getByLabel("Graph", { exact: true }).locator("option:checked")).toHaveText(`${graphId} (1,519 edges, 1 hook)`);
  await expect(form.getByRole("list", { name: `Hooks of ${graphId}` })).toHaveText("blocks.1.attn.hook_z: set to zero (head 1)");
  const run = page.getByRole("region", { name: "Circuit", exact: true });
  const list = (name) => run.getByRole("list", { name });
  await expect(list("Hooks of the run's graph")).toHaveText("blocks.1.attn.hook_z: set to zero (head 1)");
  await expect(list("Interventions of the run")).toHaveText("blocks.0.hook_mlp_out: scaled by 0.5 (position −1)");
  await expect(run).toContainText("Faithfulness is measured without the run's own intervention.");
  await expect(run).not.toContainText("The graph's hooks were");

  // Hooks that go, or come, after the run: its measures are not of the run any more, and it is said.
  await page.goto(address("overview"));
  const row = page.getByRole("region", { name: "Graphs" }).getByRole("row", { name: new RegExp(`^${graphId}`) });
  await expect(row).toContainText("blocks.1.attn.hook_z: set to zero (head 1)");
  await row.getByRole("button", { name: `Remove the hooks of ${graphId}` }).click();
  await expect(row).toContainText("none");
  await page.goto(address("discover", { job: jobId }));
  await expect(run).toContainText("The graph's hooks were removed since: faithfulness is measured without them.");
  const { jobId: plain } = await daemon.api.finish(prepared, EAP);
  await page.goto(address("discover", { job: plain }));
  await expect(page.getByRole("application", { name: /^Circuit of/ })).toBeVisible();
  await expect(run).not.toContainText("hook");
  await daemon.api.run.addHook({ graphId, intervention: half });
  await expect(run).toContainText("This run had no hooks");
  await expect(run).toContainText("with those of now (blocks.0.hook_mlp_out: scaled by 0.5 (position −1))");
});

test("captured activations are listed by what keeps them, with their size, and released", async ({ page, daemon }) => {
  const { model, graph } = await daemon.api.prepare();
  const { graphId } = graph;
  const { hook } = await daemon.api.run.addHook({ graphId, intervention: capture });
  const prompts = { input: { case: "text", value: { prompts: ["Then, Alice and Emma went to the"] } } };
  await daemon.api.run.forward({ target: { case: "graphId", value: graphId }, prompts, ablation: { type: 2 } });
  for await (const _ of daemon.api.run.runWithCache({
    forward: { target: { case: "modelId", value: model.modelId }, prompts }, names: ["blocks.0.hook_mlp_out"], keepOnServer: true,
  }));
  await page.goto(address("overview"));
  const kept = page.getByRole("region", { name: "Captured activations" });
  const rows = kept.locator("tbody").getByRole("row");
  await expect(rows).toHaveCount(2);
  await expect(rows.nth(0)).toContainText(`${graphId}, ${hook.hookId}: its last run`);
  await expect(rows.nth(0)).toContainText(/blocks\.2\.hook_resid_post \[1, \d+, 128\]/);
  await expect(rows.nth(0)).toContainText(/\d(\.\d)? KiB/);
  await expect(rows.nth(1)).toContainText(`a pass of ${model.modelId}`);
  await expect(page.getByRole("region", { name: "Graphs" })).toContainText("blocks.2.hook_resid_post: captured (everywhere)");
  await rows.nth(1).getByRole("button", { name: /^Release/ }).click();
  await expect(rows).toHaveCount(1);
  await rows.nth(0).getByRole("button", { name: /^Release/ }).click();
  await expect(kept).toHaveCount(0);
  expect((await daemon.api.admin.getServerInfo({})).activationsCount).toBe(0);
});
