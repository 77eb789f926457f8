// SPDX-License-Identifier: Apache-2.0
// What a run tells on its way and what it is asked for: curves that grow, kept ablations, and that a
// view leaves nothing behind.
import { EAP, EAP_IG, expect, test } from "./fixtures.mjs";

const told = (chart) => chart.locator("xpath=..").locator(".told");

test("a training's curve grows while it runs, and is all there when it is opened again", async ({ page, daemon }) => {
  const training = { case: "subnetworkProbing", value: { epochs: 400, validationPromptCount: 8 } };
  const { jobId } = await daemon.api.submit(daemon, { batchSize: 4, promptCount: 8, algorithm: training });
  await page.goto(`/#/discover?job=${jobId}`);
  const region = page.getByRole("region", { name: /^Training/ });
  const chart = region.getByRole("application", { name: "loss by steps" });
  const steps = async () => Number(/at ([\d,]+) steps/i.exec(await told(chart).innerText())?.[1].replace(",", "") ?? 0);
  await expect(chart).toBeVisible();
  const first = await steps();
  await expect.poll(steps).toBeGreaterThan(first);
  await expect(region.getByRole("application", { name: "validation, % by steps" })).toBeVisible();
  await page.getByRole("button", { name: "Cancel" }).click();
  await expect(page.getByRole("status").filter({ hasText: jobId })).toContainText("cancelled");
  const last = await steps();
  await page.reload();
  await expect.poll(steps).toBeGreaterThanOrEqual(last);
  await chart.press("Home");
  await expect(told(chart)).toHaveText(/^At 1 steps: loss .*, faithfulness .*, regularization /);
});

test("ACDC's removed edges over tau and step by step are the daemon's", async ({ page, daemon }) => {
  const algorithm = { case: "acdc", value: { taus: [0.01, 0.1, 1] } };
  const { jobId, acdc } = await daemon.api.finish(daemon, { batchSize: 4, algorithm });
  await page.goto(`/#/discover?job=${jobId}`);
  const overTau = page.getByRole("application", { name: "edges removed by τ" });
  await overTau.press("Home");
  await expect(told(overTau)).toHaveText(`At τ = 0.01: ${acdc[0].removedEdges}`);
  const bySteps = page.getByRole("application", { name: "edges removed by edges tried" });
  await bySteps.press("End");
  await expect(told(bySteps)).toHaveText(`At 1,519 edges tried: ${acdc[2].removedEdges}`);
  // Edges that ACDC kept all score infinity: the circuit that is measured has as many, whatever size is asked for.
  const figures = page.getByRole("region", { name: /Faithfulness/ });
  await page.getByLabel("Circuit size in edges").fill("1");
  await page.getByLabel("Circuit size in edges").press("Enter");
  const kept = 1519 - Number(acdc[2].removedEdges);
  await expect(figures.getByRole("columnheader", { name: `${kept} edges` })).toBeVisible();
  await expect(figures).toContainText(`Edges of one score come together: measured with ${kept}, not 1.`);
  await page.getByLabel("Step by step at τ").selectOption("0.01");
  await bySteps.press("End");
  await expect(told(bySteps)).toHaveText(`At 1,519 edges tried: ${acdc[0].removedEdges}`);
});

test("an ablation is kept from the form, and runs with it", async ({ page, daemon }) => {
  await page.goto("/#/discover");
  const form = page.getByRole("region", { name: "New run" });
  await form.getByLabel("Algorithm").selectOption({ label: "EAP" });
  await form.getByText("More about the ablation").click();
  await form.getByText("Keep an ablation on the server").click();
  await form.getByLabel("Type", { exact: true }).selectOption({ label: "TOKENWISE_MEAN_CORRUPT" });
  await form.getByRole("button", { name: "Keep the ablation" }).click();
  const choice = form.getByLabel("Ablated edges carry").locator("option:checked");
  await expect(choice).toHaveText(/^ablation-\w+: TOKENWISE_MEAN_CORRUPT$/);
  const [ablationId] = (await choice.innerText()).split(":");
  await form.getByRole("button", { name: "Discover" }).click();
  await expect(page.getByRole("status").filter({ hasText: "EAP on tiny-ioi" })).toContainText("succeeded");
  const { job } = await daemon.api.prune.getJob({ jobId: /job=([\w-]+)/.exec(page.url())[1] });
  expect(job.spec.ablationId).toBe(ablationId);
  await page.getByRole("link", { name: "Overview" }).click();
  await page.getByRole("button", { name: `Delete ${ablationId}` }).click();
  await expect(page.getByText(ablationId)).toHaveCount(0);
});

test("both runs' faithfulness is one picture", async ({ page, daemon }) => {
  const [one, other] = [await daemon.api.finish(daemon, EAP), await daemon.api.finish(daemon, EAP_IG)];
  await page.goto(`/#/compare?a=${one.jobId}&b=${other.jobId}`);
  await page.getByRole("button", { name: "Measure both curves" }).click();
  const chart = page.getByRole("application", { name: "KL, nats by edges in the circuit" });
  await chart.press("Home");
  await expect(told(chart)).toHaveText(/^At 0 edges in the circuit: EAP [\d.]+, EAP-IG [\d.]+$/);
});

test("the patching view's graph goes with the view, and with the tab", async ({ page, context, daemon }) => {
  const count = async () => (await daemon.api.graphs.listGraphs({})).graphs.filter((graph) => graph.idleTimeoutMs > 0n).length;
  const open = async (tab) => {
    await tab.goto("/#/patch");
    await expect(tab.getByRole("region", { name: /Next token/ })).toBeVisible();
  };
  await open(page);
  expect(await count()).toBe(1);
  await page.getByLabel("Node or edge by name").fill("A0.3");
  await page.getByLabel("Node or edge by name").press("Enter");
  await page.getByRole("button", { name: "Add hook" }).click();
  await expect(page.getByRole("button", { name: /^Remove hook/ })).toBeVisible();
  await page.reload(); // what was done by hand is the view's, not the graph's
  await expect(page.getByRole("button", { name: "Restore A0.3" })).toBeVisible();
  await expect(page.getByRole("button", { name: /^Remove hook/ })).toBeVisible();
  await expect.poll(count).toBe(1);
  const other = await context.newPage();
  await open(other);
  await expect.poll(count).toBe(2);
  await other.close();
  await expect.poll(count).toBe(1);
  await page.getByRole("link", { name: "Overview" }).click();
  await expect.poll(count).toBe(0);
});

test("the page comes compressed, and is asked for again by its tag", async ({ page, daemon }) => {
  const script = page.waitForResponse((response) => response.url().endsWith(".js"));
  await page.goto("/");
  const { "content-encoding": encoding, "cache-control": kept } = (await script).headers();
  expect([encoding, kept]).toEqual(["gzip", "public, max-age=31536000, immutable"]);
  const first = await fetch(daemon.url);
  const again = await fetch(daemon.url, { headers: { "If-None-Match": first.headers.get("etag") } });
  expect([first.headers.get("cache-control"), again.status]).toEqual(["no-cache", 304]);
});
