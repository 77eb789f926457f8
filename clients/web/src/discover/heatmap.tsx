// SPDX-License-Identifier: Apache-2.0
// Scores as a heat map, destination heads by sources. Arrow keys move a cursor over it.
import { useSignal, useSignalEffect, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { buildHeat, pixels, type Heat } from "../graph/heat.js";
import { edgeTitle, type Topology } from "../graph/topology.js";
import { number } from "../lib/format.js";
import { colour, onSystemTheme, theme } from "../lib/theme.js";

interface Props {
  topology: Signal<Topology | undefined>;
  values: Signal<Float32Array | undefined>;
  largest: Signal<number>;
  pointed: Signal<number>;
}

const LEFT = 74;
const TOP = 8; // half a line: the first row's name is not cut
const BOTTOM = 62;

/** Labels that fit: every n-th name, so that none overlap. */
function labels(names: string[], cell: number, space: number): [number, string][] {
  const every = Math.max(1, Math.ceil(space / cell));
  return names.map((name, index): [number, string] => [index, name]).filter(([index]) => index % every === 0);
}

function paint(canvas: HTMLCanvasElement, heat: Heat, topology: Topology, largest: number, cursor: number): void {
  const ratio = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d")!;
  context.scale(ratio, ratio);
  const small = new OffscreenCanvas(heat.columns, heat.rows);
  const image = new ImageData(heat.columns, heat.rows);
  image.data.set(pixels(heat, largest, colour("--plus"), colour("--minus"), colour("--grid")));
  small.getContext("2d")!.putImageData(image, 0, 0);
  const cell = { x: (width - LEFT) / heat.columns, y: (height - TOP - BOTTOM) / heat.rows };
  context.imageSmoothingEnabled = cell.x < 1 || cell.y < 1;
  context.drawImage(small, LEFT, TOP, width - LEFT, height - TOP - BOTTOM);
  context.fillStyle = colour("--quiet");
  context.font = "10px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const [row, name] of labels(topology.destinations.map(({ name }) => name), cell.y, 11)) {
    context.fillText(name, LEFT - 5, TOP + (row + 0.5) * cell.y);
  }
  for (const [column, name] of labels(topology.sources.map(({ name }) => name), cell.x, 12)) {
    context.save();
    context.translate(LEFT + (column + 0.5) * cell.x, height - BOTTOM + 6);
    context.rotate(-Math.PI / 2);
    context.fillText(name, 0, 0);
    context.restore();
  }
  if (cursor >= 0) {
    context.strokeStyle = colour("--ink");
    context.lineWidth = 1.5;
    const [row, column] = [Math.floor(cursor / heat.columns), cursor % heat.columns];
    context.strokeRect(LEFT + column * cell.x - 1, TOP + row * cell.y - 1, cell.x + 2, cell.y + 2);
  }
}

export function HeatMap({ topology, values, largest, pointed }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const cursor = useSignal(-1);
  const size = useSignal(0);
  const dark = useSignal(0);
  const heat = useSignal<Heat | undefined>(undefined);
  useEffect(() => {
    const observer = new ResizeObserver(() => size.value++);
    observer.observe(canvas.current!);
    const off = onSystemTheme(() => dark.value++);
    return () => {
      observer.disconnect();
      off();
    };
  }, []);
  useSignalEffect(() => {
    heat.value = topology.value && values.value ? buildHeat(topology.value, values.value) : undefined;
  });
  useSignalEffect(() => {
    void theme.value, dark.value, size.value;
    const now = heat.value;
    const marked = cursor.value >= 0 || pointed.value < 0 || !now ? cursor.value : now.edges.indexOf(pointed.value);
    if (now && canvas.current && topology.value) paint(canvas.current, now, topology.value, largest.value, marked);
  });
  const over = (event: PointerEvent) => {
    const now = heat.value;
    const element = canvas.current;
    if (!now || !element) return;
    const column = Math.floor(((event.offsetX - LEFT) / (element.clientWidth - LEFT)) * now.columns);
    const row = Math.floor(((event.offsetY - TOP) / (element.clientHeight - TOP - BOTTOM)) * now.rows);
    const inside = column >= 0 && column < now.columns && row >= 0 && row < now.rows;
    cursor.value = inside ? row * now.columns + column : -1;
  };
  const keys = (event: KeyboardEvent) => {
    const now = heat.value;
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!now || !step) return;
    event.preventDefault();
    const at = Math.max(0, cursor.value);
    const row = Math.min(now.rows - 1, Math.max(0, Math.floor(at / now.columns) + step[0]!));
    const column = Math.min(now.columns - 1, Math.max(0, (at % now.columns) + step[1]!));
    cursor.value = row * now.columns + column;
  };
  const now = heat.value;
  const edge = now && cursor.value >= 0 ? now.edges[cursor.value]! : -1;
  const words =
    cursor.value < 0 ? "Point at a cell, or use the arrow keys here. Blank: there is no such edge."
    : edge < 0 ? "There is no such edge: a source reaches only later layers."
    : `${edgeTitle(topology.value!, edge)}: ${number(values.value![edge]!)} (exactly ${values.value![edge]})`;
  return (
    <div class="picture">
      <canvas ref={canvas} tabIndex={0} role="application" aria-label="Heat map of scores, destinations by sources"
              aria-describedby="heat-words" onPointerMove={over} onPointerLeave={() => (cursor.value = -1)} onKeyDown={keys} />
      <p id="heat-words" class="words" aria-live="polite">{words}</p>
    </div>
  );
}
