// SPDX-License-Identifier: Apache-2.0
// Whether the daemon answers, always in sight; and since when not.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { answeredMs, link, restartMs, retryMs, retryNow, server, trouble } from "../lib/connection.js";
import { clock, duration } from "../lib/format.js";

const WORDS = { connecting: "connecting", live: "live", lost: "no answer" } as const;

export function LinkLight() {
  const version = server.value ? `ablated ${server.value.version}` : "";
  return (
    <span class={`link ${link.value}`} role="status" aria-label={`Connection: ${WORDS[link.value]}`}>
      <i aria-hidden="true" /> {WORDS[link.value]} <small>{version}</small>
    </span>
  );
}

/** The time, while it matters. */
function useNow(active: boolean): number {
  const now = useSignal(Date.now());
  useEffect(() => {
    if (!active) return undefined;
    const timer = setInterval(() => (now.value = Date.now()), 500);
    return () => clearInterval(timer);
  }, [active]);
  return now.value;
}

export function ConnectionBanner() {
  const lost = link.value === "lost";
  const now = useNow(lost);
  if (!lost) return null;
  const waitMs = Math.max(0, retryMs.value - now);
  return (
    <div class="banner" role="alert">
      <strong>The daemon at {location.host} does not answer.</strong>{" "}
      {trouble.value}
      {answeredMs.value > 0
        ? ` What you see is from ${clock(answeredMs.value)} and may be old. `
        : " Start it with ablated, or open the address that it printed. "}
      {waitMs > 0 ? `Trying again in ${duration(Math.ceil(waitMs / 1000) * 1000)}.` : "Trying again…"}{" "}
      <button type="button" onClick={retryNow}>
        Try now
      </button>
    </div>
  );
}

/** A daemon that was started anew knows nothing of before. */
export function RestartNotice() {
  if (restartMs.value === 0 || link.value === "lost") return null;
  return (
    <div class="banner" role="status">
      <strong>The daemon was started again</strong> (noticed at {clock(restartMs.value)}). Its models, graphs and runs of before
      are gone, and what was shown of them is taken away. Load the model in the <a href="#/overview">overview</a>, and run again.{" "}
      <button type="button" onClick={() => (restartMs.value = 0)}>Dismiss</button>
    </div>
  );
}
