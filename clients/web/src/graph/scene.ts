// SPDX-License-Identifier: Apache-2.0
// What a circuit's picture shows, before anybody draws it: the shown edges with their strength, and
// which nodes they touch. canvas.ts and svg.ts draw the same scene.
import { curveOf, layoutOf, type Curve, type Layout } from "./layout.js";
import type { Topology } from "./topology.js";

export interface SceneEdge {
  edge: number;
  curve: Curve;
  /** 0 to 1: the square root of its share of the largest score, so weak edges can be seen. */
  strength: number;
  positive: boolean;
}

export interface Scene {
  topology: Topology;
  layout: Layout;
  /** Strongest first. */
  edges: SceneEdge[];
  /** Of each place: whether a shown edge touches it. */
  touched: Uint8Array;
}

/** Of strength s in a picture: width in world units. */
export function widthOf(strength: number): number {
  return 0.6 + 4.6 * strength * strength;
}

/** Likewise opacity. */
export function opacityOf(strength: number): number {
  return 0.3 + 0.65 * strength;
}

/** A graph's layout, and the curves that were wanted so far: a moved slider wants the same ones again. */
const layouts = new WeakMap<Topology, { layout: Layout; curves: (Curve | undefined)[] }>();

function laidOut(topology: Topology) {
  let found = layouts.get(topology);
  if (!found) layouts.set(topology, (found = { layout: layoutOf(topology.places), curves: [] }));
  return found;
}

/** `shown`: edges, strongest first; `largest`: what strength 1 is. */
export function buildScene(topology: Topology, values: Float32Array, shown: ArrayLike<number>, largest: number): Scene {
  const { layout, curves } = laidOut(topology);
  const touched = new Uint8Array(topology.places.length);
  const edges: SceneEdge[] = [];
  for (let rank = 0; rank < shown.length; rank++) {
    const edge = shown[rank]!;
    const value = values[edge]!;
    const size = Math.abs(value);
    edges.push({
      edge,
      curve: (curves[edge] ??= curveOf(topology, layout, edge)),
      strength: largest > 0 ? Math.sqrt(Math.min(1, size / largest)) : Number.isFinite(size) ? 0 : 1,
      positive: value >= 0,
    });
    touched[topology.sourcePlace[topology.edgeSource[edge]!]!] = 1;
    touched[topology.destinationPlace[topology.edgeDestination[edge]!]!] = 1;
  }
  return { topology, layout, edges, touched };
}
