// SPDX-License-Identifier: Apache-2.0
// The frame: what is where, whether the daemon answers, and the view that the address names.
import { useComputed } from "@preact/signals";
import type { FunctionComponent } from "preact";
import { Compare } from "./compare/compare.js";
import { Discover } from "./discover/discover.js";
import { link, server, skew } from "./lib/connection.js";
import { VIEWS, formatHash, route, type View } from "./lib/route.js";
import { THEMES, applyTheme, theme } from "./lib/theme.js";
import { Patch } from "./patch/patch.js";
import { Prompt } from "./prompt/prompt.js";
import { Overview } from "./overview/overview.js";
import { ConnectionBanner, LinkLight, RestartNotice } from "./ui/connection.js";
import { Notice } from "./ui/notice.js";

const PAGES: Record<View, { title: string; page: FunctionComponent }> = {
  overview: { title: "Overview", page: Overview },
  discover: { title: "Discover", page: Discover },
  prompt: { title: "Model and prompt", page: Prompt },
  patch: { title: "Patch by hand", page: Patch },
  compare: { title: "Compare", page: Compare },
};

function ThemeChoice() {
  return (
    <label class="theme">
      Theme{" "}
      <select value={theme.value} onChange={(event) => applyTheme(THEMES[event.currentTarget.selectedIndex])}>
        {THEMES.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}

export function App() {
  const view = useComputed(() => route.value.view);
  const Page = PAGES[view.value].page;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => {
        event.preventDefault();
        document.getElementById("main")?.focus();
      }}>
        Skip to content
      </a>
      <header>
        <span class="brand">Ablate</span>
        <nav aria-label="Views">
          {VIEWS.map((name) => (
            <a key={name} href={formatHash({ view: name, params: {} })}
               aria-current={name === view.value ? "page" : undefined}>
              {PAGES[name].title}
            </a>
          ))}
        </nav>
        <LinkLight />
        <ThemeChoice />
      </header>
      <ConnectionBanner />
      <RestartNotice />
      {skew.value && <Notice kind="error">{skew.value}</Notice>}
      <main id="main" tabIndex={-1} class={link.value === "lost" ? "old" : ""}>
        {server.value ? <Page key={view.value} /> : <p class="quiet">Asking the daemon…</p>}
      </main>
    </>
  );
}
