// SPDX-License-Identifier: Apache-2.0
// What tests of ablation by hand share: the view, and what the Python client computes for the same cut.
import { EAP, address, expect, python } from "./fixtures.mjs";

export const CLEAN = "Then, Alice and Emma went to the restaurant. Emma gave a basket to";
export const CORRUPT = "Then, Alice and Emma went to the restaurant. Alice gave a basket to";

export const output = (page) => page.getByRole("region", { name: /Next token/ });
export const graph = (page) => page.getByRole("application", { name: /click a node or an edge/ });

/** Opens the view on a job of its own, with nothing ablated. */
export async function open(page, daemon) {
  const { jobId } = await daemon.api.finish(daemon, EAP);
  const params = { model: daemon.model.modelId, job: jobId, clean: CLEAN, corrupt: CORRUPT };
  await page.goto(address("patch", params));
  await expect(output(page)).toContainText("KL to the whole model 0 nats");
  await expect(output(page)).toHaveAttribute("aria-busy", "false");
}

/** KL and the likeliest token's share with `mask` ablated, from the plain definition. */
const CARRIES = { zero: 'ablation="zero"', resample: `ablation="resample", ablation_input=${JSON.stringify(CORRUPT)}` };
export const patched = (daemon, mask, ablation = "resample") => python(daemon, `
import json, ablate, numpy as np
client = ablate.connect(arrays="numpy")
model = client.load_model("tiny-ioi", "tl", progress=False)
graph = model.graph()
graph.set_patch_mask(${JSON.stringify(mask)})
whole = model(${JSON.stringify(CLEAN)})[0, -1]
after = graph(${JSON.stringify(CLEAN)}, ${CARRIES[ablation]})
graph.delete()
after = after.reshape(-1, after.shape[-1])[-1]
logs = [row - np.log(np.exp(row.astype(np.float64)).sum()) for row in (whole, after)]
best = int(whole.argmax())
print(json.dumps({"kl": float((np.exp(logs[0]) * (logs[0] - logs[1])).sum()),
                  "share": float(np.exp(logs[1][best])), "top": model.to_single_str_token(best)}))
`);

/** A number with four digits may differ in the last: sums are not associative. */
export async function expectKl(page, kl) {
  await expect(output(page)).toHaveAttribute("aria-busy", "false");
  const said = async () => /whole model ([\d.e−-]+) nats/.exec(await output(page).innerText())?.[1].replace("−", "-");
  await expect.poll(async () => Number(await said())).toBeCloseTo(kl, Math.abs(kl) < 0.1 ? 4 : 2);
}

