// SPDX-License-Identifier: Apache-2.0
// A circuit's picture as PNG, drawn as the page draws it, some thousand edges at a time.
import { drawEdges, drawNodes, linesOf, toWorld, type View } from "../graph/canvas.js";
import { SLICE } from "../graph/painter.js";
import { ranksBetween, type Scene } from "../graph/scene.js";
import { colour } from "../lib/theme.js";

const SCALE = 2;
/** Pixels of a side: browsers refuse canvases much larger. */
const SIDE_MAX = 8192;

/** All of it at twice its size, or at the largest that a browser draws. */
export async function toPng(scene: Scene): Promise<Blob> {
  const { width, height } = scene.layout;
  const scale = Math.min(SCALE, SIDE_MAX / width, SIDE_MAX / height);
  const view: View = { scale, x: 0, y: 0 };
  const size = { width: Math.ceil(width) * scale, height: Math.ceil(height) * scale };
  const canvas = Object.assign(document.createElement("canvas"), size);
  const context = canvas.getContext("2d")!;
  context.fillStyle = colour("--card");
  context.fillRect(0, 0, canvas.width, canvas.height);
  toWorld(context, view, 1);
  for (let end = scene.count; end > 0; end -= SLICE) {
    drawEdges(context, scene, ranksBetween(Math.max(0, end - SLICE), end), { lines: linesOf(view), count: scene.count });
    await new Promise((done) => setTimeout(done, 0)); // the page goes on meanwhile
  }
  drawNodes(context, scene, view, { edge: -1, place: -1 }, undefined);
  return new Promise((done, failed) => canvas.toBlob((blob) =>
    blob ? done(blob) : failed(new Error("This browser has no memory for a picture of this size: take the SVG.")), "image/png"));
}
