// SPDX-License-Identifier: Apache-2.0
// Two tabs and a notebook at once: each sees what the others do, and none spoils another's numbers.
import { address, alone as test, expect, python } from "./fixtures.mjs";
import { expectKl, open, output, patched } from "./patching.mjs";

test("two tabs follow one job, and a notebook that works on its graph cancels it", async ({ page, context, daemon }) => {
  const prepared = await daemon.api.prepare();
  const { jobId } = await daemon.api.submitLong(prepared);
  const pages = [page, await context.newPage()];
  const rows = (tab) => tab.getByRole("region", { name: "Edges by score" }).locator("tbody tr");
  for (const tab of pages) {
    await tab.goto(daemon.url + address("discover", { job: jobId }));
    await expect(rows(tab)).toHaveCount(40);
  }
  const said = await python(daemon, `
import json, ablate, numpy as np
client = ablate.connect(arrays="numpy")
model = client.load_model("tiny-ioi", "tl", progress=False)
graph = next(one for one in model.graphs() if one.id == "${prepared.graph.graphId}")
prompt, other = "Then, Alice and Emma went to the", "Then, Alice and Lucy went to the"
graph.set_patch_mask({"MLP 0->Resid End": 1})
mine = graph(prompt, ablation="resample", ablation_input=other)
own = model.graph()
own.set_patch_mask({"MLP 0->Resid End": 1})
same = float(np.abs(own(prompt, ablation="resample", ablation_input=other) - mine).max())
own.delete()
job = client.job("${jobId}").cancel()
print(json.dumps({"same": same}))
`);
  expect(said.same).toBeLessThan(1e-4);
  const texts = [];
  for (const tab of pages) {
    await expect(tab.getByRole("status").filter({ hasText: jobId })).toContainText("cancelled");
    await expect(tab.getByRole("table").filter({ hasText: "Accuracy" })).toHaveAttribute("aria-busy", "false");
    texts.push(await rows(tab).allInnerTexts());
  }
  expect(texts[0]).toEqual(texts[1]);
});

test("two tabs patch by hand beside each other, and a notebook meddles with one's graph", async ({ page, context, daemon }) => {
  Object.assign(daemon, await daemon.api.prepare());
  const second = await context.newPage();
  const known = async () => new Set((await daemon.api.graphs.listGraphs({})).graphs.map(({ graphId }) => graphId));
  const before = await known();
  await open(page, daemon);
  const [own] = [...await known()].filter((id) => !before.has(id));
  await second.goto(page.url());
  await expect(output(second)).toHaveAttribute("aria-busy", "false");
  const ablate = async (tab, name) => {
    await tab.getByLabel("Node or edge by name").fill(name);
    await tab.getByLabel("Node or edge by name").press("Enter");
  };
  await Promise.all([ablate(page, "MLP 0->Resid End"), ablate(second, "MLP 2->Resid End")]);
  const [one, other] = [await patched(daemon, { "MLP 0->Resid End": 1 }), await patched(daemon, { "MLP 2->Resid End": 1 })];
  expect(Math.abs(one.kl - other.kl)).toBeGreaterThan(1e-3);
  await expectKl(page, one.kl);
  await expectKl(second, other.kl);

  // Somebody else's mask on the tab's graph does not get into the tab's numbers.
  await python(daemon, `
import ablate
graph = next(one for one in ablate.connect().load_model("tiny-ioi", "tl", progress=False).graphs() if one.id == "${own}")
print(graph.set_patch_mask(1.0))
`);
  await ablate(page, "A0.3->MLP 0");
  await expectKl(page, (await patched(daemon, { "MLP 0->Resid End": 1, "A0.3->MLP 0": 1 })).kl);

  await daemon.api.graphs.deleteGraph({ graphId: own });
  await page.getByRole("button", { name: "Restore A0.3->MLP 0" }).click();
  await expectKl(page, one.kl);
  await expect(page.getByText("1 edge ablated.")).toBeVisible();
});
