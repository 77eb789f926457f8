// SPDX-License-Identifier: Apache-2.0
// Lines over one axis, as they come in. Pointing at it, or its arrow keys, says the exact values.
import { useSignal } from "@preact/signals";
import { brief, count, number } from "../lib/format.js";
import { nearest, onAxis, thin, ticksOf, type Axis, type Series } from "./series.js";

interface Props {
  series: Series[];
  axis: Axis;
  xLabel: string;
  yLabel: string;
  /** A value of x to mark. */
  mark?: number;
  /** Where something else begins on the way, in words. */
  breaks?: { x: number; label: string }[];
  /** Whether the y axis begins at 0, as it does unless this says otherwise. */
  fromZero?: boolean;
  /** For a place of its own rather than a column. */
  wide?: boolean;
  /** The last points go on growing: they are told as of now. */
  live?: boolean;
}

const SIZES = { narrow: [320, 170], wide: [640, 250] } as const;
const PAD = { left: 50, right: 12, top: 10, bottom: 34 };
const POINTS_MAX = 600;
const DOTS_MAX = 60;
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

/** Where on an axis, for people: sizes and steps are counts. */
const placeWords = (axis: Axis, x: number, label: string) => (axis === "log" ? `${label} = ${brief(x)}` : `${count(x)} ${label}`);

export function Chart({ series, axis, xLabel, yLabel, mark, breaks = [], fromZero = true, wide = false, live = false }: Props) {
  const [width, height] = SIZES[wide ? "wide" : "narrow"];
  const at = useSignal<number | undefined>(undefined);
  const lines = series.map((line) => ({
    ...line,
    points: line.points.filter(({ x, y }) => Number.isFinite(y) && (axis !== "log" || x > 0)),
  }));
  const drawn = lines.map(({ points }) => thin(points, POINTS_MAX));
  const all = drawn.flat();
  const longest = lines.reduce((a, b) => (b.points.length > a.points.length ? b : a), lines[0] ?? { name: "", points: [] });
  if (all.length === 0) return null;
  const xs = all.map(({ x }) => x);
  const ys = all.map(({ y }) => y);
  const [left, right] = [axis === "sizes" ? 0 : Math.min(...xs), Math.max(...xs)];
  const low = fromZero ? Math.min(0, ...ys) : Math.min(...ys);
  const high = Math.max(...ys, low + 1e-9);
  const [from, to] = [onAxis(axis, left), Math.max(onAxis(axis, right), onAxis(axis, left) + 1e-9)];
  const sx = (x: number) => PAD.left + ((onAxis(axis, x) - from) / (to - from)) * (width - PAD.left - PAD.right);
  const sy = (y: number) => height - PAD.bottom - ((y - low) / (high - low)) * (height - PAD.top - PAD.bottom);
  const yTicks = ticksOf("linear", low, high, 4);
  // As many digits as tell two ticks apart.
  const digits = Math.max(3, Math.ceil(Math.log10(Math.max(Math.abs(low), Math.abs(high)) / (yTicks[1]! - yTicks[0]! || 1)) + 1));
  const index = at.value === undefined ? longest.points.length - 1 : nearest(longest.points, at.value);
  const x = longest.points[index]?.x;
  const step = (by: number) => {
    at.value = longest.points[Math.max(0, Math.min(longest.points.length - 1, index + by))]?.x;
  };
  const keys = (event: KeyboardEvent) => {
    const far = Math.max(1, Math.round(longest.points.length / 10));
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: far, PageDown: -far, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined && event.key !== "Escape") return;
    event.preventDefault();
    if (by === undefined) at.value = undefined;
    else step(by);
  };
  const over = (event: PointerEvent & { currentTarget: SVGSVGElement }) => {
    const box = event.currentTarget.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * width - PAD.left) / (width - PAD.left - PAD.right);
    const place = from + Math.max(0, Math.min(1, share)) * (to - from);
    at.value = longest.points.reduce((best, point) =>
      Math.abs(onAxis(axis, point.x) - place) < Math.abs(onAxis(axis, best) - place) ? point.x : best, longest.points[0]!.x);
  };
  const told = lines.flatMap(({ name, points }) => {
    const found = x === undefined ? undefined : points[nearest(points, x)];
    return found?.x === x && found ? [`${lines.length > 1 ? `${name} ` : ""}${number(found.y)}`] : [];
  });
  return (
    <figure class={`chart ${wide ? "wide" : ""}`}>
      <svg class="curve" viewBox={`0 0 ${width} ${height}`} tabindex={0} role="application" aria-label={`${yLabel} by ${xLabel}`}
           onKeyDown={keys} onPointerMove={over} onPointerLeave={() => (at.value = undefined)}>
        {yTicks.map((y) => (
          <g key={y}>
            <line class="grid" x1={PAD.left} x2={width - PAD.right} y1={sy(y)} y2={sy(y)} />
            <text x={PAD.left - 4} y={sy(y) + 3.5} text-anchor="end">{brief(y, digits)}</text>
          </g>
        ))}
        {ticksOf(axis, left, right, wide ? 10 : 6).map((value) => (
          <text key={value} x={sx(value)} y={height - PAD.bottom + 13} text-anchor="middle">
            {axis === "log" ? brief(value) : count(value)}
          </text>
        ))}
        <text x={(width + PAD.left) / 2} y={height - 5} text-anchor="middle">{xLabel}</text>
        <text x={10} y={(height - PAD.bottom) / 2} text-anchor="middle" transform={`rotate(-90 10 ${(height - PAD.bottom) / 2})`}>{yLabel}</text>
        {breaks.map((one) => <line key={one.x} class="grid" x1={sx(one.x)} x2={sx(one.x)} y1={PAD.top} y2={height - PAD.bottom}><title>{one.label}</title></line>)}
        {mark !== undefined && mark >= left && mark <= right && (
          <line class="mark" x1={sx(mark)} x2={sx(mark)} y1={PAD.top} y2={height - PAD.bottom} />
        )}
        {drawn.map((points, line) => (
          <g key={lines[line]!.name} class={`tone${line % 4}`}>
            <polyline class="line" stroke-dasharray={DASHES[line % 4]} points={points.map((point) => `${sx(point.x)},${sy(point.y)}`).join(" ")} />
            {points.length <= DOTS_MAX && points.map((point) => <circle key={point.x} cx={sx(point.x)} cy={sy(point.y)} r={2.2} />)}
          </g>
        ))}
        {at.value !== undefined && x !== undefined && (
          <line class="cursor" x1={sx(x)} x2={sx(x)} y1={PAD.top} y2={height - PAD.bottom} />
        )}
      </svg>
      <figcaption>
        {lines.length > 1 && (
          <span class="legend quiet">
            {lines.map(({ name }, line) => (
              <span key={name} class={`tone${line % 4}`}>
                <svg width="22" height="6" aria-hidden="true"><line class="line" x1="0" x2="22" y1="3" y2="3" stroke-dasharray={DASHES[line % 4]} /></svg> {name}
              </span>
            ))}
          </span>
        )}
        <span class="told" role={live && at.value === undefined ? undefined : "status"}>
          {x !== undefined && <>{live && at.value === undefined ? "Now, at " : "At "}{placeWords(axis, x, xLabel)}: {told.join(", ")}</>}
        </span>
      </figcaption>
    </figure>
  );
}
