// SPDX-License-Identifier: Apache-2.0
// The strongest edges in order, with their exact scores: the picture in words.
import type { Signal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { count, number } from "../lib/format.js";
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

export function Ranked({ topology, values, order, largest, shownCount, pointed, picked, onPick }: Props) {
  const filter = useMemo(() => textCell("filter"), []);
  const wanted = filter.value.trim().toLowerCase();
  const rows: { edge: number; rank: number; title: string }[] = [];
  const end = wanted === "" ? Math.min(shownCount, ROWS_MAX) : shownCount;
  for (let rank = 0; rank < end && rows.length < ROWS_MAX; rank++) {
    const edge = order[rank]!;
    const title = edgeTitle(topology, edge);
    if (title.toLowerCase().includes(wanted)) rows.push({ edge, rank, title });
  }
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
            {rows.map(({ edge, rank, title }) => (
              <tr key={edge} class={pointed.value === edge || picked === edge ? "pointed" : ""} aria-current={picked === edge || undefined}
                  onClick={() => onPick(edge)}
                  onPointerEnter={() => (pointed.value = edge)} onPointerLeave={() => (pointed.value = -1)}>
                <td class="num quiet">{rank + 1}</td>
                <th scope="row">
                  {title}
                  <i class={values[edge]! >= 0 ? "plus" : "minus"} aria-hidden="true"
                     style={{ width: `${largest > 0 ? Math.min(100, (Math.abs(values[edge]!) / largest) * 100) : 0}%` }} />
                </th>
                <td class="num" title={String(values[edge])}>{number(values[edge]!)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="quiet">
        {rows.length < shownCount && wanted === "" ? `The first ${count(rows.length)} of ${count(shownCount)} shown.` : `${count(rows.length)} edges.`}
      </p>
    </section>
  );
}
