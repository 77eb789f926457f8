// SPDX-License-Identifier: Apache-2.0
import { percent } from "../lib/format.js";

/** How much of something is done, 0 to 1; with its number, for it must not be colour alone. */
export function Meter({ share, label }: { share: number; label: string }) {
  return (
    <span class="meter">
      <progress max={1} value={share} aria-label={label} />
      <span>{percent(share)}</span>
    </span>
  );
}
