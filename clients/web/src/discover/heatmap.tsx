// SPDX-License-Identifier: Apache-2.0
// Scores as a heat map, destination heads by sources. Mouse: drag to pan, wheel to zoom, hover for the
// exact value. Keyboard: arrows move a cursor over the cells, + and - zoom, Shift with arrows pans, 0
// shows all.
import { useComputed, useSignal, useSignalEffect, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { buildHeat } from "../graph/heat.js";
import { ALL, cellAt, keepInside, paintHeat, picture, showing } from "../graph/heatpicture.js";
import { usePanZoom } from "../graph/panzoom.js";
import { edgeTitle, type Topology } from "../graph/topology.js";
import { number } from "../lib/format.js";
import { onSystemTheme, theme } from "../lib/theme.js";

interface Props {
  topology: Signal<Topology | undefined>;
  values: Signal<Float32Array | undefined>;
  largest: Signal<number>;
  pointed: Signal<number>;
}

export function HeatMap({ topology, values, largest, pointed }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const cursor = useSignal(-1);
  const size = useSignal({ width: 0, height: 0 });
  const dark = useSignal(0);
  const { view, move, zoomBy, down, drag, up } = usePanZoom(canvas, (next) => keepInside(next, size.value));
  const heat = useComputed(() => (topology.value && values.value ? buildHeat(topology.value, values.value) : undefined));
  const cells = useComputed(() => {
    void theme.value, dark.value;
    return heat.value && picture(heat.value, largest.value);
  });
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => {
      if (entry) size.value = { width: entry.contentRect.width, height: entry.contentRect.height };
    });
    observer.observe(canvas.current!);
    const off = onSystemTheme(() => dark.value++);
    view.value = ALL;
    return () => {
      observer.disconnect();
      off();
    };
  }, []);
  useSignalEffect(() => {
    const [now, element, of] = [heat.value, canvas.current, topology.value];
    const image = cells.value;
    const { width } = size.value;
    const at = view.value ?? ALL;
    const marked = cursor.value >= 0 || pointed.value < 0 || !now ? cursor.value : now.edges.indexOf(pointed.value);
    if (!now || !element || !of || !image || width === 0) return undefined;
    const frame = requestAnimationFrame(() => paintHeat(element, now, image, of, at, marked));
    return () => cancelAnimationFrame(frame);
  });
  const over = (event: PointerEvent) => {
    if (drag(event) || !heat.value || !view.value) return;
    cursor.value = cellAt(heat.value, view.value, size.value, event.offsetX, event.offsetY);
  };
  const keys = (event: KeyboardEvent) => {
    const now = heat.value;
    const at = view.value;
    if (!now || !at) return;
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step && event.shiftKey) move({ ...at, x: at.x - step[1]! * 60, y: at.y - step[0]! * 60 });
    else if (step) {
      const from = Math.max(0, cursor.value);
      const row = Math.min(now.rows - 1, Math.max(0, Math.floor(from / now.columns) + step[0]!));
      const column = Math.min(now.columns - 1, Math.max(0, (from % now.columns) + step[1]!));
      cursor.value = row * now.columns + column;
      const next = showing(now, at, size.value, cursor.value);
      if (next.x !== at.x || next.y !== at.y) move(next);
    } else if (event.key === "+" || event.key === "=") zoomBy(1.3);
    else if (event.key === "-") zoomBy(1 / 1.3);
    else if (event.key === "0") move(ALL);
    else if (event.key === "Escape") cursor.value = -1;
    else return;
    event.preventDefault();
  };
  const now = heat.value;
  const edge = now && cursor.value >= 0 ? now.edges[cursor.value]! : -1;
  const words =
    cursor.value < 0 ? "A row a destination, a column a source; blank: there is no such edge. Point at a cell, or use the arrow keys here."
    : edge < 0 ? "There is no such edge: a source reaches only later layers."
    : `${edgeTitle(topology.value!, edge)}: ${number(values.value![edge]!)} (exactly ${values.value![edge]})`;
  return (
    <div class="picture">
      <div class="tools">
        <button type="button" onClick={() => zoomBy(1.3)} aria-label="Zoom in">+</button>
        <button type="button" onClick={() => zoomBy(1 / 1.3)} aria-label="Zoom out">−</button>
        <button type="button" onClick={() => move(ALL)}>Show all</button>
      </div>
      <canvas ref={canvas} tabIndex={0} role="application" aria-label="Heat map of scores, destinations by sources"
              aria-describedby="heat-words" onPointerDown={down} onPointerMove={over} onPointerUp={up}
              onPointerLeave={() => (cursor.value = -1)} onKeyDown={keys} />
      <p id="heat-words" class="words" aria-live="polite">{words}</p>
    </div>
  );
}
