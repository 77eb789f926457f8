// SPDX-License-Identifier: Apache-2.0
// A heat map on a canvas: the cells as one small image, stretched to where the view has them, and the
// names of the rows and columns that are in view, as many as can be read.
import { colour } from "../lib/theme.js";
import type { View } from "./canvas.js";
import { pixels, type Heat } from "./heat.js";
import type { Topology } from "./topology.js";

export interface Size {
  width: number;
  height: number;
}

const LEFT = 84;
const TOP = 8; // half a line: the first row's name is not cut
const BOTTOM = 86;
/** Larger where there is room, as on a projector. */
const fontOf = ({ width }: Size) => Math.max(11, Math.min(13, Math.round(width / 80)));

/** The cells, a pixel each, in the colours of the theme. */
export function picture(heat: Heat, largest: number): OffscreenCanvas {
  const small = new OffscreenCanvas(heat.columns, heat.rows);
  const image = new ImageData(heat.columns, heat.rows);
  image.data.set(pixels(heat, largest, colour("--plus"), colour("--minus"), colour("--grid")));
  small.getContext("2d")!.putImageData(image, 0, 0);
  return small;
}

const plotOf = ({ width, height }: Size) => ({ width: Math.max(1, width - LEFT), height: Math.max(1, height - TOP - BOTTOM) });

const cellSize = (heat: Heat, { scale }: View, size: Size) => {
  const plot = plotOf(size);
  return { x: (plot.width * scale) / heat.columns, y: (plot.height * scale) / heat.rows };
};

/** Everything in view: cells begin at (x, y) of the canvas, and fill the plot at scale 1. */
export const ALL: View = { scale: 1, x: LEFT, y: TOP };

/** A view that never shows less than its plot full of cells. */
export function keepInside(view: View, size: Size): View {
  const plot = plotOf(size);
  const scale = Math.max(1, view.scale);
  const within = (from: number, begin: number, length: number) => Math.min(begin, Math.max(begin + length * (1 - scale), from));
  return { scale, x: within(view.x, LEFT, plot.width), y: within(view.y, TOP, plot.height) };
}

/** The cell under a point of the canvas, or -1. */
export function cellAt(heat: Heat, view: View, size: Size, x: number, y: number): number {
  const plot = plotOf(size);
  if (x < LEFT || y < TOP || y > TOP + plot.height) return -1;
  const cell = cellSize(heat, view, size);
  const column = Math.floor((x - view.x) / cell.x);
  const row = Math.floor((y - view.y) / cell.y);
  return column >= 0 && column < heat.columns && row >= 0 && row < heat.rows ? row * heat.columns + column : -1;
}

/** Where a cell is on the canvas. */
function placeOf(heat: Heat, view: View, size: Size, cell: number): { x: number; y: number } {
  const one = cellSize(heat, view, size);
  return { x: view.x + (cell % heat.columns) * one.x, y: view.y + Math.floor(cell / heat.columns) * one.y };
}

/** The view moved, as little as it takes, so that a cell is in it. */
export function showing(heat: Heat, view: View, size: Size, cell: number): View {
  const plot = plotOf(size);
  const one = cellSize(heat, view, size);
  const at = placeOf(heat, view, size, cell);
  const by = (from: number, length: number, begin: number, end: number) =>
    from < begin ? begin - from : from + length > end ? end - from - length : 0;
  return { ...view, x: view.x + by(at.x, one.x, LEFT, LEFT + plot.width), y: view.y + by(at.y, one.y, TOP, TOP + plot.height) };
}

/** Of the names in view every n-th, so that none overlap; with where they are. */
function labels(names: string[], cell: number, offset: number, length: number, space: number): [string, number][] {
  const every = Math.max(1, Math.ceil(space / cell));
  const first = Math.max(0, Math.ceil((-offset / cell - 0.5) / every) * every);
  const out: [string, number][] = [];
  for (let index = first; index < names.length; index += every) {
    const at = offset + (index + 0.5) * cell;
    if (at > length) break;
    out.push([names[index]!, at]);
  }
  return out;
}

/** `cursor`: a cell to frame, or -1. */
export function paintHeat(
  canvas: HTMLCanvasElement, heat: Heat, cells: OffscreenCanvas, topology: Topology, view: View, cursor: number,
): void {
  const ratio = devicePixelRatio || 1;
  const size = { width: canvas.clientWidth, height: canvas.clientHeight };
  const [wide, high] = [Math.round(size.width * ratio), Math.round(size.height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d")!;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, size.width, size.height);
  const plot = plotOf(size);
  const cell = cellSize(heat, view, size);
  const font = fontOf(size);
  context.save();
  context.beginPath();
  context.rect(LEFT, TOP, plot.width, plot.height);
  context.clip();
  context.imageSmoothingEnabled = cell.x < 1 || cell.y < 1;
  context.drawImage(cells, view.x, view.y, cell.x * heat.columns, cell.y * heat.rows);
  if (cursor >= 0) {
    const { x, y } = placeOf(heat, view, size, cursor);
    context.strokeStyle = colour("--ink");
    context.lineWidth = 1.5;
    context.strokeRect(x - 1, y - 1, cell.x + 2, cell.y + 2);
  }
  context.restore();
  context.fillStyle = colour("--quiet");
  context.font = `${font}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.textAlign = "right";
  const [rows, columns] = [topology.destinations, topology.sources].map((nodes) => nodes.map(({ name }) => name));
  for (const [name, at] of labels(rows!, cell.y, view.y - TOP, plot.height, font + 1)) {
    context.fillText(name, LEFT - 5, TOP + at);
  }
  for (const [name, at] of labels(columns!, cell.x, view.x - LEFT, plot.width, font + 2)) {
    context.save();
    context.translate(LEFT + at, TOP + plot.height + 6);
    context.rotate(-Math.PI / 2);
    context.fillText(name, 0, 0);
    context.restore();
  }
}
