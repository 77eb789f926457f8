// SPDX-License-Identifier: Apache-2.0
// The circuit as a picture one can move in. Mouse: drag to pan, wheel to zoom, hover for the exact
// value. Keyboard: arrows go from node to node, Enter chooses, + and - zoom, Shift with arrows pans, 0
// shows all. What is under the pointer or the keys is also said in words below it.
import { useComputed, useSignal, useSignalEffect, type ReadonlySignal, type Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { counted, number } from "../lib/format.js";
import { param, setParams } from "../lib/route.js";
import { onSystemTheme, theme } from "../lib/theme.js";
import { fit, formatView, hit, parseView } from "./canvas.js";
import { Painter } from "./painter.js";
import { NOTHING, type Picked } from "./pick.js";
import { usePanZoom } from "./panzoom.js";
import { rankOf, ranksAt, type Scene } from "./scene.js";
import { edgeTitle } from "./topology.js";

interface Props {
  scene: Signal<Scene | undefined>;
  values: Signal<Float32Array | undefined>;
  /** The edge that another part of the page points at, or -1. */
  pointed: Signal<number>;
  /** A node or an edge that stays marked while nothing else is pointed at. */
  picked?: ReadonlySignal<Picked>;
  /** The parameter of the address that has the part in view. */
  at?: string;
  /** Places and edges that are ablated by hand. */
  struck?: Signal<ReadonlySet<number>>;
  cut?: Signal<ReadonlySet<number>>;
  onPlace?: (place: number) => void;
  onEdge?: (edge: number) => void;
  label: string;
}

/** A node with its strongest shown edges, in words. */
function placeWords(scene: Scene, values: Float32Array, place: number): string {
  const { topology } = scene;
  const touching = ranksAt(scene, place).map((rank) => scene.edges[rank]!);
  const strongest = touching.slice(0, 3).map((edge) => `${edgeTitle(topology, edge)} ${number(values[edge]!)}`);
  const rest = touching.length > 3 ? ", …" : "";
  return `${topology.places[place]!.name}: ${counted(touching.length, "shown edge")}` +
    (strongest.length > 0 ? ` (${strongest.join(", ")}${rest})` : "");
}

/** The next node in a direction, or the same. */
function neighbour(scene: Scene, from: number, dx: number, dy: number): number {
  if (from < 0) return scene.topology.places.length > 0 ? 0 : -1;
  let best = from;
  let least = Infinity;
  scene.topology.places.forEach((_, index) => {
    const x = scene.layout.x[index]! - scene.layout.x[from]!;
    const y = scene.layout.y[index]! - scene.layout.y[from]!;
    const along = x * dx + y * dy;
    const aside = Math.abs(x * dy) + Math.abs(y * dx);
    const cost = along + aside * 2;
    if (along > 1 && (dy !== 0 || aside < 1) && cost < least) {
      least = cost;
      best = index;
    }
  });
  return best;
}

export function Picture({ scene, values, pointed, picked, at, struck, cut, onPlace, onEdge, label }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const { view, moving, move, zoomBy, down, drag, up } = usePanZoom(canvas);
  const edge = useSignal(-1); // under the pointer, by its rank
  const place = useSignal(-1);
  const size = useSignal({ width: 0, height: 0 });
  const dark = useSignal(0); // counts changes of the system's theme
  const painter = useRef<Painter | undefined>(undefined);
  const fitted = useRef("");

  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => {
      if (entry) size.value = { width: entry.contentRect.width, height: entry.contentRect.height };
    });
    observer.observe(canvas.current!);
    painter.current = new Painter(canvas.current!);
    const off = onSystemTheme(() => dark.value++);
    return () => {
      observer.disconnect();
      off();
      painter.current?.stop();
    };
  }, []);

  // Where a part of the view is meant to be seen by others, its place is in the address when it rests.
  useSignalEffect(() => {
    const now = view.value;
    const { width, height } = size.peek(); // a new size means a new view first, below
    if (at && now && !moving.value && scene.peek() && width > 0) {
      setParams({ [at]: formatView(now, fit(scene.peek()!, width, height), width, height) });
    }
  });

  // What is marked: what is pointed at here, else elsewhere on the page, else what is picked.
  const meant = useComputed(() => {
    const now = scene.value;
    if (edge.value >= 0 || place.value >= 0) return { edge: edge.value, place: place.value };
    const { edge: pick, place: pickedPlace } = picked?.value ?? NOTHING;
    const rank = now ? rankOf(now, pointed.value >= 0 ? pointed.value : pick) : -1;
    return { edge: rank, place: pointed.value >= 0 ? -1 : pickedPlace };
  });

  useSignalEffect(() => {
    const now = scene.value;
    const { width, height } = size.value;
    const element = canvas.current;
    void theme.value, dark.value;
    if (!element || width === 0) return;
    const ratio = devicePixelRatio || 1;
    const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (element.width !== wide || element.height !== high) Object.assign(element, { width: wide, height: high });
    if (!now) return;
    const key = `${now.topology.graph.graphId} ${width} ${height}`;
    if (fitted.current !== key) {
      fitted.current = key;
      const all = fit(now, width, height);
      view.value = (at && parseView(param(at).peek(), all, width, height)) || all;
    }
    const marks = {
      ...meant.value,
      ...(struck ? { struck: struck.value } : {}),
      ...(cut ? { cut: cut.value } : {}),
    };
    if (view.value) painter.current?.paint(now, view.value, marks, ratio, `${theme.value} ${dark.value}`);
  });

  const all = () => {
    if (scene.value) move(fit(scene.value, size.value.width, size.value.height));
  };

  const over = (event: PointerEvent) => {
    const now = scene.value;
    if (!now || !view.value) return;
    if (drag(event)) return;
    const { scale, x, y } = view.value;
    const found = hit(now, (event.offsetX - x) / scale, (event.offsetY - y) / scale, 6 / scale);
    edge.value = found.edge;
    place.value = found.place;
  };
  const choose = () => {
    const now = scene.value;
    if (!up() || !now) return;
    if (place.value >= 0) onPlace?.(place.value);
    else if (edge.value >= 0) onEdge?.(now.edges[edge.value]!);
  };
  const keys = (event: KeyboardEvent) => {
    const now = scene.value;
    if (!now || !view.value) return;
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (arrow && event.shiftKey) move({ ...view.value, x: view.value.x - arrow[0]! * 60, y: view.value.y - arrow[1]! * 60 });
    else if (arrow) {
      edge.value = -1;
      place.value = neighbour(now, place.value, arrow[0]!, arrow[1]!);
    } else if (event.key === "+" || event.key === "=") zoomBy(1.3);
    else if (event.key === "-") zoomBy(1 / 1.3);
    else if (event.key === "0") all();
    else if (event.key === "Escape") place.value = edge.value = -1;
    else if ((event.key === "Enter" || event.key === " ") && place.value >= 0) onPlace?.(place.value);
    else return;
    event.preventDefault();
  };

  const now = scene.value;
  const said = meant.value;
  const shown = said.edge >= 0 ? now?.edges[said.edge] : undefined;
  const words =
    !now || !values.value ? ""
    : shown !== undefined ? `${edgeTitle(now.topology, shown)}: ${number(values.value[shown]!)} (exactly ${values.value[shown]})`
    : said.place >= 0 ? placeWords(now, values.value, said.place)
    : "Point at a node or an edge, or use the arrow keys here.";
  return (
    <div class="picture">
      <div class="tools">
        <button type="button" onClick={() => zoomBy(1.3)} aria-label="Zoom in">+</button>
        <button type="button" onClick={() => zoomBy(1 / 1.3)} aria-label="Zoom out">−</button>
        <button type="button" onClick={all}>Show all</button>
      </div>
      <canvas
        ref={canvas} tabIndex={0} role="application" aria-label={label} aria-describedby="picture-words"
        class={edge.value >= 0 || place.value >= 0 ? "hit" : ""}
        onPointerDown={down} onPointerMove={over} onPointerUp={choose} onKeyDown={keys}
        onPointerLeave={() => (edge.value = place.value = -1)}
      />
      <p id="picture-words" class="words" aria-live="polite">{words}</p>
    </div>
  );
}
