// SPDX-License-Identifier: Apache-2.0
// Whether the daemon answers. It is asked every two seconds; when it does not answer, less and less
// often, up to every ten. What was read before it went silent is kept and shown as old (`lost`), never
// as fresh. A daemon that was started anew knows no old handle: `epoch` counts those starts.
import { batch, computed, signal } from "@preact/signals";
import type { GetServerInfoResponse } from "#gen/ablate/v1/admin_pb.js";
import { backoffMs, sleep } from "./backoff.js";
import { describe, isLost } from "./errors.js";
import { PROTOCOL, QUICK, admin } from "./rpc.js";

const POLL_MS = 2000;

export type Link = "connecting" | "live" | "lost";

export const link = signal<Link>("connecting");
export const server = signal<GetServerInfoResponse | undefined>(undefined);
/** When the daemon last answered, in ms since 1970; 0: never. */
export const answeredMs = signal(0);
/** When it is asked next, while it does not answer. */
export const retryMs = signal(0);
/** In words, while it does not answer. */
export const trouble = signal("");
/** Counts the daemon's starts that this page has seen. */
export const epoch = signal(0);
/** When the newest of them was noticed, in ms since 1970, until somebody has read of it; 0: none. */
export const restartMs = signal(0);
/** Counts how often it answered again after it had not: calls that failed meanwhile are made anew. */
export const recoveries = signal(0);
/** Counts its answers: what is polled follows it. */
export const tick = signal(0);

/** Another protocol than this page's: one clear sentence, else empty. */
export const skew = computed(() => {
  const info = server.value;
  return info === undefined || info.protocol === PROTOCOL
    ? ""
    : `The daemon speaks ${info.protocol} (version ${info.version}), this page ${PROTOCOL}: ` +
        "reload the page, or rebuild it with `make dashboard` and start the daemon again.";
});

let wake = new AbortController();

/** Asks again now instead of at the next time. */
export function retryNow(): void {
  wake.abort();
}

/** Takes an answer over. One of another instance is of a daemon that was started since the one before. */
export function answered(info: GetServerInfoResponse): void {
  const now = Date.now();
  batch(() => {
    if (server.value && server.value.instanceId !== info.instanceId) {
      epoch.value++;
      restartMs.value = now;
    }
    if (link.value === "lost") recoveries.value++;
    server.value = info;
    answeredMs.value = now;
    trouble.value = "";
    link.value = "live";
    tick.value++;
  });
}

function silent(error: unknown, waitMs: number): void {
  batch(() => {
    link.value = "lost";
    trouble.value = isLost(error) ? "" : describe(error);
    retryMs.value = Date.now() + waitMs;
  });
}

/** Runs until `signal` is aborted. */
export async function keepAsking(signal: AbortSignal): Promise<void> {
  let failures = 0;
  while (!signal.aborted) {
    let waitMs = POLL_MS;
    try {
      answered(await admin.getServerInfo({}, { ...QUICK, signal }));
      failures = 0;
    } catch (error) {
      if (signal.aborted) return;
      waitMs = backoffMs(failures++);
      silent(error, waitMs);
    }
    wake = new AbortController();
    await sleep(waitMs, AbortSignal.any([signal, wake.signal]));
  }
}
