// SPDX-License-Identifier: Apache-2.0
// The daemon under test: $ABLATE_HTTP if set (a daemon that runs already), else one of our own from
// $ABLATE_BUILD (default build/dev) on free ports, ended with SIGTERM.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, watch } from "node:fs";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..", "..", "..", "..");
const goldens = process.env.ABLATE_GOLDENS ?? join(root, "tests/golden/data");

export const ioiJson = () => readFileSync(join(goldens, "prompts", "ioi_abba.json"));

// Resolves to {url, stop}.
export async function startDaemon() {
  if (process.env.ABLATE_HTTP) return { url: process.env.ABLATE_HTTP, stop: async () => {} };
  const folder = mkdtempSync(join(tmpdir(), "ablate-web-"));
  const ready = join(folder, "ready.json");
  const binary = resolve(root, process.env.ABLATE_BUILD ?? "build/dev", "bin", "ablated");
  const child = spawn(
    binary,
    ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--ready-file", ready]
      .concat(["--model-root", join(goldens, "models"), "--state-dir", join(folder, "state")]),
    { stdio: ["ignore", "inherit", "inherit"] },
  );
  const gone = once(child, "exit").then(([code]) => {
    throw new Error(`ablated ended with ${code} before it was ready`);
  });
  const appeared = new Promise((done) => {
    const watcher = watch(folder, () => {
      if (existsSync(ready)) {
        watcher.close();
        done();
      }
    });
    if (existsSync(ready)) {
      watcher.close();
      done();
    }
  });
  await Promise.race([appeared, gone]);
  gone.catch(() => {});
  const { http } = JSON.parse(readFileSync(ready, "utf8"));
  return {
    url: `http://${http}`,
    stop: async () => {
      const ended = child.exitCode === null ? once(child, "exit") : Promise.resolve([child.exitCode]);
      child.kill("SIGTERM");
      const [code] = await ended;
      rmSync(folder, { recursive: true, force: true });
      if (code !== 0) throw new Error(`ablated ended with ${code} on SIGTERM`);
    },
  };
}
