// SPDX-License-Identifier: Apache-2.0
// A link opened by somebody else, in a browser of their own, shows what its sender saw: not only which
// run, but how it is measured and drawn, what is picked, what is ablated and hooked.
import { EAP, EAP_IG, address, expect, test } from "./fixtures.mjs";
import { open, output } from "./patching.mjs";

/** The page's address, opened in another browser; `same` compares what both show. */
async function elsewhere(page, browser, look) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 800 } });
  const other = await context.newPage();
  await other.goto(page.url());
  await look(other);
  await context.close();
}

const faith = (page) => page.getByRole("region", { name: /Faithfulness/ });
const settled = (page) => expect(faith(page).getByRole("table")).toHaveAttribute("aria-busy", "false");

const carried = "sweep options, metrics, the drawn curve, filter, what is picked, the part in view, and the form";
test(`Discover: ${carried}`, async ({ page, browser, daemon }) => {
  const { jobId } = await daemon.api.finish(daemon, EAP);
  const [{ edge }] = await daemon.api.strongest(jobId, 1);
  await page.goto(address("discover", { job: jobId }));
  const form = page.getByRole("region", { name: "New run" });
  await form.getByLabel("Algorithm").selectOption({ label: "Mask gradient" });
  await form.getByText("Options of Mask gradient").click();
  await form.getByLabel("Grad function").selectOption({ label: "PROB" });
  const batches = (tab) => tab.locator("details").filter({ has: tab.locator("summary", { hasText: "Prompts and batches" }) });
  await batches(page).locator("summary").click();
  await batches(page).getByLabel("Batch size").fill("3");
  await form.getByLabel("Ablated edges carry").selectOption({ label: "ZERO" });

  await page.getByLabel("Circuit size in edges").fill("12");
  await page.getByLabel("Circuit size in edges").press("Enter");
  await faith(page).getByText("How circuits are measured").click();
  await faith(page).getByLabel("Ablated edges carry").selectOption({ label: "ZERO" });
  await faith(page).getByLabel("Prompt count").fill("5");
  await faith(page).getByRole("checkbox", { name: "ANSWER_DIFF", exact: true }).check();
  await faith(page).getByRole("checkbox", { name: "KL_DIV", exact: true }).check();
  await faith(page).getByRole("button", { name: "Measure the whole curve" }).click();
  await faith(page).getByLabel("Draw").selectOption({ index: 1 });
  await settled(page);
  await page.getByLabel("Filter edges").fill("MLP");
  const rows = (tab) => tab.getByRole("region", { name: "Edges by score" }).locator("tbody tr");
  await rows(page).nth(1).click();
  await page.getByRole("button", { name: "Zoom in" }).click();
  await expect.poll(() => page.url()).toContain("at=1.300");
  await expect.poll(() => page.url()).toContain("top=12");
  const texts = await rows(page).allInnerTexts();
  const figures = await faith(page).getByRole("table").innerText();
  const said = await faith(page).locator(".told").innerText();
  const words = await page.locator("#picture-words").innerText();
  expect(words).toMatch(/->.*exactly/);
  expect(edge).toBeGreaterThanOrEqual(0);

  await elsewhere(page, browser, async (other) => {
    await settled(other);
    await expect(other.getByLabel("Circuit size in edges")).toHaveValue("12");
    expect(await rows(other).allInnerTexts()).toEqual(texts);
    const current = rows(other).and(other.locator("[aria-current=true]"));
    await expect(current).toHaveText(await rows(page).nth(1).innerText(), { useInnerText: true });
    await expect(faith(other).getByRole("table")).toHaveText(figures, { useInnerText: true });
    await expect(faith(other).locator(".told")).toHaveText(said, { useInnerText: true });
    await expect(other.locator("#picture-words")).toHaveText(words, { useInnerText: true });
    await expect.poll(() => other.url()).toBe(page.url());
    const theirs = other.getByRole("region", { name: "New run" });
    await expect(theirs.getByLabel("Algorithm").locator("option:checked")).toHaveText("Mask gradient");
    await theirs.getByText("Options of Mask gradient").click();
    await expect(theirs.getByLabel("Grad function").locator("option:checked")).toHaveText("PROB");
    await batches(other).locator("summary").click();
    await expect(batches(other).getByLabel("Batch size")).toHaveValue("3");
    await expect(theirs.getByLabel("Ablated edges carry").locator("option:checked")).toHaveText("ZERO");
  });
});

