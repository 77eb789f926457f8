// SPDX-License-Identifier: Apache-2.0
// Draws a scene on a canvas. Edges of about one strength and sign are one path, so 30,000 edges are two
// dozen strokes; while the view moves only the strongest few thousand are drawn (level of detail).
import { colour } from "../lib/theme.js";
import { NODE_HEIGHT, NODE_WIDTH, pointAt, type Curve } from "./layout.js";
import { opacityOf, widthOf, type Scene, type SceneEdge } from "./scene.js";

export interface View {
  scale: number;
  /** Where the world's origin is on the screen, in CSS pixels. */
  x: number;
  y: number;
}

export interface Marks {
  /** Index into scene.edges, or -1. */
  edge: number;
  /** Index into places, or -1. */
  place: number;
  /** Places that are ablated by hand. */
  struck?: ReadonlySet<number>;
  /** Likewise edges, by their index in the graph. */
  cut?: ReadonlySet<number>;
}

const BUCKETS = 12;
export const MOVING_EDGES_MAX = 3000;

function trace(path: Path2D, curve: Curve): void {
  path.moveTo(curve.x0, curve.y0);
  path.bezierCurveTo(curve.x1, curve.y1, curve.x2, curve.y2, curve.x3, curve.y3);
}

function strokeEdges(
  context: CanvasRenderingContext2D, edges: SceneEdge[], colours: [string, string], fade: number, scale: number,
): void {
  const paths = new Map<number, Path2D>();
  for (const { curve, strength, positive } of edges) {
    const bucket = Math.min(BUCKETS - 1, Math.floor(strength * BUCKETS)) * 2 + (positive ? 1 : 0);
    let path = paths.get(bucket);
    if (!path) paths.set(bucket, (path = new Path2D()));
    trace(path, curve);
  }
  // Many edges would be one block of colour: the weak ones step back.
  const crowd = Math.max(0.25, Math.min(1, Math.sqrt(600 / Math.max(1, edges.length))));
  for (const [bucket, path] of [...paths].sort((a, b) => a[0] - b[0])) {
    const strength = ((bucket >> 1) + 0.5) / BUCKETS;
    context.strokeStyle = colours[bucket & 1]!;
    context.globalAlpha = fade * opacityOf(strength) * (crowd + (1 - crowd) * strength);
    context.lineWidth = widthOf(strength) * (bucket >> 1 === 0 ? 0.7 : 1) * scale;
    context.stroke(path);
  }
  context.globalAlpha = 1;
}

function strikeEdges(context: CanvasRenderingContext2D, scene: Scene, cut: ReadonlySet<number>): void {
  const path = new Path2D();
  for (const { edge, curve } of scene.edges) if (cut.has(edge)) trace(path, curve);
  context.strokeStyle = colour("--bad");
  context.lineWidth = 2.5;
  context.setLineDash([5, 4]);
  context.stroke(path);
  context.setLineDash([]);
}

function drawNodes(context: CanvasRenderingContext2D, scene: Scene, marks: Marks, near: Set<number> | undefined): void {
  const ink = colour("--ink");
  const fill = { head: colour("--node"), other: colour("--node-mlp") };
  const [line, accent, bad] = [colour("--node-line"), colour("--accent"), colour("--bad")];
  context.textAlign = "center";
  context.textBaseline = "middle";
  const k = scene.layout.nodeScale;
  scene.topology.places.forEach((place, index) => {
    const x = scene.layout.x[index]!;
    const y = scene.layout.y[index]!;
    const struck = marks.struck?.has(index) ?? false;
    const visible = scene.touched[index] === 1 || struck || marks.place === index;
    context.globalAlpha = visible && (!near || near.has(index)) ? 1 : 0.35;
    const text = place.name.replace(/^MLP /, "M");
    context.font = `${(text.length > 6 ? 9 : 11) * k}px system-ui, sans-serif`;
    const width = Math.max(NODE_WIDTH, text.length > 6 ? 64 : 0) * k;
    const height = NODE_HEIGHT * k;
    context.fillStyle = place.head >= 0 ? fill.head : fill.other;
    context.strokeStyle = struck ? bad : marks.place === index ? accent : line;
    context.lineWidth = struck || marks.place === index ? 2.5 * k : k;
    context.beginPath();
    context.roundRect(x - width / 2, y - height / 2, width, height, (place.head >= 0 ? 11 : 4) * k);
    context.fill();
    context.stroke();
    context.fillStyle = struck ? bad : ink;
    context.fillText(text, x, y + 0.5);
    if (struck) {
      context.beginPath();
      context.moveTo(x - width / 2 + 6, y);
      context.lineTo(x + width / 2 - 6, y);
      context.stroke();
    }
  });
  context.globalAlpha = 1;
}

/** The whole picture; `moving` leaves out the weakest edges of many. */
export function draw(
  context: CanvasRenderingContext2D,
  scene: Scene,
  view: View,
  marks: Marks,
  pixelRatio: number,
  moving: boolean,
): void {
  const { canvas } = context;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  const scale = view.scale * pixelRatio;
  context.setTransform(scale, 0, 0, scale, view.x * pixelRatio, view.y * pixelRatio);
  const colours: [string, string] = [colour("--minus"), colour("--plus")];
  const edges = moving ? scene.edges.slice(0, MOVING_EDGES_MAX) : scene.edges;
  const { topology } = scene;
  // Lines keep a width that can be seen when all of a large model is in view.
  const lines = Math.max(1, Math.min(6, 0.55 / view.scale));
  let near: Set<number> | undefined;
  let marked: SceneEdge[] = [];
  if (marks.edge >= 0) marked = scene.edges.slice(marks.edge, marks.edge + 1);
  else if (marks.place >= 0) {
    marked = edges.filter(({ edge }) =>
      topology.sourcePlace[topology.edgeSource[edge]!] === marks.place ||
      topology.destinationPlace[topology.edgeDestination[edge]!] === marks.place);
  }
  strokeEdges(context, edges, colours, marked.length > 0 ? 0.25 : 1, lines);
  if (marked.length > 0) {
    near = new Set(marks.place >= 0 ? [marks.place] : []);
    for (const { edge } of marked) {
      near.add(topology.sourcePlace[topology.edgeSource[edge]!]!);
      near.add(topology.destinationPlace[topology.edgeDestination[edge]!]!);
    }
    strokeEdges(context, marked, colours, 1, lines);
  }
  if (marks.cut && marks.cut.size > 0) strikeEdges(context, scene, marks.cut);
  drawNodes(context, scene, marks, near);
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
  scene.edges.forEach(({ curve, strength }, index) => {
    if (y > curve.y0 + reach || y < curve.y3 - reach) return;
    // The height falls almost evenly along the curve: a few points around that t are enough.
    const middle = (curve.y0 - y) / Math.max(1, curve.y0 - curve.y3);
    for (let step = -4; step <= 4; step++) {
      const [px, py] = pointAt(curve, Math.min(1, Math.max(0, middle + step * 0.04)));
      const distance = (px - x) ** 2 + (py - y) ** 2 - strength * 4;
      if (distance < best) {
        best = distance;
        found = index;
      }
    }
  });
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
