// SPDX-License-Identifier: Apache-2.0
// What is taken away from a run: files that other tools read, and a link that reopens the view.
import { EAP, expect, taken, test } from "./fixtures.mjs";

test("scores, circuit and pictures are the job's", async ({ page, daemon }) => {
  const { jobId } = await daemon.api.finish(daemon, EAP);
  await page.goto(`/#/discover?job=${jobId}&top=25`);
  await expect(page.getByRole("region", { name: "Take away" })).toBeVisible();

  const tensors = await taken(page, "Scores, safetensors");
  expect(tensors.name).toBe(`${jobId}.safetensors`);
  const length = Number(tensors.bytes.readBigUInt64LE(0));
  const header = JSON.parse(tensors.bytes.subarray(8, 8 + length).toString());
  const expected = await daemon.api.scores(jobId);
  expect(Object.keys(header).filter((name) => name !== "__metadata__").sort()).toEqual([...expected.keys()].sort());
  for (const [name, bytes] of expected) {
    const [begin, end] = header[name].data_offsets;
    expect(tensors.bytes.subarray(8 + length + begin, 8 + length + end).equals(bytes), name).toBe(true);
  }

  const mib = JSON.parse((await taken(page, "Circuit, MIB JSON")).bytes.toString());
  const edges = Object.values(mib.edges);
  expect(edges).toHaveLength(1519);
  const kept = edges.filter((edge) => edge.in_graph).map((edge) => edge.score);
  const best = await daemon.api.strongest(jobId, 25);
  expect(kept.sort((a, b) => a - b)).toEqual(best.map(({ value }) => value).sort((a, b) => a - b));
  expect(mib.cfg).toMatchObject({ n_layers: 4, n_heads: 8, d_model: 128 });

  const svg = (await taken(page, "SVG")).bytes.toString();
  expect(svg.match(/<path /g)).toHaveLength(25);
  expect(svg).toContain("EAP on tiny-ioi");
  const png = (await taken(page, "PNG")).bytes;
  expect(png.subarray(0, 8).toString("latin1")).toBe("\x89PNG\r\n\x1a\n");
  const width = Number(/width="(\d+)"/.exec(svg)[1]);
  expect(png.readUInt32BE(16)).toBe(width * 2);
});

test("a link reopens the same view in another browser", async ({ page, context, browser, daemon }) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const { jobId } = await daemon.api.finish(daemon, EAP);
  await page.goto(`/#/discover?job=${jobId}`);
  await page.getByRole("tab", { name: "Heat map" }).click();
  await page.getByLabel("Circuit size in edges").fill("17");
  await page.getByLabel("Circuit size in edges").press("Enter");
  const rows = page.getByRole("region", { name: "Edges by score" }).locator("tbody tr");
  await expect(rows).toHaveCount(17);
  const texts = await rows.allInnerTexts();
  await expect.poll(() => page.url()).toContain("top=17"); // written when the slider rests
  await page.getByRole("button", { name: "Copy link" }).click();
  await expect(page.getByText("The link is copied.")).toBeVisible();
  const link = await page.evaluate(() => navigator.clipboard.readText());

  const elsewhere = await browser.newContext();
  const other = await elsewhere.newPage();
  await other.goto(link);
  await expect(other.getByRole("tab", { name: "Heat map" })).toHaveAttribute("aria-selected", "true");
  await expect(other.getByLabel("Circuit size in edges")).toHaveValue("17");
  const again = other.getByRole("region", { name: "Edges by score" }).locator("tbody tr");
  await expect(again).toHaveCount(17);
  expect(await again.allInnerTexts()).toEqual(texts);
  await elsewhere.close();
});
