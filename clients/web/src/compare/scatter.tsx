// SPDX-License-Identifier: Apache-2.0
// Scores of two runs against each other, an edge a dot, on a canvas.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { edgeTitle, type Topology } from "../graph/topology.js";
import { number } from "../lib/format.js";
import { colour, onSystemTheme, theme } from "../lib/theme.js";
import type { Point } from "./difference.js";

interface Props {
  topology: Topology;
  points: Point[];
  /** The scores as the daemon gave them, for the words. */
  values: [Float32Array, Float32Array];
  names: [string, string];
}

const PAD = 34;
/** Square roots keep the many small scores apart. */
const bend = (value: number) => Math.sign(value) * Math.sqrt(Math.abs(value));

export function Scatter({ topology, points, values, names }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const chosen = useSignal(-1);
  const redraw = useSignal(0);
  useEffect(() => {
    const observer = new ResizeObserver(() => redraw.value++);
    observer.observe(canvas.current!);
    const off = onSystemTheme(() => redraw.value++);
    return () => {
      observer.disconnect();
      off();
    };
  }, []);
  const toScreen = (point: Point, width: number, height: number): [number, number] => [
    PAD + ((bend(point.x) + 1) / 2) * (width - 2 * PAD),
    height - PAD - ((bend(point.y) + 1) / 2) * (height - 2 * PAD),
  ];
  useEffect(() => {
    const element = canvas.current!;
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = element;
    element.width = width * ratio;
    element.height = height * ratio;
    const context = element.getContext("2d")!;
    context.scale(ratio, ratio);
    context.strokeStyle = colour("--line");
    context.beginPath();
    context.moveTo(PAD, height / 2);
    context.lineTo(width - PAD, height / 2);
    context.moveTo(width / 2, PAD);
    context.lineTo(width / 2, height - PAD);
    context.moveTo(PAD, height - PAD);
    context.lineTo(width - PAD, PAD);
    context.stroke();
    context.fillStyle = colour("--accent");
    context.globalAlpha = points.length > 500 ? 0.4 : 0.7;
    for (const point of points) {
      const [x, y] = toScreen(point, width, height);
      context.beginPath();
      context.arc(x, y, 3, 0, 7);
      context.fill();
    }
    context.globalAlpha = 1;
    const marked = points[chosen.value];
    if (marked) {
      const [x, y] = toScreen(marked, width, height);
      context.strokeStyle = colour("--plus");
      context.lineWidth = 2.5;
      context.beginPath();
      context.arc(x, y, 6, 0, 7);
      context.stroke();
    }
    context.fillStyle = colour("--quiet");
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText(`${names[0]} →`, width / 2, height - 10);
    context.translate(14, height / 2);
    context.rotate(-Math.PI / 2);
    context.fillText(`${names[1]} →`, 0, 0);
  }, [points, chosen.value, redraw.value, theme.value, names[0], names[1]]);
  const over = (event: PointerEvent) => {
    const { clientWidth: width, clientHeight: height } = canvas.current!;
    let best = 100;
    chosen.value = -1;
    points.forEach((point, index) => {
      const [x, y] = toScreen(point, width, height);
      const distance = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
      if (distance < best) {
        best = distance;
        chosen.value = index;
      }
    });
  };
  const keys = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined || points.length === 0) return;
    event.preventDefault();
    chosen.value = (chosen.value + step + points.length) % points.length;
  };
  const point = points[chosen.value];
  return (
    <div class="picture">
      <canvas ref={canvas} tabIndex={0} role="application" aria-label={`Scores of ${names[0]} against ${names[1]}`}
              aria-describedby="scatter-words" onPointerMove={over} onKeyDown={keys} />
      <p id="scatter-words" class="words" aria-live="polite">
        {point
          ? `${edgeTitle(topology, point.edge)}: ${number(values[0][point.edge]!)} and ${number(values[1][point.edge]!)}`
          : "Each run's scores by its largest, on square-root axes. Point at a dot, or use the arrow keys here."}
      </p>
    </div>
  );
}
