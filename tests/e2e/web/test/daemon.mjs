// SPDX-License-Identifier: Apache-2.0
// The daemon under test: $ABLATE_HTTP if set (a daemon that runs already), else one of our own from
// $ABLATE_BUILD (default build/dev), ended with SIGTERM.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, watch } from "node:fs";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "..", "..", "..", "..");
const goldens = process.env.ABLATE_GOLDENS ?? join(root, "tests/golden/data");

export const ioiJson = (folder = goldens) => readFileSync(join(folder, "prompts", "ioi_abba.json"));

// One daemon, on free ports if not said otherwise. Resolves to {url, grpc, process, stop}.
export async function spawnDaemon({ listen = "127.0.0.1:0", http = "127.0.0.1:0", roots, flags = [], stdio = "inherit" } = {}) {
  const folder = mkdtempSync(join(tmpdir(), "ablate-web-"));
  const ready = join(folder, "ready.json");
  const binary = resolve(root, process.env.ABLATE_BUILD ?? "build/dev", "bin", "ablated");
  const child = spawn(
    binary,
    ["--listen", listen, "--http", http, "--ready-file", ready, "--state-dir", join(folder, "state")]
      .concat((roots ?? [join(goldens, "models")]).flatMap((path) => ["--model-root", path]), flags),
    { stdio: ["ignore", stdio, stdio] },
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
  const addresses = JSON.parse(readFileSync(ready, "utf8"));
  return {
    url: `http://${addresses.http}`,
    grpc: addresses.grpc,
    process: child,
    // With SIGKILL it crashes, which is no fault of its own.
    stop: async (signal = "SIGTERM") => {
      const alive = child.exitCode === null && child.signalCode === null;
      const ended = alive ? once(child, "exit") : Promise.resolve([child.exitCode]);
      child.kill(signal);
      const [code] = await ended;
      rmSync(folder, { recursive: true, force: true });
      if (code !== 0 && signal === "SIGTERM") throw new Error(`ablated ended with ${code} on SIGTERM`);
    },
  };
}

// Resolves to {url, stop}.
export async function startDaemon() {
  if (process.env.ABLATE_HTTP) return { url: process.env.ABLATE_HTTP, stop: async () => {} };
  return spawnDaemon();
}
