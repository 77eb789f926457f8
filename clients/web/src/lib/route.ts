// SPDX-License-Identifier: Apache-2.0
// The address is the view: "#/discover?job=job-3&top=50". Whoever opens the same address sees the same.
import { signal } from "@preact/signals";

export const VIEWS = ["overview", "discover", "prompt", "patch", "compare"] as const;
export type View = (typeof VIEWS)[number];
export interface Route {
  view: View;
  params: Readonly<Record<string, string>>;
}

/** Anything that is no view of ours is the overview. */
export function parseHash(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const view = VIEWS.find((name) => name === path) ?? "overview";
  return { view, params: Object.fromEntries(new URLSearchParams(query)) };
}

/** Parameters that are empty are left out. */
export function formatHash({ view, params }: Route): string {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== ""));
  return `#/${view}${query.size > 0 ? `?${query.toString()}` : ""}`;
}

export const route = signal<Route>(parseHash(globalThis.location?.hash ?? ""));

/** Goes to another view, which the browser's back button undoes. */
export function go(view: View, params: Record<string, string> = {}): void {
  globalThis.location.hash = formatHash({ view, params });
}

/** Changes parameters of the view in place, without an entry in the history. */
export function setParams(changes: Record<string, string>): void {
  const next = { view: route.value.view, params: { ...route.value.params, ...changes } };
  if (formatHash(next) === formatHash(route.value)) return;
  history.replaceState(null, "", formatHash(next));
  route.value = next;
}

export function followHash(): void {
  addEventListener("hashchange", () => (route.value = parseHash(location.hash)));
}
