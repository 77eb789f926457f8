// SPDX-License-Identifier: Apache-2.0
// More than 100,000 edges in a browser: a token-specific graph over a model of nine layers. The page
// shows them, stays quick under the hand, and lists no more than a person reads.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EAP, EAP_IG, address, alone, data, expect, ioiPath, taken } from "./fixtures.mjs";

const test = alone.extend({
  roots: async ({}, use, testInfo) => {
    deepen(join(data, "models", "tiny-ioi"), testInfo.outputPath("models", "deep-ioi"), 9);
    await use([testInfo.outputPath("models")]);
  },
});

/** tiny-ioi with its blocks over and over. */
function deepen(from, to, layers) {
  mkdirSync(to, { recursive: true });
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) copyFileSync(join(from, name), join(to, name));
  const config = JSON.parse(readFileSync(join(from, "config.json"), "utf8"));
  writeFileSync(join(to, "config.json"), JSON.stringify({ ...config, n_layer: layers }));
  const file = readFileSync(join(from, "model.safetensors"));
  const begin = 8 + Number(file.readBigUInt64LE(0));
  const { __metadata__, ...tensors } = JSON.parse(file.subarray(8, begin).toString());
  const [header, pieces] = [{ __metadata__ }, []];
  let at = 0;
  const put = (name, { dtype, shape, data_offsets: [first, last] }) => {
    pieces.push(file.subarray(begin + first, begin + last));
    header[name] = { dtype, shape, data_offsets: [at, at += last - first] };
  };
  for (const [name, tensor] of Object.entries(tensors)) {
    const block = /^(transformer\.h\.)(\d+)(\..*)$/.exec(name);
    if (!block) put(name, tensor);
    else for (let layer = Number(block[2]); layer < layers; layer += config.n_layer) put(`${block[1]}${layer}${block[3]}`, tensor);
  }
  const text = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, " ")]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  writeFileSync(join(to, "model.safetensors"), Buffer.concat([length, padded, ...pieces]));
}

/** Milliseconds until the page has drawn again after this. */
const drawn = (page, act) => page.evaluate(`new Promise((done) => {
  const start = performance.now();
  (${act})();
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})`);

test("100,000 edges are shown, moved, taken away, narrowed down and compared", async ({ page, daemon }) => {
  const { api } = daemon;
  const model = await api.load("deep-ioi");
  const { prompts } = JSON.parse(readFileSync(ioiPath, "utf8"));
  const dataset = await api.upload(Buffer.from(JSON.stringify({ prompts: prompts.slice(0, 2) })), "two");
  const tokens = await api.models.toStrTokens({ modelId: model.modelId, input: { case: "text", value: prompts[0].clean } });
  const graph = await api.graph(model.modelId, { seqLen: tokens.ids.length });
  const edgeCount = Number(graph.edgeCount);
  expect(edgeCount).toBeGreaterThan(100_000);
  const [{ jobId }, other] = [await api.finish({ graph, dataset }, EAP), await api.finish({ graph, dataset }, EAP_IG)];

  await page.goto(address("discover", { job: jobId, top: String(edgeCount) }));
  const picture = page.getByRole("application", { name: /^Circuit of [\d,]{6,7} edges$/ });
  await expect(picture).toBeVisible();
  await expect(page.getByRole("region", { name: "Ranked edges" })).toContainText(/The first 200 of [\d,]{6,7} shown\./);
  await expect(page.getByRole("region", { name: "Edges by score" }).locator("tbody tr")).toHaveCount(200);
  const wheel = `() => document.querySelector(".picture canvas").dispatchEvent(
    new WheelEvent("wheel", { deltaY: -100, clientX: 640, clientY: 400, cancelable: true }))`;
  await drawn(page, wheel); // the first movement drops the detail
  const times = [];
  for (let turn = 0; turn < 5; turn++) times.push(await drawn(page, wheel));
  expect(Math.min(...times)).toBeLessThan(500);

  const { scored } = await page.getByRole("application", { name: /^Circuit of/ }).evaluate((canvas) =>
    ({ scored: Number(/[\d,]+/.exec(canvas.getAttribute("aria-label"))[0].replaceAll(",", "")) }));
  const svg = (await taken(page, "SVG")).bytes.toString();
  expect(svg.match(/M[\d.-]+ [\d.-]+C/g)).toHaveLength(scored);
  expect(svg.match(/<path /g).length).toBeLessThan(30);
  const png = (await taken(page, "PNG")).bytes;
  expect(png.readUInt32BE(16)).toBe(2 * Number(/width="(\d+)"/.exec(svg)[1]));

  await page.getByLabel("Filter edges").fill("Resid End at position 15");
  await expect(page.getByRole("region", { name: "Ranked edges" })).toContainText(/^Ranked edges.*\n?[^]*\d+ edges\.$/);
  await page.getByLabel("Filter edges").fill("");
  await page.getByRole("tab", { name: "Heat map" }).click();
  await page.getByRole("application", { name: /Heat map/ }).press("ArrowDown");
  await expect(page.locator("#heat-words")).toContainText(/at position \d+: /);
  await page.getByLabel("Circuit size in edges").fill("50");
  await page.getByLabel("Circuit size in edges").press("Enter");
  await page.getByRole("tab", { name: "Circuit" }).click();
  await expect(page.getByRole("application", { name: "Circuit of 50 edges" })).toBeVisible();
  await expect(page.getByRole("table").filter({ hasText: "Accuracy" })).toHaveAttribute("aria-busy", "false");

  const start = Date.now();
  await page.goto(address("compare", { a: jobId, b: other.jobId }));
  await expect(page.getByRole("region", { name: "Agreement" })).toContainText("Spearman");
  await expect(page.getByRole("application", { name: "Where EAP and EAP-IG differ" })).toBeVisible();
  expect(Date.now() - start).toBeLessThan(10_000);
});
