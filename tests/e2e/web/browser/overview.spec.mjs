// SPDX-License-Identifier: Apache-2.0
// The overview: from an empty daemon to a model, a graph and a job, and back to empty.
import { alone as test, expect } from "./fixtures.mjs";

const section = (page, name) => page.getByRole("region", { name });

test("an empty daemon says what to do, and loads a model at a click", async ({ page, daemon }) => {
  await page.goto("/");
  await expect(page.getByRole("status", { name: "Connection: live" })).toBeVisible();
  const models = section(page, "Models in memory");
  await expect(models).toContainText("None yet. Load one of those on disk.");
  await expect(section(page, "Jobs")).toContainText("No jobs.");

  await models.getByLabel("Model on disk").selectOption("tiny-ioi");
  await models.getByRole("button", { name: "Load" }).click();
  const row = models.getByRole("row", { name: /tiny-ioi/ });
  await expect(row).toContainText("4 layers × 8 heads, d_model 128");
  const [model] = (await daemon.api.models.listModels({})).models;
  await expect(row).toContainText(`${(Number(model.weightBytes) / 1024 ** 2).toFixed(1)} MiB`);
  await expect(row).toContainText("cpu");

  const info = await daemon.api.admin.getServerInfo({});
  const health = section(page, "Health");
  await expect(health).toContainText(`${info.version}, ablate.v1`);
  await expect(health).toContainText("serving");
  const weights = section(page, "Memory").getByRole("row", { name: /weights/ });
  await expect(weights).toContainText(`${(Number(info.residentBytes.weights) / 1024 ** 2).toFixed(1)} MiB`);

  await row.getByRole("button", { name: "Unload tiny-ioi" }).click();
  await expect(models).toContainText("None yet.");
  expect((await daemon.api.models.listModels({})).models).toEqual([]);
});

test("a job's progress is live, and it can be cancelled", async ({ page, daemon }) => {
  const prepared = await daemon.api.prepare();
  const { jobId } = await daemon.api.submitLong(prepared);
  await page.goto("/#/overview");
  const row = section(page, "Jobs").getByRole("row", { name: new RegExp(jobId) });
  await expect(row).toContainText("running");
  const progress = row.getByRole("progressbar");
  const first = await progress.evaluate((element) => element.value);
  await expect.poll(() => progress.evaluate((element) => element.value)).toBeGreaterThan(first);
  await expect(row).toContainText(/ left/);
  await expect(row).toContainText(/->/); // the strongest edge so far

  await row.getByRole("button", { name: `Cancel ${jobId}` }).click();
  await expect(row).toContainText("cancelled");
  await expect(progress).toHaveCount(0);
  expect((await daemon.api.prune.getJob({ jobId })).job.state).toBe(5);
});

test("what is in use is not unloaded, and the page says by what", async ({ page, daemon }) => {
  const { graph } = await daemon.api.prepare();
  await page.goto("/#/overview");
  const models = section(page, "Models in memory");
  await models.getByRole("button", { name: "Unload tiny-ioi" }).click();
  await expect(models.getByRole("alert")).toContainText(graph.graphId);
  await section(page, "Graphs").getByRole("button", { name: `Delete ${graph.graphId}` }).click();
  await expect(section(page, "Graphs")).toHaveCount(0);
  await models.getByRole("button", { name: "Unload tiny-ioi" }).click();
  await expect(models).toContainText("None yet.");
});
