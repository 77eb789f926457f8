// SPDX-License-Identifier: Apache-2.0
// The heat map's numbers: a row a destination head, a column a source. Of a token-specific graph each
// cell shows the position whose score is largest in size.
import type { Topology } from "./topology.js";

export interface Heat {
  rows: number;
  columns: number;
  /** Row major; NaN where there is no such edge. */
  cells: Float32Array;
  /** The edge of each cell, or -1. */
  edges: Int32Array;
}

export function buildHeat(topology: Topology, values: Float32Array): Heat {
  const rows = topology.destinations.length;
  const columns = topology.sources.length;
  const cells = new Float32Array(rows * columns).fill(Number.NaN);
  const edges = new Int32Array(rows * columns).fill(-1);
  for (let edge = 0; edge < topology.edgeCount; edge++) {
    const cell = topology.edgeDestination[edge]! * columns + topology.edgeSource[edge]!;
    const value = values[edge]!;
    if (edges[cell] === -1 || Math.abs(value) > Math.abs(cells[cell]!)) {
      cells[cell] = value;
      edges[cell] = edge;
    }
  }
  return { rows, columns, cells, edges };
}

/** rgb of a css colour "rgb(1, 2, 3)". */
export function parseRgb(css: string): [number, number, number] {
  const [r = 0, g = 0, b = 0] = (css.match(/[\d.]+/g) ?? []).map(Number);
  return [r, g, b];
}

/** Of a share of the largest score: its colour. A thousandth of it is still to be seen. */
const ROOT = 0.35;

/** RGBA pixels, a cell each; sizes go by a root of theirs, so weak edges can be seen beside strong. */
export function pixels(heat: Heat, largest: number, plus: string, minus: string, back: string): Uint8ClampedArray {
  const colours = { plus: parseRgb(plus), minus: parseRgb(minus), back: parseRgb(back) };
  const out = new Uint8ClampedArray(heat.cells.length * 4);
  heat.cells.forEach((value, cell) => {
    if (Number.isNaN(value)) return; // transparent
    const share = largest > 0 ? Math.min(1, Math.abs(value) / largest) ** ROOT : 0;
    const end = value >= 0 ? colours.plus : colours.minus;
    for (let channel = 0; channel < 3; channel++) {
      out[cell * 4 + channel] = colours.back[channel]! + (end[channel]! - colours.back[channel]!) * share;
    }
    out[cell * 4 + 3] = 255;
  });
  return out;
}
