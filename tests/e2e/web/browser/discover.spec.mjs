// SPDX-License-Identifier: Apache-2.0
// Discover: a run from its form to its files, and scores that come while it runs.
import { readFile } from "node:fs/promises";
import { EAP, expect, ioiPath, shown, test } from "./fixtures.mjs";

const ranked = (page) => page.getByRole("region", { name: "Edges by score" }).locator("tbody tr");

test("a run from the form: dataset uploaded, EAP, ranked edges, heat map, circuit", async ({ page, daemon }) => {
  await page.goto("/#/discover");
  const form = page.getByRole("region", { name: "New run" });
  const { prompts } = JSON.parse(await readFile(ioiPath, "utf8"));
  const buffer = Buffer.from(JSON.stringify({ prompts: prompts.slice(0, 8) }));
  await form.getByLabel("Upload a dataset").setInputFiles({ name: "mine.json", mimeType: "application/json", buffer });
  await expect(form.getByLabel("Dataset", { exact: true }).locator("option:checked")).toHaveText("mine (8 pairs)");
  await form.getByLabel("Algorithm").selectOption({ label: "EAP" });
  await expect(form).toContainText(/Edge attribution patching/i); // the comment in proto/
  await form.getByRole("button", { name: "Discover" }).click();

  const status = page.getByRole("status").filter({ hasText: "EAP on tiny-ioi" });
  await expect(status).toContainText("succeeded");
  const jobId = /job=([\w-]+)/.exec(page.url())[1];
  const best = await daemon.api.strongest(jobId, 40);
  await expect(ranked(page)).toHaveCount(40);
  for (const rank of [0, 1, 39]) await expect(ranked(page).nth(rank)).toContainText(shown(best[rank].value));

  await expect(page.getByRole("application", { name: "Circuit of 40 edges" })).toBeVisible();
  await page.getByRole("tab", { name: "Heat map" }).click();
  const heat = page.getByRole("application", { name: /Heat map/ });
  await heat.press("ArrowDown");
  await expect(page.locator("#heat-words")).toContainText(/^Resid Start->A0.*: .*\(exactly/);
});

test("scores stream in while a job runs, and cancelling keeps those that came", async ({ page, daemon }) => {
  const { jobId } = await daemon.api.submitLong(daemon);
  await page.goto(`/#/discover?job=${jobId}`);
  const status = page.getByRole("status").filter({ hasText: jobId });
  await expect(status).toContainText("running");
  await expect(ranked(page)).toHaveCount(40);
  const before = await ranked(page).first().innerText();
  const progress = page.getByRole("progressbar", { name: `Progress of ${jobId}` });
  const first = await progress.evaluate((element) => element.value);
  await expect.poll(() => progress.evaluate((element) => element.value)).toBeGreaterThan(first);
  await expect.poll(() => ranked(page).first().innerText()).not.toBe(before);
  await expect(page.getByRole("region", { name: /Faithfulness/ })).toContainText("Measured when the job has ended.");

  await status.getByRole("button", { name: "Cancel" }).click();
  await expect(status).toContainText(/cancelled in .*: scores of [\d.]+ % of the work/);
  const [best] = await daemon.api.strongest(jobId, 1);
  await expect(ranked(page).first()).toContainText(shown(best.value));
});

test("the slider redraws at once and measures the circuit under it", async ({ page, daemon }) => {
  const { jobId } = await daemon.api.finish(daemon, EAP);
  await page.goto(`/#/discover?job=${jobId}&top=100`);
  const figures = page.getByRole("region", { name: /Faithfulness/ }).getByRole("table");
  await expect(figures).toHaveAttribute("aria-busy", "false");

  await page.getByLabel("Circuit size in edges").fill("20");
  await page.getByLabel("Circuit size in edges").press("Enter");
  await expect(ranked(page)).toHaveCount(20);
  await expect(page.getByRole("application", { name: "Circuit of 20 edges" })).toBeVisible();
  await expect(figures).toHaveAttribute("aria-busy", "false");
  await expect(figures.getByRole("columnheader", { name: "20 edges" })).toBeVisible();

  const [kl] = await daemon.api.measured(jobId, 20, [1]);
  await expect(figures.getByRole("row", { name: /KL/ })).toContainText(shown(kl));

  await page.getByRole("button", { name: "Measure the whole curve" }).click();
  await expect(page.getByRole("application", { name: "KL, nats by edges in the circuit" })).toBeVisible();
});
