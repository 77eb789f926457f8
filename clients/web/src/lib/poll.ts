// SPDX-License-Identifier: Apache-2.0
// A value of the daemon's that is read again at each of its answers (connection.ts), and kept, as old,
// while it does not answer. What a daemon that was started anew was not asked for is not kept.
import { useSignalEffect, useSignal, type Signal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { epoch, tick } from "./connection.js";
import { describe, isCancelled, isLost } from "./errors.js";

export interface Polled<T> {
  value: Signal<T | undefined>;
  error: Signal<string>;
  /** Reads again now. */
  refresh: () => void;
}

/** `read` is called at every `every`-th answer of the daemon, one call at a time. */
export function usePolled<T>(read: (signal: AbortSignal) => Promise<T>, every = 1): Polled<T> {
  const value = useSignal<T | undefined>(undefined);
  const error = useSignal("");
  const again = useSignal(0);
  const state = useMemo(() => ({ busy: false, lastTick: -Infinity, lastEpoch: 0, lastAgain: 0 }), []);
  useSignalEffect(() => {
    const now = tick.value;
    if (epoch.value !== state.lastEpoch) {
      Object.assign(state, { lastEpoch: epoch.value, lastTick: -Infinity });
      value.value = undefined; // handles of the daemon that was
    }
    const forced = again.value !== state.lastAgain;
    if (now === 0 || state.busy || (!forced && now - state.lastTick < every)) return;
    Object.assign(state, { busy: true, lastTick: now, lastAgain: again.value });
    const controller = new AbortController();
    read(controller.signal)
      .then((result) => {
        value.value = result;
        error.value = "";
      })
      .catch((failure: unknown) => {
        if (!isCancelled(failure) && !isLost(failure)) error.value = describe(failure);
      })
      .finally(() => {
        state.busy = false;
        if (again.peek() !== state.lastAgain || state.lastTick === -Infinity) again.value++;
      });
  });
  return useMemo(() => ({ value, error, refresh: () => again.value++ }), []);
}
