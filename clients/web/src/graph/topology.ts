// SPDX-License-Identifier: Apache-2.0
// Which edges a graph has, in typed arrays. Nodes, wrappers and the shapes of the score tensors say it
// all, so the edges themselves are never listed: 70,000 of them cost a few hundred nodes.
//
// An edge's index is its place in the score tensors laid end to end, each [seq?, heads?, sources].
import type { Graph, ListNodesResponse, ListWrappersResponse, Node } from "#gen/ablate/v1/graph_pb.js";
import { QUICK, graphs } from "../lib/rpc.js";

/** One score tensor: edges begin .. begin + seq * heads * sources. */
export interface Block {
  name: string;
  shape: number[];
  begin: number;
  size: number;
}

/** What a picture shows as one node: a head with its q, k and v inputs, an MLP, an end. */
export interface Place {
  name: string;
  layer: number;
  /** Head, or -1. */
  head: number;
}

export interface Topology {
  graph: Graph;
  sources: Node[];
  destinations: Node[];
  places: Place[];
  /** Of each source and destination, its place. */
  sourcePlace: Int32Array;
  destinationPlace: Int32Array;
  blocks: Block[];
  edgeCount: number;
  /** Of each edge: index into sources, into destinations, and its position or -1. */
  edgeSource: Int32Array;
  edgeDestination: Int32Array;
  edgePosition: Int32Array;
}

/** "A9.9->A11.10.Q". */
export function edgeName(topology: Topology, edge: number): string {
  const source = topology.sources[topology.edgeSource[edge]!]!;
  return `${source.name}->${topology.destinations[topology.edgeDestination[edge]!]!.name}`;
}

/** With its position, for people. */
export function edgeTitle(topology: Topology, edge: number): string {
  const position = topology.edgePosition[edge]!;
  return edgeName(topology, edge) + (position >= 0 ? ` at position ${position}` : "");
}

/** EAP-IG's name; undefined where its graphs have no such node. */
export function eapName(topology: Topology, edge: number): string | undefined {
  const source = topology.sources[topology.edgeSource[edge]!]!.eapName;
  const destination = topology.destinations[topology.edgeDestination[edge]!]!.eapName;
  return source && destination ? `${source}->${destination}` : undefined;
}

/** Edge by "name" or, with a position p, "name@p". */
export function edgeIndex(topology: Topology): (name: string, seqNumber: number) => number | undefined {
  const byName = new Map<string, number>();
  for (let edge = 0; edge < topology.edgeCount; edge++) {
    byName.set(`${edgeName(topology, edge)}@${topology.edgePosition[edge]! + 1}`, edge);
  }
  return (name, seqNumber) => byName.get(`${name}@${seqNumber}`);
}

/** The head whose node shows a key-value head: the first of its group. */
function placeName(node: Node, headsPerGroup: number): string {
  const match = /^A(\d+)\.(\d+)(?:\.([QKV]))?$/.exec(node.name);
  if (match === null) return node.name;
  const head = match[3] === "K" || match[3] === "V" ? Number(match[2]) * headsPerGroup : Number(match[2]);
  return `A${match[1]}.${head}`;
}

function countHeads(nodes: Node[], suffix: string): number {
  const layers = new Map<number, number>();
  for (const node of nodes) {
    if (node.name.endsWith(suffix)) layers.set(node.layer, (layers.get(node.layer) ?? 0) + 1);
  }
  return Math.max(1, ...layers.values());
}

/** Pure, for tests; throws where the parts do not fit together. */
export function buildTopology(
  graph: Graph,
  nodes: Node[],
  wrappers: ListWrappersResponse["wrappers"],
): Topology {
  const sources = nodes.filter((node) => node.isSource).sort((a, b) => a.srcIdx - b.srcIdx);
  const destinations = nodes.filter((node) => !node.isSource);
  const group = countHeads(destinations, ".Q") / countHeads(destinations, ".K");
  const places: Place[] = [];
  const placeByName = new Map<string, number>();
  const placeOf = (node: Node): number => {
    const name = placeName(node, group);
    let place = placeByName.get(name);
    if (place === undefined) {
      place = places.length;
      placeByName.set(name, place);
      places.push({ name, layer: node.layer, head: name.startsWith("A") ? Number(name.split(".")[1]) : -1 });
    }
    return place;
  };
  const sourcePlace = Int32Array.from(sources, placeOf);
  const destinationPlace = Int32Array.from(destinations, placeOf);

  const edgeCount = Number(graph.edgeCount);
  const edgeSource = new Int32Array(edgeCount);
  const edgeDestination = new Int32Array(edgeCount);
  const edgePosition = new Int32Array(edgeCount).fill(-1);
  const blocks: Block[] = [];
  const seq = graph.options?.seqLen ?? 0;
  let edge = 0;
  for (const module of graph.modules) {
    const shape = module.shape.map(Number);
    const size = shape.reduce((product, length) => product * length, 1);
    const rows = destinations
      .map((node, index) => ({ node, index }))
      .filter(({ node }) => node.moduleName === module.name)
      .sort((a, b) => a.node.headIdx - b.node.headIdx);
    const sourceCount = shape[shape.length - 1] ?? 0;
    if (rows.length * sourceCount * Math.max(seq, 1) !== size || edge + size > edgeCount) {
      throw new Error(`This page does not understand the shape of ${module.name}: [${shape.join(", ")}].`);
    }
    const first = wrappers.find((wrapper) => wrapper.moduleName === module.name)?.inSrcBegin ?? 0;
    blocks.push({ name: module.name, shape, begin: edge, size });
    for (let position = 0; position < Math.max(seq, 1); position++) {
      for (const { index } of rows) {
        for (let source = 0; source < sourceCount; source++, edge++) {
          edgeSource[edge] = first + source;
          edgeDestination[edge] = index;
          if (seq > 0) edgePosition[edge] = position;
        }
      }
    }
  }
  if (edge !== edgeCount) throw new Error(`The graph has ${edgeCount} edges, its modules ${edge}.`);
  return {
    graph, sources, destinations, places, sourcePlace, destinationPlace, blocks, edgeCount,
    edgeSource, edgeDestination, edgePosition,
  };
}

export async function fetchTopology(graphId: string, signal: AbortSignal): Promise<Topology> {
  const [{ graph }, { wrappers }] = await Promise.all([
    graphs.getGraph({ graphId }, { ...QUICK, signal }),
    graphs.listWrappers({ graphId }, { ...QUICK, signal }),
  ]);
  const nodes: ListNodesResponse["nodes"] = [];
  for await (const message of graphs.listNodes({ graphId }, { signal })) nodes.push(...message.nodes);
  if (!graph) throw new Error("The daemon sent no graph.");
  return buildTopology(graph, nodes, wrappers);
}
