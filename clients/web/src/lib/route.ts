// SPDX-License-Identifier: Apache-2.0
// The address is the view: "#/discover?job=job-3&top=50". Whoever opens the same address sees the same.
import { computed, signal, type ReadonlySignal } from "@preact/signals";

type JsonValue = null | boolean | number | string | JsonValue[] | { [name: string]: JsonValue };

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

/** Of these parameters those that there are. */
export function paramsOf(names: string[]): Record<string, string> {
  return Object.fromEntries(Object.entries(route.value.params).filter(([name]) => names.includes(name)));
}

const params = new Map<string, ReadonlySignal<string>>();

/** A parameter of the view; it changes only when it does itself. Empty where it is left out. */
export function param(name: string): ReadonlySignal<string> {
  let found = params.get(name);
  if (!found) params.set(name, (found = computed(() => route.value.params[name] ?? "")));
  return found;
}

/** What can be read and set, and whoever reads it is told of changes: a signal, or a part of the address. */
export interface Cell<T> {
  value: T;
}

/** A text of the address. */
export function textCell(name: string): Cell<string> {
  return {
    get value() { return param(name).value; },
    set value(next) { setParams({ [name]: next }); },
  };
}

/** A value of the address, as JSON. What is not there, or cannot be read, is `standard`. */
export function jsonCell<T extends JsonValue>(name: string, standard: T): Cell<T> {
  const parsed = computed(() => parseJson(param(name).value, standard));
  const usual = JSON.stringify(standard);
  return {
    get value() { return parsed.value; },
    set value(next) {
      const text = JSON.stringify(next);
      setParams({ [name]: text === usual ? "" : text });
    },
  };
}

function parseJson<T extends JsonValue>(text: string, standard: T): T {
  if (text === "") return standard;
  try {
    const value = JSON.parse(text) as T;
    const kind = (one: JsonValue) => (Array.isArray(one) ? "array" : one === null ? "null" : typeof one);
    return kind(value) === kind(standard) ? value : standard;
  } catch {
    return standard;
  }
}

export function followHash(): void {
  addEventListener("hashchange", () => (route.value = parseHash(location.hash)));
}
