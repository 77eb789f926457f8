// SPDX-License-Identifier: Apache-2.0
// The numbers behind a chart: axes, ticks, and fewer points where there are more than can be seen.

export interface Point {
  x: number;
  y: number;
}

export interface Series {
  name: string;
  points: Point[];
}

/** linear; log: by decades, above 0; sizes: by decades, with room for 0. */
export type Axis = "linear" | "log" | "sizes";

/** Where a value stands on an axis, in units that are even on the screen. */
export function onAxis(axis: Axis, value: number): number {
  if (axis === "linear") return value;
  if (axis === "log") return Math.log10(value);
  return value <= 0 ? 0 : 1 + Math.log10(value);
}

/** Round values from low to high, at most about `most` of them. */
export function ticksOf(axis: Axis, low: number, high: number, most: number): number[] {
  if (axis !== "linear") {
    const first = axis === "sizes" ? 0 : Math.ceil(onAxis("log", low) - 1e-9);
    const last = axis === "sizes" ? Math.floor(onAxis("log", Math.max(1, high)) + 1e-9) : Math.floor(onAxis("log", high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first + 1) / most));
    const powers = Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index);
    const decades = powers.filter((power) => (power - first) % every === 0).map((power) => 10 ** power);
    return axis === "sizes" ? [0, ...decades] : decades;
  }
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough) ?? 10 * power;
  const ticks: number[] = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) ticks.push(index * step + 0);
  return ticks;
}

/** At most about `most` points of a line that look as all do: the lowest and the highest of each stretch. */
export function thin(points: Point[], most: number): Point[] {
  if (points.length <= most) return points;
  const stretch = Math.ceil((points.length * 2) / most);
  const out: Point[] = [];
  for (let begin = 0; begin < points.length; begin += stretch) {
    let [low, high] = [begin, begin];
    const end = Math.min(points.length, begin + stretch);
    for (let index = begin + 1; index < end; index++) {
      if (points[index]!.y < points[low]!.y) low = index;
      if (points[index]!.y > points[high]!.y) high = index;
    }
    for (const index of low === high ? [low] : [Math.min(low, high), Math.max(low, high)]) out.push(points[index]!);
  }
  return out;
}

/** The index of the point nearest to x; points are in the order of x. */
export function nearest(points: Point[], x: number): number {
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle]!.x < x) low = middle + 1;
    else high = middle;
  }
  return low > 0 && x - points[low - 1]!.x <= points[low]!.x - x ? low - 1 : low;
}
