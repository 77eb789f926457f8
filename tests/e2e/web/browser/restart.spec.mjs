// SPDX-License-Identifier: Apache-2.0
// A daemon that stops, dies, freezes or is started anew, and a network that breaks: the page says so,
// greys out what is old, goes on by itself, and keeps no number that is not the daemon's any more.
import { fromBinary } from "@bufbuild/protobuf";
import { WatchJobRequestSchema } from "../build/gen/ablate/v1/prune_pb.js";
import { address, alone as test, expect, wireTo } from "./fixtures.mjs";

const banner = (page) => page.getByRole("alert").filter({ hasText: "The daemon at" });
const light = (page, word) => page.getByRole("status", { name: `Connection: ${word}` });
const share = (page) => page.getByRole("progressbar", { name: /^Progress of job/ }).evaluate((element) => element.value);

/** Opens Discover on a job that runs, and waits for its first scores. */
async function openRunning(page, daemon, url = "") {
  const { jobId } = await daemon.api.submitLong(await daemon.api.prepare());
  await page.goto(url + address("discover", { job: jobId }));
  await expect(page.getByRole("region", { name: "Edges by score" }).locator("tbody tr")).toHaveCount(40);
  return jobId;
}

test("a daemon that is gone: what is shown is greyed, with its time, and a button tries again", async ({ page, daemon }) => {
  await daemon.api.prepare();
  await page.goto("/");
  await expect(page.getByRole("region", { name: "Graphs" })).toBeVisible();
  await daemon.stop();
  await expect(banner(page)).toContainText(/What you see is from \d\d:\d\d:\d\d and may be old\./);
  await expect(banner(page)).toContainText(/Trying again/);
  await expect(light(page, "no answer")).toBeVisible();
  await expect(page.getByRole("main")).toHaveClass("old");
  expect(Number(await page.getByRole("main").evaluate((main) => getComputedStyle(main).opacity))).toBeLessThan(0.7);

  // It asks less and less often, and at once when it is told to.
  await expect(banner(page)).toContainText(/Trying again in [4-9](\.\d)? s/);
  const [, asked] = await Promise.all([
    page.waitForRequest(/GetServerInfo/), Date.now(), banner(page).getByRole("button", { name: "Try now" }).click()]);
  expect(Date.now() - asked).toBeLessThan(3000);
  await daemon.restart();
  await expect(light(page, "live")).toBeVisible();
  await expect(banner(page)).toHaveCount(0);
  await expect(page.getByRole("main")).not.toHaveClass("old");
  await expect(page.getByRole("region", { name: "Models in memory" })).toContainText("None yet.");
  await expect(page.getByRole("region", { name: "Graphs" })).toHaveCount(0);
});

test("a form that is sent to nobody says so, and can be sent again", async ({ page, daemon }) => {
  await daemon.api.prepare();
  await page.goto(address("discover"));
  const form = page.getByRole("region", { name: "New run" });
  await expect(form.getByLabel("Dataset", { exact: true })).toContainText("ioi");
  await form.getByLabel("Algorithm").selectOption({ label: "EAP" });
  await daemon.stop("SIGKILL");
  await form.getByRole("button", { name: "Discover" }).click();
  await expect(form.getByRole("alert")).toContainText("The daemon does not answer.");
  await expect(form.getByRole("button", { name: "Discover" })).toBeEnabled();
  await expect(banner(page)).toBeVisible();

  await daemon.restart();
  await daemon.api.prepare();
  await expect(light(page, "live")).toBeVisible();
  await expect(form.getByLabel("Dataset", { exact: true })).toContainText("ioi");
  await form.getByRole("button", { name: "Discover" }).click();
  await expect(page.getByRole("status").filter({ hasText: "EAP on tiny-ioi" })).toContainText("succeeded");
  await expect(form.getByRole("alert")).toHaveCount(0);
});

test("killed in the middle of a stream and started anew: the job is gone, in words", async ({ page, daemon }) => {
  const jobId = await openRunning(page, daemon);
  await daemon.stop("SIGKILL");
  await expect(banner(page)).toBeVisible();
  await expect(page.getByRole("main")).toHaveClass("old");
  await daemon.restart();
  await expect(light(page, "live")).toBeVisible();
  const stage = page.getByRole("region", { name: "Circuit" });
  await expect(stage.getByRole("alert")).toContainText(jobId);
  await expect(stage.getByRole("alert")).toContainText("the daemon was started again since. Choose another.");
  await expect(page.getByRole("progressbar")).toHaveCount(0);
  await expect(page.getByRole("region", { name: "Edges by score" })).toHaveCount(0);
});

test("a wire that breaks in the middle of a stream: it goes on behind the last event", async ({ page, daemon }) => {
  const wire = await wireTo(daemon);
  const asked = [];
  page.on("request", (request) => {
    if (!request.url().endsWith("/WatchJob")) return;
    asked.push(Number(fromBinary(WatchJobRequestSchema, request.postDataBuffer().subarray(5)).afterSequence));
  });
  const jobId = await openRunning(page, daemon, wire.url);
  const before = await share(page);
  wire.cut();
  await expect.poll(() => asked.length).toBeGreaterThan(1);
  expect(asked[0]).toBe(0);
  expect(asked[1]).toBeGreaterThan(0);
  await expect.poll(() => share(page)).toBeGreaterThan(before);
  await daemon.api.prune.cancelJob({ jobId });
  await expect(page.getByRole("status").filter({ hasText: jobId })).toContainText("cancelled");
  wire.close();
});

test("a daemon that hangs is not taken for one that answers, and the stream goes on when it does", async ({ page, daemon }) => {
  const jobId = await openRunning(page, daemon);
  const before = await share(page);
  daemon.process.kill("SIGSTOP");
  await expect(light(page, "no answer")).toBeVisible();
  await expect(page.getByRole("main")).toHaveClass("old");
  daemon.process.kill("SIGCONT");
  await expect(light(page, "live")).toBeVisible();
  await expect.poll(() => share(page)).toBeGreaterThan(before);
  await page.getByRole("button", { name: "Cancel" }).click();
  await expect(page.getByRole("status").filter({ hasText: jobId })).toContainText("cancelled");
});
