// SPDX-License-Identifier: Apache-2.0
// The strongest edges in order, with their exact scores: the picture in words.
import type { Signal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { count, counted, number } from "../lib/format.js";
import { textCell } from "../lib/route.js";
import { edgeTitle, type Topology } from "../graph/topology.js";

const ROWS_MAX = 200;

interface Props {
  topology: Topology;
  values: Float32Array;
  order: Uint32Array;
  largest: number;
  shownCount: number;
  pointed: Signal<number>;
  /** The edge that is picked, or -1. */
  picked: number;
  onPick: (edge: number) => void;
}

/** The ranks of edges with this in their name; undefined: all. */
function matching(topology: Topology, order: Uint32Array, wanted: string): number[] | undefined {
  if (wanted === "") return undefined;
  const ranks: number[] = [];
  order.forEach((edge, rank) => {
    if (edgeTitle(topology, edge).toLowerCase().includes(wanted)) ranks.push(rank);
  });
  return ranks;
}

/** How many of rising numbers are below another. */
function countBelow(rising: number[], limit: number): number {
  let [low, high] = [0, rising.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rising[middle]! < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

export function Ranked({ topology, values, order, largest, shownCount, pointed, picked, onPick }: Props) {
  const filter = useMemo(() => textCell("filter"), []);
  const wanted = filter.value.trim().toLowerCase();
  const matches = useMemo(() => matching(topology, order, wanted), [topology, order, wanted]);
  // A moved slider shows more or fewer of the same rows: rows that are the same object are left alone.
  const rows = useMemo(() => Array.from({ length: Math.min(ROWS_MAX, matches?.length ?? order.length) }, (_, index) => {
    const rank = matches ? matches[index]! : index;
    const edge = order[rank]!;
    return (
      <tr key={edge} class={picked === edge ? "pointed" : ""} aria-current={picked === edge || undefined}
          onClick={() => onPick(edge)} onPointerEnter={() => (pointed.value = edge)} onPointerLeave={() => (pointed.value = -1)}>
        <td class="num quiet">{rank + 1}</td>
        <th scope="row">
          {edgeTitle(topology, edge)}
          <i class={values[edge]! >= 0 ? "plus" : "minus"} aria-hidden="true"
             style={{ width: `${largest > 0 ? Math.min(100, (Math.abs(values[edge]!) / largest) * 100) : 0}%` }} />
        </th>
        <td class="num" title={String(values[edge])}>{number(values[edge]!)}</td>
      </tr>
    );
  }), [topology, values, order, matches, picked]);
  const found = matches ? countBelow(matches, shownCount) : shownCount;
  const listed = Math.min(found, rows.length);
  return (
    <section aria-labelledby="ranked-title" class="ranked">
      <h2 id="ranked-title">Ranked edges</h2>
      <input type="search" placeholder="Filter by name, as A3.1" aria-label="Filter edges" value={filter.value}
             onInput={(event) => (filter.value = event.currentTarget.value)} />
      <div class="scroll" tabIndex={0} role="region" aria-label="Edges by score">
        <table class="list">
          <thead>
            <tr><th scope="col" class="num">#</th><th scope="col">Edge</th><th scope="col" class="num">Score</th></tr>
          </thead>
          <tbody>
            {rows.slice(0, listed)}
          </tbody>
        </table>
      </div>
      <p class="quiet">
        {listed < found ? `The first ${count(listed)} of ${count(found)} shown.` : `${counted(listed, "edge")}.`}
      </p>
    </section>
  );
}
