// SPDX-License-Identifier: Apache-2.0
// Nodes and edges by name, as an address has them: "A0.3", "MLP 0->A1.2.Q", "A0.1->MLP 1@4".
import { edgeIndex, edgeName, type Topology } from "./topology.js";

/** A node or an edge, or neither: indices into places and edges, or -1. */
export interface Picked {
  edge: number;
  place: number;
}

export const NOTHING: Picked = { edge: -1, place: -1 };

export function edgeKey(topology: Topology, edge: number): string {
  const position = topology.edgePosition[edge]!;
  return edgeName(topology, edge) + (position >= 0 ? `@${position}` : "");
}

/** The other way; for each name what it names, or NOTHING. */
export function picker(topology: Topology): (name: string) => Picked {
  let edges: ReturnType<typeof edgeIndex> | undefined; // made when the first edge is asked for: it lists them all
  return (text) => {
    const [name = "", position = "-1"] = text.split("@");
    if (!name.includes("->")) return { edge: -1, place: topology.places.findIndex((place) => place.name === name) };
    edges ??= edgeIndex(topology);
    return { edge: edges(name, Number(position) + 1) ?? -1, place: -1 };
  };
}

export function parsePick(topology: Topology, text: string): Picked {
  return text === "" ? NOTHING : picker(topology)(text);
}
