// SPDX-License-Identifier: Apache-2.0
// Compare: two runs' agreement as the daemon measures it, and runs that cannot be compared.
import { EAP, EAP_IG, expect, shown, test } from "./fixtures.mjs";

test("correlations, overlap, scatter and difference of two runs", async ({ page, daemon }) => {
  const [a, b] = [await daemon.api.finish(daemon, EAP), await daemon.api.finish(daemon, EAP_IG)];
  const result = await daemon.api.evaluate.compareScores({ jobId: a.jobId, otherJobId: b.jobId });
  await page.goto(`/#/compare?a=${a.jobId}&b=${b.jobId}`);
  const agreement = page.getByRole("region", { name: "Agreement" });
  await expect(agreement.getByRole("row", { name: /Spearman/ })).toContainText(shown(result.spearman));
  await expect(agreement.getByRole("row", { name: /Pearson/ })).toContainText(shown(result.pearson));
  const ten = result.overlaps.find(({ edgeCount }) => edgeCount === 10n);
  await expect(agreement.getByRole("row", { name: /^10 / })).toHaveText(
    new RegExp(`^10${ten.commonCount}${(ten.jaccard * 100).toFixed(ten.jaccard >= 0.9995 || ten.jaccard === 0 ? 0 : 1)} %$`));

  await page.getByRole("application", { name: "Scores of EAP against EAP-IG" }).press("ArrowRight");
  await expect(page.locator("#scatter-words")).toContainText(/->.*: −?[\d.e−-]+ and −?[\d.e−-]+$/);
  const difference = page.getByRole("application", { name: "Where EAP and EAP-IG differ" });
  await difference.press("ArrowUp");
  await difference.press("ArrowUp");
  await expect(page.locator("#picture-words")).toContainText(/shown edge/);

  await page.getByLabel("Second run").selectOption({ label: `EAP on tiny-ioi (${a.jobId})` });
  await expect(page.getByText("Both are the same run. Choose another as the second.")).toBeVisible();
  await expect(agreement).toHaveCount(0);
});

test("runs over graphs of different edges are refused in words", async ({ page, daemon }) => {
  const merged = await daemon.api.graph(daemon.model.modelId, { mergeQkv: true });
  const [a, b] = [await daemon.api.finish(daemon, EAP), await daemon.api.finish({ ...daemon, graph: merged }, EAP)];
  await page.goto(`/#/compare?a=${a.jobId}&b=${b.jobId}`);
  await expect(page.getByRole("alert")).toContainText("over graphs of different edges");
  await expect(page.getByRole("region", { name: "Agreement" })).toHaveCount(0);
});
