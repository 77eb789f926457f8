// SPDX-License-Identifier: Apache-2.0
// Light, dark, or as the system has it. Every colour in style.css is a light-dark() pair, so the theme
// is one property; pictures on a canvas ask for the colours by name and redraw when `theme` changes.
import { signal } from "@preact/signals";

export const THEMES = ["auto", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEY = "ablate-theme";

function stored(): Theme {
  try {
    return THEMES.find((name) => name === localStorage.getItem(KEY)) ?? "auto";
  } catch {
    return "auto"; // storage is switched off
  }
}

export const theme = signal<Theme>("auto");

export function applyTheme(next: Theme = stored()): void {
  theme.value = next;
  known.clear();
  document.documentElement.style.colorScheme = next === "auto" ? "light dark" : next;
  try {
    localStorage.setItem(KEY, next);
  } catch {
    return;
  }
}

/** Calls `changed` when the system's theme changes. */
export function onSystemTheme(changed: () => void): () => void {
  const query = matchMedia("(prefers-color-scheme: dark)");
  query.addEventListener("change", changed);
  return () => query.removeEventListener("change", changed);
}

const probe = () => {
  const element = document.createElement("span");
  element.style.display = "none";
  document.body.append(element);
  return element;
};
let element: HTMLSpanElement | undefined;

/** Asking the page for a colour makes it settle its style first, which is too much to do for every stroke. */
const known = new Map<string, string>();
globalThis.matchMedia?.("(prefers-color-scheme: dark)").addEventListener("change", () => known.clear());

/** A custom property of style.css as an rgb() colour. */
export function colour(name: string): string {
  let found = known.get(name);
  if (found === undefined) {
    element ??= probe();
    element.style.color = `var(${name})`;
    known.set(name, (found = getComputedStyle(element).color));
  }
  return found;
}
