// SPDX-License-Identifier: Apache-2.0
import type { Cell } from "../lib/route.js";
import { visible, type Token } from "./tokens.js";

interface Props {
  label: string;
  tokens: Token[];
  /** Tokens to compare with: those that differ are marked. */
  other?: Token[] | undefined;
  /** The chosen position. */
  position: Cell<number>;
}

/** A prompt token by token; each is a button that chooses its position. */
export function TokenStrip({ label, tokens, other, position }: Props) {
  return (
    <div class="strip" role="group" aria-label={`Tokens of the ${label} prompt`}>
      <span class="strip-label quiet">{label}</span>
      {tokens.map((token, index) => {
        const differs = other !== undefined && other[index]?.id !== token.id;
        return (
          <button key={index} type="button" aria-pressed={position.value === index} class={differs ? "differs" : ""}
                  title={`position ${index}, id ${token.id}${differs ? ", differs from the other prompt" : ""}`}
                  onClick={() => (position.value = index)}>
            <span class="mono">{visible(token.text)}</span>
            <small>{index}</small>
          </button>
        );
      })}
    </div>
  );
}
