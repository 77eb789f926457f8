// SPDX-License-Identifier: Apache-2.0
// Moving in a picture: drag to pan, wheel to zoom around the pointer. What is drawn, and what a click
// means, is the picture's.
import { useSignal, type Signal } from "@preact/signals";
import { useEffect, useRef, type MutableRef } from "preact/hooks";
import { zoom, type View } from "./canvas.js";

const STILL_MS = 140;

export interface PanZoom {
  view: Signal<View | undefined>;
  /** From a movement to a moment after the last one. */
  moving: Signal<boolean>;
  move: (next: View) => void;
  /** Around a point of the canvas, or its middle. */
  zoomBy: (factor: number, x?: number, y?: number) => void;
  down: (event: PointerEvent) => void;
  /** True: the pointer drags, and points at nothing. */
  drag: (event: PointerEvent) => boolean;
  /** True: it was a click and no drag. */
  up: () => boolean;
}

/** `keep` corrects a view before it is taken. */
export function usePanZoom(canvas: MutableRef<HTMLCanvasElement | null>, keep: (view: View) => View = (view) => view): PanZoom {
  const view = useSignal<View | undefined>(undefined);
  const moving = useSignal(false);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const held = useRef<{ x: number; y: number; moved: boolean } | undefined>(undefined);
  const kept = useRef(keep);
  kept.current = keep;

  const move = (next: View) => {
    view.value = kept.current(next);
    moving.value = true;
    clearTimeout(timer.current);
    timer.current = setTimeout(() => (moving.value = false), STILL_MS);
  };
  const zoomBy = (factor: number, x?: number, y?: number) => {
    const { clientWidth, clientHeight } = canvas.current!;
    if (view.value) move(zoom(view.value, factor, x ?? clientWidth / 2, y ?? clientHeight / 2));
  };
  useEffect(() => {
    const element = canvas.current!;
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      zoomBy(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.0015)), event.offsetX, event.offsetY);
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => {
      element.removeEventListener("wheel", wheel);
      clearTimeout(timer.current);
    };
  }, []);

  return {
    view, moving, move, zoomBy,
    down: (event) => {
      held.current = { x: event.offsetX, y: event.offsetY, moved: false };
      canvas.current!.setPointerCapture(event.pointerId);
    },
    drag: (event) => {
      const from = held.current;
      if (!from) return false;
      const [dx, dy] = [event.offsetX - from.x, event.offsetY - from.y];
      const moved = from.moved || Math.abs(dx) + Math.abs(dy) > 3;
      if (moved && view.value) {
        move({ ...view.value, x: view.value.x + dx, y: view.value.y + dy });
        held.current = { x: event.offsetX, y: event.offsetY, moved };
      }
      return true;
    },
    up: () => {
      const clicked = held.current !== undefined && !held.current.moved;
      held.current = undefined;
      return clicked;
    },
  };
}
