// SPDX-License-Identifier: Apache-2.0
// A picture of very many edges that never holds up the page. What was drawn once for a view is kept on
// a layer: the strongest edges, which a longer circuit has, too, and, once nothing has changed for a
// moment, all of them, some thousand a frame, the weakest first. So a step of the slider, or pointing at
// something, costs a layer, the nodes, and the few edges that are meant.
import { MOVING_EDGES_MAX, drawEdges, drawMarked, drawNodes, linesOf, toWorld, type Marks, type View } from "./canvas.js";
import { ranksBetween, type Scene } from "./scene.js";

/** Edges that are drawn in one go. */
export const SLICE = 2500;
const REST_MS = 120;

/** A canvas beside the page, and what it is of. */
class Layer {
  readonly canvas = document.createElement("canvas");
  readonly context = this.canvas.getContext("2d")!;
  #key: unknown[] = [];

  /** Whether it is of this; if not, it is cleared, and is from now on. */
  is(key: unknown[], { width, height }: HTMLCanvasElement): boolean {
    const now = [...key, width, height];
    if (this.#key.length === now.length && now.every((part, index) => part === this.#key[index])) return true;
    this.#key = now;
    Object.assign(this.canvas, { width, height }); // clears it, too
    return false;
  }
}

export class Painter {
  readonly #strongest = new Layer();
  readonly #all = new Layer();
  /** Edges that #all has, counted from the weakest. */
  #done = 0;
  #frame = 0;
  #rest: ReturnType<typeof setTimeout> | undefined;

  constructor(readonly canvas: HTMLCanvasElement) {}

  /** Draws at the next frame. `look` changes when colours do. */
  paint(scene: Scene, view: View, marks: Marks, ratio: number, look: unknown): void {
    this.stop();
    this.#frame = requestAnimationFrame(() => this.#draw(scene, view, marks, ratio, look));
  }

  stop(): void {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#rest);
  }

  #draw(scene: Scene, view: View, marks: Marks, ratio: number, look: unknown): void {
    const { canvas } = this;
    const context = canvas.getContext("2d")!;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const many = scene.count > MOVING_EDGES_MAX;
    if (many && !this.#all.is([scene.edges, scene.strength, scene.count, view, ratio, look], canvas)) this.#done = 0;
    const complete = many && this.#done >= scene.count;
    context.globalAlpha = marks.edge >= 0 || marks.place >= 0 ? 0.25 : 1;
    context.drawImage(complete ? this.#all.canvas : this.#drawStrongest(scene, view, ratio, look), 0, 0);
    context.globalAlpha = 1;
    toWorld(context, view, ratio);
    const near = drawMarked(context, scene, view, marks);
    drawNodes(context, scene, view, marks, near);
    if (!many || complete) return;
    const slice = () => {
      this.#drawSlice(scene, view, ratio);
      this.#frame = requestAnimationFrame(this.#done < scene.count ? slice : () => this.#draw(scene, view, marks, ratio, look));
    };
    this.#rest = setTimeout(slice, REST_MS);
  }

  #drawStrongest(scene: Scene, view: View, ratio: number, look: unknown): HTMLCanvasElement {
    const { canvas, context } = this.#strongest;
    const count = Math.min(scene.count, MOVING_EDGES_MAX);
    if (!this.#strongest.is([scene.edges, scene.strength, count, view, ratio, look], this.canvas)) {
      toWorld(context, view, ratio);
      drawEdges(context, scene, ranksBetween(0, count), { lines: linesOf(view), count });
    }
    return canvas;
  }

  #drawSlice(scene: Scene, view: View, ratio: number): void {
    const { context } = this.#all;
    toWorld(context, view, ratio);
    const end = scene.count - this.#done;
    const begin = Math.max(0, end - SLICE);
    drawEdges(context, scene, ranksBetween(begin, end), { lines: linesOf(view), count: scene.count });
    this.#done += end - begin;
  }
}
