// SPDX-License-Identifier: Apache-2.0
// Draws a scene on a canvas. Edges of about one strength and sign are one path, so thousands of edges
// are two dozen strokes. Names that would be too small to read are not drawn on their nodes; those of
// the strongest edges, and of what is pointed at, are then written beside them.
import { colour } from "../lib/theme.js";
import { CURVE, NODE_HEIGHT, NODE_WIDTH, along } from "./layout.js";
import { isTouched, placeFrom, placeTo, ranksAt, runsOf, type Scene } from "./scene.js";

export interface View {
  scale: number;
  /** Where the world's origin is on the screen, in CSS pixels. */
  x: number;
  y: number;
}

export interface Marks {
  /** A rank of the scene, or -1. */
  edge: number;
  /** Index into places, or -1. */
  place: number;
  /** Places that are ablated by hand. */
  struck?: ReadonlySet<number>;
  /** Likewise edges, by their index in the graph. */
  cut?: ReadonlySet<number>;
}

export const MOVING_EDGES_MAX = 3000;

/** World to screen. */
export function toWorld(context: CanvasRenderingContext2D, view: View, ratio: number): void {
  const scale = view.scale * ratio;
  context.setTransform(scale, 0, 0, scale, view.x * ratio, view.y * ratio);
}

/** Lines keep a width that can be seen when all of a large model is in view. */
export function linesOf(view: View): number {
  return Math.max(1, Math.min(6, 0.55 / view.scale));
}

function trace(context: CanvasRenderingContext2D, curves: Float32Array, at: number): void {
  context.moveTo(curves[at]!, curves[at + 1]!);
  context.bezierCurveTo(curves[at + 2]!, curves[at + 3]!, curves[at + 4]!, curves[at + 5]!, curves[at + 6]!, curves[at + 7]!);
}

/** Edges by their ranks, which rise; the weakest are drawn first. `count`: the edges of the picture, of which these may be
 * a part. */
export function drawEdges(
  context: CanvasRenderingContext2D, scene: Scene, ranks: ArrayLike<number>, { lines, count }: { lines: number; count: number },
): void {
  const { positive, curves } = scene;
  const colours = [colour("--minus"), colour("--plus")];
  for (const { begin, end, width, opacity } of runsOf(scene, ranks, count)) {
    context.globalAlpha = opacity;
    context.lineWidth = width * lines;
    for (const sign of [0, 1]) {
      context.beginPath();
      for (let index = begin; index < end; index++) {
        if (positive[ranks[index]!] === sign) trace(context, curves, ranks[index]! * CURVE);
      }
      context.strokeStyle = colours[sign]!;
      context.stroke();
    }
  }
  context.globalAlpha = 1;
}

function strikeEdges(context: CanvasRenderingContext2D, scene: Scene, cut: ReadonlySet<number>): void {
  context.beginPath();
  for (let rank = 0; rank < scene.count; rank++) if (cut.has(scene.edges[rank]!)) trace(context, scene.curves, rank * CURVE);
  context.strokeStyle = colour("--bad");
  context.lineWidth = 2.5;
  context.setLineDash([5, 4]);
  context.stroke();
  context.setLineDash([]);
}

/** What is pointed at, and what is cut; returns the places that it is about, if anything is. */
export function drawMarked(context: CanvasRenderingContext2D, scene: Scene, view: View, marks: Marks): Set<number> | undefined {
  const { topology, edges } = scene;
  const marked = marks.edge >= 0 ? [marks.edge]
    : marks.place >= 0 ? ranksAt(scene, marks.place).slice(0, MOVING_EDGES_MAX) : [];
  if (marked.length > 0) drawEdges(context, scene, marked, { lines: linesOf(view), count: marked.length });
  if (marks.cut && marks.cut.size > 0) strikeEdges(context, scene, marks.cut);
  if (marked.length === 0) return undefined;
  const near = new Set<number>(marks.place >= 0 ? [marks.place] : []);
  for (const rank of marked) near.add(placeFrom(topology, edges[rank]!)).add(placeTo(topology, edges[rank]!));
  return near;
}

