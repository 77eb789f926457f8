// SPDX-License-Identifier: Apache-2.0
// How the views look, light and dark, from a laptop's 1280 px to a projector's 1920: nothing is cut off
// sideways, no text lies on another, and all of it stands out from its ground. The pictures are in
// build/browser/look, to be looked at.
import { join } from "node:path";
import { EAP, EAP_IG, address, expect, test } from "./fixtures.mjs";
import { root } from "../test/daemon.mjs";

/** The page's texts as a person sees them: those that overlap, and those with too little contrast. */
function lookAt() {
  const parse = (css) => (css.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const over = (top, back) => {
    const alpha = top[3] ?? 1;
    return [0, 1, 2].map((i) => top[i] * alpha + back[i] * (1 - alpha));
  };
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((back, layer) => over(layer.length === 3 ? [...layer, 1] : layer, back), [255, 255, 255]);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  /** What of a box its scrolling ancestors leave. */
  const clipped = (box, element) => {
    let [left, top, right, bottom] = [box.left, box.top, box.right, box.bottom];
    for (let at = element; at && at !== document.body; at = at.parentElement) {
      if (getComputedStyle(at).overflow === "visible") continue;
      const frame = at.getBoundingClientRect();
      [left, top] = [Math.max(left, frame.left), Math.max(top, frame.top)];
      [right, bottom] = [Math.min(right, frame.right), Math.min(bottom, frame.bottom)];
    }
    return { left, top, right, bottom };
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    const text = node.data.trim();
    if (text === "" || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(".hidden, option, .skip, [transform]")) continue; // a turned text's box says nothing
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const line of range.getClientRects()) {
      const box = clipped(line, element);
      if (box.right - box.left > 1 && box.bottom - box.top > 1) texts.push({ text, element, ...box });
    }
  }
  // What stays in its place while the page moves under it may lie on text.
  const pinned = (element) => element.closest("header, .setup button.main");
  const overlaps = [];
  texts.forEach((one, index) => texts.slice(index + 1).forEach((other) => {
    const width = Math.min(one.right, other.right) - Math.max(one.left, other.left);
    const height = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
    const beside = one.element === other.element || !pinned(one.element) !== !pinned(other.element);
    if (width > 2 && height > 4 && !beside) overlaps.push(`"${one.text}" and "${other.text}"`);
  }));
  const faint = texts
    .filter(({ element }) => element.namespaceURI.endsWith("xhtml") && !element.closest(":disabled, .stale"))
    .map(({ text, element }) => ({ text, ratio: contrast(parse(getComputedStyle(element).color), ground(element)) }))
    .filter(({ ratio }) => ratio < 4.5)
    .map(({ text, ratio }) => `"${text}" ${ratio.toFixed(1)}`);
  const { scrollWidth, clientWidth } = document.scrollingElement;
  return { overlaps, faint, sideways: scrollWidth - clientWidth };
}

let views;
test.beforeAll(async ({ shared }) => {
  const { api } = shared;
  const [eap, ig] = [await api.finish(shared, EAP), await api.finish(shared, EAP_IG)];
  const running = await api.submitLong(shared);
  const prompts = { model: shared.model.modelId };
  views = {
    overview: [address("overview"), (page) => expect(page.getByRole("row", { name: new RegExp(running.jobId) })).toBeVisible()],
    empty: [address("discover"), (page) => expect(page.getByText("Choose a model")).toBeVisible()],
    discover: [address("discover", { job: ig.jobId }), async (page) => {
      await page.getByRole("button", { name: "Measure the whole curve" }).click();
      await expect(page.getByRole("application", { name: /by edges in the circuit/ })).toBeVisible();
    }],
    heat: [address("discover", { job: ig.jobId, tab: "heat" }), (page) =>
      expect(page.getByRole("table").filter({ hasText: "Accuracy" })).toHaveAttribute("aria-busy", "false")],
    prompt: [address("prompt", prompts), (page) => expect(page.getByRole("img", { name: /Logit difference/ })).toBeVisible()],
    patch: [address("patch", { ...prompts, job: eap.jobId }), async (page) => {
      await page.getByLabel("Node or edge by name").fill("MLP 0->Resid End");
      await page.getByLabel("Node or edge by name").press("Enter");
      await expect(page.getByText("1 edge ablated.")).toBeVisible();
    }],
    compare: [address("compare", { a: eap.jobId, b: ig.jobId }), (page) =>
      expect(page.getByRole("region", { name: "Where they differ" })).toBeVisible()],
  };
});

for (const scheme of ["light", "dark"]) {
  for (const name of ["overview", "empty", "discover", "heat", "prompt", "patch", "compare"]) {
    test(`${name}, ${scheme}`, async ({ page }) => {
      await page.emulateMedia({ colorScheme: scheme });
      const [url, ready] = views[name];
      let shown;
      await page.goto(url);
      await ready(page);
      await expect(page.getByRole("status", { name: "Connection: live" })).toBeVisible();
      for (const width of [1280, 1920]) {
        await page.setViewportSize({ width, height: 900 });
        await page.evaluate(() => scrollTo(0, 0));
        await page.screenshot({ path: join(root, "build", "browser", "look", `${name}-${scheme}-${width}.png`), fullPage: true });
        expect(await page.evaluate(lookAt), `at ${width} px`).toEqual({ overlaps: [], faint: [], sideways: 0 });
        expect(page.url(), "what is shown stays when the window grows").toBe(shown ??= page.url());
      }
    });
  }
}
