// SPDX-License-Identifier: Apache-2.0
// What a circuit's picture shows, before anybody draws it: edges by falling strength in typed arrays,
// and of those the first `count`. A moved slider changes the count and nothing else. canvas.ts and
// svg.ts draw the same scene.
import { CURVE, layoutOf, writeCurve, type Layout } from "./layout.js";
import type { Topology } from "./topology.js";

export interface Scene {
  topology: Topology;
  layout: Layout;
  /** By rank: the strongest first. */
  edges: Uint32Array;
  /** By rank, 0 to 1: the square root of its share of the largest score, so weak edges can be seen. */
  strength: Float32Array;
  /** By rank: 1 of a score of 0 or more. */
  positive: Uint8Array;
  /** By rank, CURVE numbers each. */
  curves: Float32Array;
  /** Of each place: how many edges must be shown so that one touches it. */
  touchedFrom: Uint32Array;
  /** How many are shown. */
  count: number;
}

/** Of strength s in a picture: width in world units. */
export function widthOf(strength: number): number {
  return 0.6 + 4.6 * strength * strength;
}

/** Likewise opacity. */
export function opacityOf(strength: number): number {
  return 0.3 + 0.65 * strength;
}

/** Edges of about one strength, which one stroke draws. */
export interface Run {
  /** Of the ranks that were given: from `begin` to before `end`. */
  begin: number;
  end: number;
  width: number;
  opacity: number;
}

const BUCKETS = 12;
const bucketOf = (strength: number) => Math.min(BUCKETS - 1, Math.floor(strength * BUCKETS));

/** Cuts ranks, which rise, into runs: the weakest first. `count`: the edges of the picture, of which these may be a part. */
export function runsOf({ strength }: Scene, ranks: ArrayLike<number>, count: number): Run[] {
  // Many edges would be one block of colour: the weak ones step back.
  const crowd = Math.max(0.25, Math.min(1, Math.sqrt(600 / Math.max(1, count))));
  const runs: Run[] = [];
  for (let end = ranks.length; end > 0; ) {
    const bucket = bucketOf(strength[ranks[end - 1]!]!);
    let begin = end - 1;
    while (begin > 0 && bucketOf(strength[ranks[begin - 1]!]!) === bucket) begin--;
    const middle = (bucket + 0.5) / BUCKETS;
    runs.push({
      begin, end, width: widthOf(middle) * (bucket === 0 ? 0.7 : 1), opacity: opacityOf(middle) * (crowd + (1 - crowd) * middle),
    });
    end = begin;
  }
  return runs;
}

const identity = new Map<number, Uint32Array>();

/** The ranks from begin to before end. */
export function ranksBetween(begin: number, end: number): Uint32Array {
  const size = 2 ** Math.ceil(Math.log2(Math.max(1024, end)));
  let all = identity.get(size);
  if (!all) identity.set(size, (all = Uint32Array.from({ length: size }, (_, rank) => rank)));
  return all.subarray(begin, end);
}

const layouts = new WeakMap<Topology, Layout>();

function laidOut(topology: Topology): Layout {
  let found = layouts.get(topology);
  if (!found) layouts.set(topology, (found = layoutOf(topology.places)));
  return found;
}

/** `edges`: strongest first; `largest`: what strength 1 is. */
export function buildScene(topology: Topology, values: Float32Array, edges: ArrayLike<number>, largest: number): Scene {
  const layout = laidOut(topology);
  const count = edges.length;
  const scene: Scene = {
    topology, layout, count, edges: Uint32Array.from(edges), strength: new Float32Array(count), positive: new Uint8Array(count),
    curves: new Float32Array(count * CURVE), touchedFrom: new Uint32Array(topology.places.length).fill(0xffffffff),
  };
  for (let rank = count - 1; rank >= 0; rank--) {
    const edge = scene.edges[rank]!;
    const size = Math.abs(values[edge]!);
    scene.strength[rank] = largest > 0 ? Math.sqrt(Math.min(1, size / largest)) : Number.isFinite(size) ? 0 : 1;
    scene.positive[rank] = values[edge]! >= 0 ? 1 : 0;
    writeCurve(topology, layout, edge, scene.curves, rank * CURVE);
    scene.touchedFrom[placeFrom(topology, edge)] = scene.touchedFrom[placeTo(topology, edge)] = rank + 1;
  }
  return scene;
}

/** The same with the strongest `count` edges shown, as far as there are so many. */
export function withCount(scene: Scene, count: number): Scene {
  return { ...scene, count: Math.min(count, scene.edges.length) };
}

export function isTouched(scene: Scene, place: number): boolean {
  return scene.touchedFrom[place]! <= scene.count;
}

export const placeFrom = (topology: Topology, edge: number): number => topology.sourcePlace[topology.edgeSource[edge]!]!;
export const placeTo = (topology: Topology, edge: number): number => topology.destinationPlace[topology.edgeDestination[edge]!]!;

/** The shown edges that touch a place, by rank. */
export function ranksAt(scene: Scene, place: number): number[] {
  const ranks: number[] = [];
  for (let rank = 0; rank < scene.count; rank++) {
    const edge = scene.edges[rank]!;
    if (placeFrom(scene.topology, edge) === place || placeTo(scene.topology, edge) === place) ranks.push(rank);
  }
  return ranks;
}

/** The rank of a shown edge, or -1. */
export function rankOf(scene: Scene, edge: number): number {
  const rank = edge < 0 ? -1 : scene.edges.indexOf(edge);
  return rank < scene.count ? rank : -1;
}
