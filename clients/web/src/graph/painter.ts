// SPDX-License-Identifier: Apache-2.0
// A picture of very many edges that never holds up the page. At rest all edges are drawn on a layer of
// their own, some thousand a frame, the weakest first; when it is complete, pointing at something costs
// that layer and the few edges that are meant. Until then, and while the view moves, the strongest
// edges are drawn directly.
import { MOVING_EDGES_MAX, drawEdges, drawMarked, drawNodes, linesOf, toWorld, type Marks, type View } from "./canvas.js";
import type { Scene } from "./scene.js";

const SLICE = 2500;

export class Painter {
  #layer: HTMLCanvasElement | undefined;
  #key: unknown[] = [];
  /** Edges that the layer has, counted from the weakest. */
  #done = 0;
  #frame = 0;

  constructor(readonly canvas: HTMLCanvasElement) {}

  /** Draws at the next frame. `look` changes when colours do. */
  paint(scene: Scene, view: View, marks: Marks, ratio: number, moving: boolean, look: unknown): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#draw(scene, view, marks, ratio, moving, look));
  }

  stop(): void {
    cancelAnimationFrame(this.#frame);
  }

  #draw(scene: Scene, view: View, marks: Marks, ratio: number, moving: boolean, look: unknown): void {
    const { canvas } = this;
    const context = canvas.getContext("2d")!;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const many = scene.edges.length > MOVING_EDGES_MAX;
    const complete = many && this.#layerHas(scene, view, ratio, look);
    const marked = marks.edge >= 0 || marks.place >= 0;
    if (complete) {
      context.globalAlpha = marked ? 0.25 : 1;
      context.drawImage(this.#layer!, 0, 0);
      context.globalAlpha = 1;
    }
    toWorld(context, view, ratio);
    if (!complete) {
      const edges = many ? scene.edges.slice(0, MOVING_EDGES_MAX) : scene.edges;
      drawEdges(context, edges, { fade: marked ? 0.25 : 1, lines: linesOf(view), count: edges.length });
    }
    const near = drawMarked(context, scene, view, marks);
    drawNodes(context, scene, view, marks, near);
    if (many && !complete && !moving) {
      this.#frame = requestAnimationFrame(() => {
        this.#drawSlice(scene, view, ratio);
        this.#draw(scene, view, marks, ratio, moving, look);
      });
    }
  }

  /** Whether all edges are on the layer; begins it anew where it is of something else. */
  #layerHas(scene: Scene, view: View, ratio: number, look: unknown): boolean {
    const key = [scene, view, ratio, look, this.canvas.width, this.canvas.height];
    if (key.some((part, index) => part !== this.#key[index])) {
      this.#key = key;
      this.#done = 0;
    }
    return this.#done >= scene.edges.length;
  }

  #drawSlice(scene: Scene, view: View, ratio: number): void {
    const { width, height } = this.canvas;
    const layer = (this.#layer ??= document.createElement("canvas"));
    const context = layer.getContext("2d")!;
    if (this.#done === 0) Object.assign(layer, { width, height }); // clears it, too
    toWorld(context, view, ratio);
    const end = scene.edges.length - this.#done;
    const edges = scene.edges.slice(Math.max(0, end - SLICE), end);
    drawEdges(context, edges, { fade: 1, lines: linesOf(view), count: scene.edges.length });
    this.#done += edges.length;
  }
}