/** In CSS pixels: nodes whose names would be smaller than this have none on them; the others' are at least READABLE. */
const FITTING = 6.5;
const READABLE = 8;
const LABEL = 12;
const LABELS_MAX = 40;

const nameOf = (place: { name: string }) => place.name.replace(/^MLP /, "M");
const fontOf = (text: string) => (text.length > 6 ? 9 : 11);

/** Places in the order in which their names matter: pointed at, struck, of the strongest edges. */
function named(scene: Scene, marks: Marks): number[] {
  const { topology } = scene;
  const order = new Set<number>(marks.place >= 0 ? [marks.place] : []);
  const addEnds = (edge: number) => order.add(placeFrom(topology, edge)).add(placeTo(topology, edge));
  if (marks.edge >= 0) addEnds(scene.edges[marks.edge]!);
  marks.struck?.forEach((place) => order.add(place));
  scene.edges.subarray(0, Math.min(scene.count, LABELS_MAX * 2)).forEach(addEnds);
  if (scene.count === 0) topology.places.forEach((_, place) => order.add(place));
  return [...order];
}

/** Names beside nodes that are too small for them, as far as they do not cover each other. */
function drawLabels(
  context: CanvasRenderingContext2D, scene: Scene, view: View, marks: Marks, near: Set<number> | undefined,
): void {
  const unit = 1 / view.scale;
  const height = (LABEL + 2) * unit;
  const taken: [number, number, number][] = [];
  const [ink, back] = [colour("--ink"), colour("--card")];
  context.font = `600 ${LABEL * unit}px system-ui, sans-serif`;
  context.textAlign = "left";
  for (const place of near ?? named(scene, marks)) {
    const text = nameOf(scene.topology.places[place]!);
    const width = context.measureText(text).width;
    const x = scene.layout.x[place]! + (NODE_WIDTH / 2) * scene.layout.nodeScale + 3 * unit;
    const y = scene.layout.y[place]!;
    if (taken.some(([left, right, at]) => x < right && x + width > left && Math.abs(y - at) < height)) continue;
    taken.push([x - 2 * unit, x + width + 2 * unit, y]);
    if (taken.length > LABELS_MAX) break;
    context.strokeStyle = back;
    context.lineWidth = 3.5 * unit;
    context.lineJoin = "round";
    context.strokeText(text, x, y);
    context.fillStyle = ink;
    context.fillText(text, x, y);
  }
}

/** `near`: what is meant; the other nodes step back. */
export function drawNodes(
  context: CanvasRenderingContext2D, scene: Scene, view: View, marks: Marks, near: Set<number> | undefined,
): void {
  const ink = colour("--ink");
  const fill = { head: colour("--node"), other: colour("--node-mlp") };
  const [line, accent, bad] = [colour("--node-line"), colour("--accent"), colour("--bad")];
  context.textAlign = "center";
  context.textBaseline = "middle";
  const k = scene.layout.nodeScale;
  const readable = 11 * k * view.scale >= FITTING;
  scene.topology.places.forEach((place, index) => {
    const x = scene.layout.x[index]!;
    const y = scene.layout.y[index]!;
    const struck = marks.struck?.has(index) ?? false;
    const visible = isTouched(scene, index) || struck || marks.place === index;
    context.globalAlpha = visible && (!near || near.has(index)) ? 1 : 0.35;
    const text = nameOf(place);
    const width = Math.max(NODE_WIDTH, text.length > 6 ? 64 : 0) * k;
    const height = NODE_HEIGHT * k;
    context.fillStyle = place.head >= 0 ? fill.head : fill.other;
    context.strokeStyle = struck ? bad : marks.place === index ? accent : line;
    context.lineWidth = struck || marks.place === index ? 2.5 * k : k;
    context.beginPath();
    context.roundRect(x - width / 2, y - height / 2, width, height, (place.head >= 0 ? 11 : 4) * k);
    context.fill();
    context.stroke();
    if (readable) {
      context.font = `${Math.max(fontOf(text) * k, READABLE / view.scale)}px system-ui, sans-serif`;
      context.fillStyle = struck ? bad : ink;
      context.fillText(text, x, y + 0.5);
    }
    if (struck) {
      context.beginPath();
      context.moveTo(x - width / 2 + 6, y);
      context.lineTo(x + width / 2 - 6, y);
      context.stroke();
    }
  });
  context.globalAlpha = 1;
  if (!readable) drawLabels(context, scene, view, marks, near);
}

