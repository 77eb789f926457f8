// SPDX-License-Identifier: Apache-2.0
// The dashboard in Debian's Chromium, against a real daemon: nothing is downloaded. CHROMIUM names
// another browser. What a failure leaves (a screenshot, a trace) is in build/browser; look at a trace
// with `npx playwright show-trace FILE`.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "@playwright/test";
import { root } from "./test/daemon.mjs";

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
if (!existsSync(chromium)) {
  throw new Error(`There is no browser at ${chromium}: run deploy/deps.sh, or apt-get install chromium; ` +
    "or say with CHROMIUM where one is.");
}
if (!existsSync(join(root, "clients", "web", "dist", "index.html"))) {
  throw new Error("The dashboard is not built: run make dashboard.");
}

export default defineConfig({
  testDir: "browser",
  outputDir: join(root, "build", "browser"),
  preserveOutput: "failures-only",
  workers: 2,
  fullyParallel: false, // a file's tests share what they prepare
  retries: 0,
  forbidOnly: true,
  timeout: 60_000,
  expect: { timeout: 15_000 },
  reporter: process.env.ABLATE_JUNIT ? [["list"], ["junit", { outputFile: process.env.ABLATE_JUNIT }]] : [["list"]],
  use: {
    viewport: { width: 1280, height: 900 },
    colorScheme: "light",
    reducedMotion: "reduce",
    trace: "retain-on-failure",
    screenshot: "only-on-failure",
    launchOptions: { executablePath: chromium, args: process.getuid() === 0 ? ["--no-sandbox"] : [] },
  },
});
