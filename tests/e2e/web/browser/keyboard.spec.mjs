// SPDX-License-Identifier: Apache-2.0
// The keyboard alone: from the page's first Tab to a finished run and its exact scores.
import { address, expect, ioiPath, shown, alone as test } from "./fixtures.mjs";

/** Presses Tab until `locator` has the focus, which has to be seen each time. */
async function tabTo(page, locator, key = "Tab") {
  for (let presses = 0; presses < 60; presses++) {
    await page.keyboard.press(key);
    const outline = await page.evaluate(() => {
      const element = document.activeElement;
      return element === document.body || element.id === "main" ? "none needed" : getComputedStyle(element).outlineStyle;
    });
    expect(outline, "the focus cannot be seen").not.toBe("none");
    if ((await locator.count()) > 0 && await locator.evaluate((element) => element === document.activeElement)) return;
  }
  throw new Error(`Tab does not reach ${locator}`);
}

test("a run, from the first Tab to its scores", async ({ page, daemon }) => {
  await page.goto("/");
  await expect(page.getByRole("heading", { name: "Overview" })).toBeVisible();
  await tabTo(page, page.getByRole("link", { name: "Skip to content" }));
  await expect(page.getByRole("link", { name: "Skip to content" })).toBeInViewport();
  await tabTo(page, page.getByRole("link", { name: "Discover", exact: true }));
  await page.keyboard.press("Enter");

  const form = page.getByRole("region", { name: "New run" });
  await expect(form.getByLabel("Model", { exact: true })).toContainText("tiny-ioi (on disk)");
  await tabTo(page, form.getByLabel("Model", { exact: true }));
  await page.keyboard.type("tiny-ioi");
  await tabTo(page, form.getByLabel("Upload a dataset"));
  const [chooser] = await Promise.all([page.waitForEvent("filechooser"), page.keyboard.press("Enter")]);
  await chooser.setFiles(ioiPath);
  await expect(form.getByLabel("Dataset", { exact: true })).toContainText("ioi_abba (32 pairs)");
  await tabTo(page, form.getByLabel("Algorithm"));
  await page.keyboard.press("Home");
  await expect(form.getByLabel("Algorithm").locator("option:checked")).toHaveText("EAP");
  await tabTo(page, form.getByRole("button", { name: "Discover" }));
  await page.keyboard.press("Enter");

  await expect(page.getByRole("status").filter({ hasText: "EAP on tiny-ioi" })).toContainText("succeeded");
  const jobId = /job=([\w-]+)/.exec(page.url())[1];
  const [best] = await daemon.api.strongest(jobId, 1);
  const rows = page.getByRole("region", { name: "Edges by score" }).locator("tbody tr");
  await expect(rows.first()).toContainText(shown(best.value));
  const edge = await rows.first().getByRole("rowheader").innerText();

  const slider = page.getByRole("slider", { name: "Circuit size" });
  await tabTo(page, slider);
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowRight");
  await expect(rows).toHaveCount(1);
  await tabTo(page, page.getByRole("tab", { name: "Circuit" }));
  await page.keyboard.press("ArrowRight");
  await expect(page.getByRole("tab", { name: "Heat map" })).toBeFocused();
  await expect(page.getByRole("tabpanel", { name: "Heat map" }).getByRole("application", { name: /^Heat map/ })).toBeVisible();
  await page.keyboard.press("ArrowLeft");
  await tabTo(page, page.getByRole("application", { name: "Circuit of 1 edge" }));
  const words = page.locator("#picture-words");
  await page.keyboard.press("ArrowUp");
  await expect(words).toContainText(/shown edge/);
  await page.keyboard.press("+");
  await page.keyboard.press("0");
  await page.keyboard.press("Escape");
  await expect(words).toContainText("Point at a node or an edge");
  await tabTo(page, page.getByLabel("Filter edges"));
  await page.keyboard.type("no such edge");
  await expect(rows).toHaveCount(0);
  await page.keyboard.press("ControlOrMeta+a");
  await page.keyboard.type(edge.split("->")[0]);
  await expect(rows).toHaveCount(1);
});

test("a node is ablated and restored, and a job cancelled", async ({ page, daemon }) => {
  const prepared = await daemon.api.prepare();
  await page.goto(address("patch", { model: prepared.model.modelId, job: "none" }));
  const picture = page.getByRole("application", { name: /click a node or an edge/ });
  await expect(page.getByRole("region", { name: /Next token/ })).toHaveAttribute("aria-busy", "false");
  await tabTo(page, picture);
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Enter");
  const chips = page.getByRole("list", { name: "Ablated" });
  await expect(chips.getByRole("listitem")).toHaveCount(1);
  await expect(page.getByText(/^\d+ edges ablated\.$/)).toBeVisible();
  await page.keyboard.press("Enter");
  await expect(chips.getByRole("listitem")).toHaveCount(0);

  const { jobId } = await daemon.api.submitLong(prepared);
  await page.goto(address("overview"));
  const cancel = page.getByRole("button", { name: `Cancel ${jobId}` });
  await expect(cancel).toBeVisible();
  await tabTo(page, cancel);
  await page.keyboard.press("Enter");
  await expect(page.getByRole("row", { name: new RegExp(jobId) })).toContainText("cancelled");
});
