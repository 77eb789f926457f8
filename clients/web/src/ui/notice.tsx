// SPDX-License-Identifier: Apache-2.0
import type { ComponentChildren } from "preact";

/** A sentence that must not be missed; errors are announced to screen readers at once. */
export function Notice({ kind, children }: { kind: "error" | "info"; children: ComponentChildren }) {
  return (
    <p class={`notice ${kind}`} role={kind === "error" ? "alert" : "status"}>
      {children}
    </p>
  );
}
