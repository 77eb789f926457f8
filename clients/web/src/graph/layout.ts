// SPDX-License-Identifier: Apache-2.0
// Where nodes stand: a row a layer, layers upward, heads beside each other and MLPs in the middle.
// Coordinates are of a world of its own, y downwards; a view maps it to the screen.
import type { Place, Topology } from "./topology.js";

export const NODE_WIDTH = 46;
export const NODE_HEIGHT = 22;
const ROW = 64;
const COLUMN = { least: 54, most: 400 };
/** Width by height that pictures aim at, as far as the columns allow. */
const ASPECT = 1.15;

export interface Layout {
  x: Float32Array;
  y: Float32Array;
  width: number;
  height: number;
  /** Nodes are drawn this much larger: where columns are wide, so that pictures of many layers show them. */
  nodeScale: number;
}

/** Numbers of a curve, from the top of a source to the foot of a destination: x and y of four points. */
export const CURVE = 8;

export function layoutOf(places: Place[]): Layout {
  const layers = [...new Set(places.map((place) => place.layer))].sort((a, b) => a - b);
  const row = new Map(layers.map((layer, index) => [layer, index]));
  const headCount = Math.max(1, ...places.map((place) => place.head + 1));
  const height = layers.length * ROW;
  const column = Math.min(COLUMN.most, Math.max(COLUMN.least, (height * ASPECT) / headCount));
  const width = Math.max(4, headCount) * column;
  const nodeScale = Math.max(1, Math.min(2.2, column / 80));
  const x = Float32Array.from(places, ({ head }) =>
    head < 0 ? width / 2 : width / 2 + (head - (headCount - 1) / 2) * column,
  );
  const y = Float32Array.from(places, ({ layer }) => height - (row.get(layer)! + 0.5) * ROW);
  // In a parallel block heads and the MLP share a row: the MLP goes to its end.
  places.forEach(({ head, layer }, index) => {
    if (head < 0 && places.some((other) => other.layer === layer && other.head >= 0)) {
      x[index] = width / 2 + ((headCount - 1) / 2 + 1.2) * column;
    }
  });
  return { x, y, width: Math.max(width, Math.max(...x) + column / 2), height, nodeScale };
}

const PORT: Record<string, number> = { Q: -14, K: 0, V: 14 };

/** An edge's curve, at `at` of `curves`. */
export function writeCurve(topology: Topology, layout: Layout, edge: number, curves: Float32Array, at: number): void {
  const from = topology.sourcePlace[topology.edgeSource[edge]!]!;
  const destination = topology.edgeDestination[edge]!;
  const to = topology.destinationPlace[destination]!;
  const port = PORT[topology.destinations[destination]!.name.slice(-1)] ?? 0;
  const x0 = layout.x[from]!;
  const y0 = layout.y[from]! - (NODE_HEIGHT / 2) * layout.nodeScale;
  const x3 = layout.x[to]! + (topology.places[to]!.head >= 0 ? port * layout.nodeScale : 0);
  const y3 = layout.y[to]! + (NODE_HEIGHT / 2) * layout.nodeScale;
  const bend = Math.max(18, (y0 - y3) * 0.4);
  // Edges that pass over layers in one column would run through the nodes between: they bow out.
  const bow = Math.abs(x3 - x0) < 20 && y0 - y3 > ROW ? Math.min(90, (y0 - y3) * 0.16) : 0;
  curves[at] = x0;
  curves[at + 1] = y0;
  curves[at + 2] = x0 + bow;
  curves[at + 3] = y0 - bend;
  curves[at + 4] = x3 + bow;
  curves[at + 5] = y3 + bend;
  curves[at + 6] = x3;
  curves[at + 7] = y3;
}

/** One coordinate of a curve's point at t from 0 to 1; `at`: of the curve's first x, or y. */
export function along(curves: Float32Array, at: number, t: number): number {
  const s = 1 - t;
  return s * s * s * curves[at]! + 3 * s * s * t * curves[at + 2]! + 3 * s * t * t * curves[at + 4]! + t * t * t * curves[at + 6]!;
}
