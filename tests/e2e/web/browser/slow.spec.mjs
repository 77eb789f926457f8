// SPDX-License-Identifier: Apache-2.0
// A slow network: the page says that it waits, greys out what is not of this moment, and comes to the
// same end.
import { EAP, address, expect, shown, test } from "./fixtures.mjs";

test("a slow network: every view arrives, and old numbers are greyed until the new ones are there", async ({ page, daemon }) => {
  const { jobId } = await daemon.api.finish(daemon, EAP);
  const session = await page.context().newCDPSession(page);
  const slow = (latency) => session.send("Network.emulateNetworkConditions", {
    offline: false, latency, downloadThroughput: 80_000, uploadThroughput: 40_000,
  });
  await slow(1500);
  await page.goto(address("discover", { job: jobId }), { waitUntil: "commit" });
  await expect(page.getByText("Asking the daemon…")).toBeVisible();
  await expect(page.getByText(`Asking for ${jobId}…`)).toBeVisible();
  const figures = page.getByRole("table").filter({ hasText: "Accuracy" });
  await expect(page.getByText("No scores yet.")).toBeVisible();
  await expect(figures).toHaveAttribute("aria-busy", "false");

  await page.getByLabel("Circuit size in edges").fill("30");
  await page.getByLabel("Circuit size in edges").press("Enter");
  const old = page.locator('[aria-busy="true"]');
  await expect(figures.and(old)).toHaveCSS("opacity", /^0\.[0-5]/);
  await expect(page.getByRole("application", { name: "Circuit of 30 edges" })).toBeVisible();
  await expect(figures).toHaveAttribute("aria-busy", "false");
  const [kl] = await daemon.api.measured(jobId, 30, [1]);
  await expect(figures.getByRole("row", { name: /KL/ })).toContainText(shown(kl));

  await slow(700);
  await page.goto(address("prompt", { model: daemon.model.modelId }));
  await expect(page.getByRole("img", { name: /Logit difference/ })).toBeVisible();
  const prompts = page.getByRole("region", { name: "Prompts" }).locator("[aria-busy]");
  await expect(prompts).toHaveAttribute("aria-busy", "false");
  await page.getByRole("textbox", { name: "Clean prompt" }).fill("Then, Lucy and Anna went to the");
  await expect(prompts.and(old)).toHaveCSS("opacity", /^0\.[0-5]/);
  await expect(page.getByRole("group", { name: "Tokens of the clean prompt" })).toContainText("Lucy");
  await expect(prompts).toHaveAttribute("aria-busy", "false");
  await expect(page.getByRole("status", { name: "Connection: live" })).toBeVisible();
});