/** What is under a point of the world; a node goes before an edge. */
export function hit(scene: Scene, x: number, y: number, reach: number): { edge: number; place: number } {
  const { nodeScale } = scene.layout;
  for (let index = 0; index < scene.topology.places.length; index++) {
    const dx = Math.abs(scene.layout.x[index]! - x);
    const dy = Math.abs(scene.layout.y[index]! - y);
    if (dx <= (NODE_WIDTH / 2) * nodeScale && dy <= (NODE_HEIGHT / 2) * nodeScale) return { edge: -1, place: index };
  }
  let best = reach * reach;
  let found = -1;
  const { curves, strength } = scene;
  for (let rank = 0, at = 0; rank < scene.count; rank++, at += CURVE) {
    const [y0, y3] = [curves[at + 1]!, curves[at + 7]!];
    if (y > y0 + reach || y < y3 - reach) continue;
    const left = Math.min(curves[at]!, curves[at + 2]!, curves[at + 4]!, curves[at + 6]!);
    const right = Math.max(curves[at]!, curves[at + 2]!, curves[at + 4]!, curves[at + 6]!);
    if (x > right + reach + 2 || x < left - reach - 2) continue;
    // The height falls almost evenly along the curve: a few points around that t are enough.
    const middle = Math.min(1, Math.max(0, (y0 - y) / Math.max(1, y0 - y3)));
    if (Math.abs(along(curves, at, middle) - x) > reach + 2 + (right - left) / 2) continue;
    for (let step = -4; step <= 4; step++) {
      const t = Math.min(1, Math.max(0, middle + step * 0.04));
      const distance = (along(curves, at, t) - x) ** 2 + (along(curves, at + 1, t) - y) ** 2 - strength[rank]! * 4;
      if (distance < best) {
        best = distance;
        found = rank;
      }
    }
  }
  return { edge: found, place: -1 };
}

/** The view that shows all of a scene. */
export function fit(scene: Scene, width: number, height: number): View {
  const margin = 14;
  const scale = Math.min((width - 2 * margin) / scene.layout.width, (height - 2 * margin) / scene.layout.height, 1.6);
  return {
    scale,
    x: (width - scene.layout.width * scale) / 2,
    y: (height - scene.layout.height * scale) / 2,
  };
}

/** The same view with the point (x, y) of the screen held still. */
export function zoom(view: View, factor: number, x: number, y: number): View {
  const scale = Math.min(12, Math.max(0.04, view.scale * factor));
  const actual = scale / view.scale;
  return { scale, x: x - (x - view.x) * actual, y: y - (y - view.y) * actual };
}

/** A view as an address has it: its scale over that of `all`, and the world's point in its middle. Empty: all. */
export function formatView(view: View, all: View, width: number, height: number): string {
  if (Math.abs(view.scale / all.scale - 1) < 1e-3 && Math.hypot(view.x - all.x, view.y - all.y) < 1) return "";
  const middle = [(width / 2 - view.x) / view.scale, (height / 2 - view.y) / view.scale];
  return `${(view.scale / all.scale).toFixed(3)},${middle.map((value) => value.toFixed(1)).join(",")}`;
}

/** The other way, for a picture of any size. */
export function parseView(text: string, all: View, width: number, height: number): View | undefined {
  const [zoomed = Number.NaN, x = Number.NaN, y = Number.NaN] = text.split(",").map(Number);
  const scale = zoomed * all.scale;
  return text !== "" && Number.isFinite(scale + x + y) && scale > 0
    ? { scale, x: width / 2 - x * scale, y: height / 2 - y * scale } : undefined;
}
