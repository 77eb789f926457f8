// SPDX-License-Identifier: Apache-2.0
// Bad input, another version, and things that go away under a view.
import { toBinary } from "@bufbuild/protobuf";
import { GetServerInfoResponseSchema } from "../build/gen/ablate/v1/admin_pb.js";
import { EAP, address, alone as test, expect } from "./fixtures.mjs";

/** A gRPC-web answer: a data frame, and the trailers of success. */
function framed(message) {
  const trailers = Buffer.from("grpc-status: 0\r\n");
  const head = (flags, length) => {
    const bytes = Buffer.alloc(5);
    bytes.writeUInt8(flags);
    bytes.writeUInt32BE(length, 1);
    return bytes;
  };
  return Buffer.concat([head(0, message.length), message, head(0x80, trailers.length), trailers]);
}

test("a daemon of another protocol is one sentence that says what to do", async ({ page, daemon }) => {
  const info = { ...(await daemon.api.admin.getServerInfo({})), protocol: "ablate.v2", version: "9.0.0" };
  await page.route("**/GetServerInfo", (route) => route.fulfill({
    contentType: "application/grpc-web+proto", body: framed(toBinary(GetServerInfoResponseSchema, info)),
  }));
  await page.goto("/");
  await expect(page.getByRole("alert")).toContainText(
    "The daemon speaks ablate.v2 (version 9.0.0), this page ablate.v1: reload the page");
});

test("token ids outside of the vocabulary are refused by their number", async ({ page, daemon }) => {
  await daemon.api.prepare();
  await page.goto(address("discover"));
  const form = page.getByRole("region", { name: "New run" });
  const ids = Array.from({ length: 8 }, (_, index) => index + 1);
  const prompts = [{ clean: [...ids, 99999], corrupt: [...ids, 5], answers: [3], wrong_answers: [4] }];
  await form.getByLabel("Upload a dataset").setInputFiles({
    name: "ids.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify({ prompts })),
  });
  await expect(form.getByLabel("Dataset", { exact: true }).locator("option:checked")).toHaveText("ids (1 pairs)");
  await form.getByRole("button", { name: "Discover" }).click();
  await expect(form.getByRole("alert")).toContainText("99999");
  await expect(form.getByRole("button", { name: "Discover" })).toBeEnabled();
});

test("a file that is no dataset is refused in words", async ({ page }) => {
  await page.goto(address("discover"));
  const form = page.getByRole("region", { name: "New run" });
  for (const [text, words] of [["{", /JSON/i], ['{"prompts": [{"clean": "a"}]}', /corrupt/]]) {
    const buffer = Buffer.from(text);
    await form.getByLabel("Upload a dataset").setInputFiles({ name: "bad.json", mimeType: "application/json", buffer });
    await expect(form.getByRole("alert")).toContainText(words);
  }
});

test("options that are no numbers are refused where they are written", async ({ page, daemon }) => {
  await daemon.api.prepare();
  await page.goto(address("discover"));
  const form = page.getByRole("region", { name: "New run" });
  const options = form.locator("details", { hasText: "Prompts and batches" });
  await options.getByText("Prompts and batches").click();
  await options.getByLabel("Batch size").fill("eight");
  await expect(options).toContainText("Batch size: 'eight' is no number.");
  await options.getByLabel("Batch size").fill("-3");
  await form.getByRole("button", { name: "Discover" }).click();
  await expect(form.getByRole("alert")).toContainText(/batch/i);
});

test("a model removed under a view: its numbers go, and the page says what to do", async ({ page, daemon }) => {
  const { model, graph } = await daemon.api.prepare();
  await page.goto(address("prompt", { model: model.modelId }));
  await expect(page.getByRole("region", { name: "Next token" })).toBeVisible();
  await daemon.api.graphs.deleteGraph({ graphId: graph.graphId });
  await daemon.api.models.unloadModel({ modelId: model.modelId });
  await expect(page.getByRole("alert")).toContainText(`The model ${model.modelId} is not in memory any more`);
  await expect(page.getByRole("region", { name: "Next token" })).toHaveCount(0);
  await expect(page.getByRole("group", { name: /Tokens of/ })).toHaveCount(0);

  // Another one is not taken for it; it has to be chosen.
  const other = await daemon.api.load("tiny-rand");
  await page.getByRole("combobox", { name: /^Model/ }).selectOption(other.modelId);
  await expect(page.getByRole("alert")).toHaveCount(0);
  await expect(page.getByRole("region", { name: "Next token" })).toBeVisible();
});

test("a graph removed under an open job: the circuit's measures stop being shown as fresh", async ({ page, daemon }) => {
  const prepared = await daemon.api.prepare();
  const { jobId } = await daemon.api.finish(prepared, EAP);
  await page.goto(address("discover", { job: jobId }));
  const faith = page.getByRole("region", { name: /Faithfulness/ });
  await expect(faith.getByRole("table")).toHaveAttribute("aria-busy", "false");
  await daemon.api.graphs.deleteGraph({ graphId: prepared.graph.graphId });
  await daemon.api.models.unloadModel({ modelId: prepared.model.modelId });
  await page.getByLabel("Circuit size in edges").fill("11");
  await page.getByLabel("Circuit size in edges").press("Enter");
  await expect(faith.getByRole("alert")).toContainText(/removed|unknown|no longer|There is no/i);
  await expect(faith.getByRole("table")).toHaveAttribute("aria-busy", "true");
  await expect(faith.getByRole("progressbar")).toHaveCount(0);
});
