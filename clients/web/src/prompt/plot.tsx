// SPDX-License-Identifier: Apache-2.0
// Two lines over the positions of a prompt: solid for clean, dashed for corrupt.
import type { Cell } from "../lib/route.js";
import { brief, number } from "../lib/format.js";
import { visible, type Token } from "./tokens.js";

const WIDTH = 520;
const HEIGHT = 240;
const PAD = { left: 46, right: 12, top: 12, bottom: 62 };

/** As much of a token as fits below the plot. */
const short = (text: string) => (text.length > 11 ? `${text.slice(0, 10)}…` : text);

interface Props {
  clean: number[];
  corrupt: number[];
  tokens: Token[];
  position: Cell<number>;
}

export function PositionPlot({ clean, corrupt, tokens, position }: Props) {
  const all = [...clean, ...corrupt, 0].filter(Number.isFinite);
  const [low, high] = [Math.min(...all), Math.max(...all, Math.min(...all) + 1e-6)];
  const length = Math.max(clean.length, corrupt.length);
  const sx = (index: number) => PAD.left + (length > 1 ? (index / (length - 1)) * (WIDTH - PAD.left - PAD.right) : 0);
  const sy = (value: number) => HEIGHT - PAD.bottom - ((value - low) / (high - low)) * (HEIGHT - PAD.top - PAD.bottom);
  const every = Math.ceil(length / 30);
  const path = (values: number[]) => values.map((value, index) => `${sx(index)},${sy(value)}`).join(" ");
  return (
    <>
      <svg class="curve" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label="Logit difference by position, clean and corrupt">
        {[low, 0, high].filter((value, index, list) => list.indexOf(value) === index).map((value) => (
          <g key={value}>
            <line class="grid" x1={PAD.left} x2={WIDTH - PAD.right} y1={sy(value)} y2={sy(value)} />
            <text x={PAD.left - 5} y={sy(value) + 3} text-anchor="end">{brief(value)}</text>
          </g>
        ))}
        <line class="mark" x1={sx(position.value)} x2={sx(position.value)} y1={PAD.top} y2={HEIGHT - PAD.bottom} />
        <polyline class="line" points={path(clean)} />
        <polyline class="line corrupt" points={path(corrupt)} />
        {tokens.map((token, index) => index % every === 0 && (
          <text key={index} text-anchor="end" transform={`translate(${sx(index) + 3} ${HEIGHT - PAD.bottom + 8}) rotate(-60)`}>
            {short(visible(token.text))}
          </text>
        ))}
        {clean.map((value, index) => (
          <circle key={index} cx={sx(index)} cy={sy(value)} r={3} onClick={() => (position.value = index)}>
            <title>{`${index}: clean ${number(value)}, corrupt ${number(corrupt[index] ?? Number.NaN)}`}</title>
          </circle>
        ))}
      </svg>
      <p class="quiet">
        The answer's logit less the wrong answer's. Solid: clean; dashed: corrupt. At position {position.value}: clean{" "}
        <strong>{number(clean[position.value] ?? Number.NaN)}</strong>, corrupt{" "}
        <strong>{number(corrupt[position.value] ?? Number.NaN)}</strong>.
      </p>
    </>
  );
}
