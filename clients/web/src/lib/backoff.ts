// SPDX-License-Identifier: Apache-2.0
// How long to wait before the n-th new attempt, and waiting that can be called off.

const FIRST_MS = 500;
const MOST_MS = 10_000;

/** Milliseconds before attempt `n` (0 is the first retry): doubling, at most 10 s, 0 to 20 % off. */
export function backoffMs(n: number, random: () => number = Math.random): number {
  const full = Math.min(MOST_MS, FIRST_MS * 2 ** Math.max(0, Math.min(n, 20)));
  return Math.round(full * (1 - 0.2 * random()));
}

/** Resolves after `ms`, or at once when `signal` is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal?.aborted) return done();
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      done();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener("abort", end);
  });
}
