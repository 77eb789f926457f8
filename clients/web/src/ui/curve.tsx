// SPDX-License-Identifier: Apache-2.0
// A line over circuit sizes: the x axis in decades, with room for 0.
import { count, number } from "../lib/format.js";

export interface CurvePoint {
  x: number;
  y: number;
}

interface Props {
  points: CurvePoint[];
  /** A size to mark. */
  mark: number;
  xLabel: string;
  yLabel: string;
}

const WIDTH = 300;
const HEIGHT = 150;
const PAD = { left: 54, right: 10, top: 8, bottom: 34 };

/** 0 → 0, 1 → 1, 10 → 2, ... */
export function decade(x: number): number {
  return x <= 0 ? 0 : 1 + Math.log10(x);
}

export function Curve({ points, mark, xLabel, yLabel }: Props) {
  const finite = points.filter(({ y }) => Number.isFinite(y));
  const most = Math.max(...finite.map(({ x }) => decade(x)), 1);
  const low = Math.min(0, ...finite.map(({ y }) => y));
  const high = Math.max(...finite.map(({ y }) => y), low + 1e-9);
  const sx = (x: number) => PAD.left + (decade(x) / most) * (WIDTH - PAD.left - PAD.right);
  const sy = (y: number) => HEIGHT - PAD.bottom - ((y - low) / (high - low)) * (HEIGHT - PAD.top - PAD.bottom);
  const ticks = [0, ...Array.from({ length: Math.floor(most) }, (_, power) => 10 ** power)];
  return (
    <svg class="curve" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`${yLabel} by ${xLabel}`}>
      {[low, (low + high) / 2, high].map((y) => (
        <g key={y}>
          <line class="grid" x1={PAD.left} x2={WIDTH - PAD.right} y1={sy(y)} y2={sy(y)} />
          <text x={PAD.left - 4} y={sy(y) + 3} text-anchor="end">{Number(y.toPrecision(2))}</text>
        </g>
      ))}
      {ticks.map((x) => <text key={x} x={sx(x)} y={HEIGHT - PAD.bottom + 12} text-anchor="middle">{count(x)}</text>)}
      <text x={(WIDTH + PAD.left) / 2} y={HEIGHT - 5} text-anchor="middle">{xLabel}</text>
      <text x={9} y={(HEIGHT - PAD.bottom) / 2} text-anchor="middle" transform={`rotate(-90 9 ${(HEIGHT - PAD.bottom) / 2})`}>{yLabel}</text>
      <line class="mark" x1={sx(mark)} x2={sx(mark)} y1={PAD.top} y2={HEIGHT - PAD.bottom} />
      <polyline class="line" points={finite.map(({ x, y }) => `${sx(x)},${sy(y)}`).join(" ")} />
      {finite.map(({ x, y }) => (
        <circle key={x} cx={sx(x)} cy={sy(y)} r={2.2}><title>{`${count(x)} edges: ${number(y)}`}</title></circle>
      ))}
    </svg>
  );
}