test("Patch by hand: prompts, ablation, what is ablated, and hooks with their steering", async ({ page, browser, daemon }) => {
  await open(page, daemon);
  await page.getByLabel("Node or edge by name").fill("MLP 0->Resid End");
  await page.getByLabel("Node or edge by name").press("Enter");
  await page.getByLabel("Ablated edges carry").selectOption({ label: "ZERO" });
  const hooks = page.getByRole("region", { name: "Hooks" });
  await hooks.getByLabel("Hook point").fill("blocks.1.attn.hook_z");
  await hooks.getByLabel("Heads", { exact: true }).fill("1, 3");
  await hooks.getByRole("button", { name: "Add hook" }).click();
  await expect(hooks.getByRole("listitem")).toHaveText(["blocks.1.attn.hook_z: set to zero (heads 1, 3) ×"]);
  await hooks.getByLabel("Heads", { exact: true }).fill("");
  await hooks.getByLabel("Hook point").fill("blocks.2.hook_resid_pre");
  await hooks.getByLabel("Operation").selectOption({ label: "Steer: add × (corrupt − clean)" });
  await hooks.getByLabel("Factor").fill("0.3");
  await hooks.getByRole("button", { name: "Add hook" }).click();
  await expect(hooks.getByRole("listitem")).toHaveCount(2);
  await expect(output(page)).toHaveAttribute("aria-busy", "false");
  const shown = await output(page).innerText();
  expect(shown).not.toContain("KL to the whole model 0 nats");
  const chips = await hooks.getByRole("listitem").allInnerTexts();

  await elsewhere(page, browser, async (other) => {
    await expect(output(other)).toHaveAttribute("aria-busy", "false");
    await expect(output(other)).toHaveText(shown, { useInnerText: true });
    const theirs = other.getByRole("region", { name: "Hooks" });
    expect(await theirs.getByRole("listitem").allInnerTexts()).toEqual(chips);
    await theirs.getByRole("button", { name: "Remove all hooks" }).click();
    await other.getByRole("button", { name: "Restore all" }).click();
    await expect(output(other)).toContainText("KL to the whole model 0 nats");
  });
  await expect(output(page)).toHaveText(shown, { useInnerText: true }); // the sender's is as it was
});

test("a link with a hook that this model does not have says so, and the hook can be removed", async ({ page, daemon }) => {
  const hooks = JSON.stringify([{ name: "blocks.99.hook_mlp_out", op: "zero" }, "nonsense", { op: "zero" }]);
  await page.goto(address("patch", { model: daemon.model.modelId, job: "none", hooks }));
  await expect(page.getByRole("alert")).toContainText("The hook 'blocks.99.hook_mlp_out: set to zero (everywhere)' does not work:");
  await expect(output(page)).toHaveCount(0);
  await page.getByRole("button", { name: /^Remove hook blocks\.99/ }).click();
  await expect(output(page)).toContainText("KL to the whole model 0 nats");
  await expect(page.getByRole("alert")).toHaveCount(0);
});

test("Compare and Model and prompt: the measured curves, the chosen position", async ({ page, browser, daemon }) => {
  const [a, b] = [await daemon.api.finish(daemon, EAP), await daemon.api.finish(daemon, EAP_IG)];
  await page.goto(address("compare", { a: a.jobId, b: b.jobId }));
  const curves = (tab) => tab.getByRole("region", { name: "Faithfulness over circuit size" });
  await curves(page).getByText("How circuits are measured").click();
  await curves(page).getByLabel("Prompt count").fill("4");
  await curves(page).getByRole("button", { name: "Measure both curves" }).click();
  await curves(page).getByLabel("Draw").selectOption({ index: 2 });
  const told = await curves(page).locator(".told").innerText();
  await elsewhere(page, browser, async (other) => {
    await expect(curves(other).locator(".told")).toHaveText(told, { useInnerText: true });
    await expect(curves(other).getByLabel("Draw").locator("option:checked")).toHaveText("Accuracy, %");
  });

  await page.goto(address("prompt", { model: daemon.model.modelId }));
  const strip = (tab) => tab.getByRole("group", { name: /Tokens of.*clean/ }).getByRole("button").nth(5);
  await strip(page).click();
  await elsewhere(page, browser, async (other) => {
    await expect(strip(other)).toHaveAttribute("aria-pressed", "true");
    await expect(other.getByText("The likeliest tokens after position 5")).toBeVisible();
  });
});
