// SPDX-License-Identifier: Apache-2.0
import { create } from "@bufbuild/protobuf";
import { describe as group, expect, test } from "vitest";
import { TensorChunkSchema } from "#gen/ablate/v1/common_pb.js";
import { GraphSchema, NodeSchema, WrapperSchema, type Node } from "#gen/ablate/v1/graph_pb.js";
import { ModelSchema } from "#gen/ablate/v1/model_pb.js";
import { fit, hit, zoom } from "../src/graph/canvas.js";
import { buildHeat, parseRgb, pixels } from "../src/graph/heat.js";
import { ALL, cellAt, keepInside, showing } from "../src/graph/heatpicture.js";
import { along } from "../src/graph/layout.js";
import { buildScene, isTouched, rankOf, ranksAt, ranksBetween, runsOf, withCount } from "../src/graph/scene.js";
import { nonzeroCount, place, ranking, scale } from "../src/graph/scores.js";
import { buildTopology, eapName, edgeIndex, edgeName, edgeTitle } from "../src/graph/topology.js";
import { formatCut, parseCut } from "../src/patch/bench.js";
import { sizeAt, stepOf } from "../src/discover/size.js";
import { mibProblem, toMib } from "../src/export/mib.js";
import { toSafetensors } from "../src/export/safetensors.js";
import { toSvg } from "../src/export/svg.js";

// A block of two heads and an MLP, as the daemon describes it.
const source = (name: string, eapName: string, layer: number, srcIdx: number, headIdx = -1): Node =>
  create(NodeSchema, { name, eapName, layer, srcIdx, headIdx, isSource: true });
const reader = (name: string, eapName: string, layer: number, moduleName: string, headIdx = -1): Node =>
  create(NodeSchema, { name, eapName, layer, srcIdx: -1, headIdx, moduleName });
const SOURCES = [
  source("Resid Start", "input", 0, 0), source("A0.0", "a0.h0", 1, 1, 0), source("A0.1", "a0.h1", 1, 2, 1),
  source("MLP 0", "m0", 2, 3),
];
const qkv = ["q", "k", "v"].flatMap((letter) =>
  [0, 1].map((head) =>
    reader(`A0.${head}.${letter.toUpperCase()}`, `a0.h${head}<${letter}>`, 1, `blocks.0.hook_${letter}_input`, head)));
const READERS = [
  ...qkv, reader("MLP 0", "m0", 2, "blocks.0.hook_mlp_in"),
  reader("Resid End", "logits", 3, "blocks.0.hook_resid_post"),
];

function tiny(seqLen = 0) {
  const lead = seqLen > 0 ? [BigInt(seqLen)] : [];
  const modules = [
    ...["q", "k", "v"].map((letter) => ({ name: `blocks.0.hook_${letter}_input`, shape: [...lead, 2n, 1n] })),
    { name: "blocks.0.hook_mlp_in", shape: [...lead, 3n] },
    { name: "blocks.0.hook_resid_post", shape: [...lead, 4n] },
  ];
  const edgeCount = 13n * BigInt(Math.max(seqLen, 1));
  const graph = create(GraphSchema, { graphId: "graph-1", edgeCount, modules, options: { seqLen } });
  return buildTopology(graph, [...SOURCES, ...READERS], []);
}

group("the topology", () => {
  test("names every edge in the order of the score tensors", () => {
    const topology = tiny();
    const names = Array.from({ length: topology.edgeCount }, (_, edge) => edgeName(topology, edge));
    expect(names.slice(0, 3)).toEqual(["Resid Start->A0.0.Q", "Resid Start->A0.1.Q", "Resid Start->A0.0.K"]);
    expect(names.slice(6)).toEqual([
      "Resid Start->MLP 0", "A0.0->MLP 0", "A0.1->MLP 0",
      "Resid Start->Resid End", "A0.0->Resid End", "A0.1->Resid End", "MLP 0->Resid End",
    ]);
    expect(eapName(topology, 1)).toBe("input->a0.h1<q>");
    expect(edgeIndex(topology)("A0.1->MLP 0", 0)).toBe(8);
  });
  test("what is ablated goes into an address and comes back, but for names of other graphs", () => {
    const topology = tiny(3);
    const index = edgeIndex(topology);
    const edges = [index("A0.1->MLP 0", 1)!, index("Resid Start->A0.0.Q", 3)!];
    const text = formatCut(topology, [topology.places.findIndex(({ name }) => name === "MLP 0")], edges);
    expect(text).toBe("MLP 0,A0.1->MLP 0@0,Resid Start->A0.0.Q@2");
    const back = parseCut(topology, `${text},A9.9,A0.1->MLP 7@0,A0.1->MLP 0@9,`);
    expect([...back.edges]).toEqual(edges);
    expect([...back.places].map((place) => topology.places[place]!.name)).toEqual(["MLP 0"]);
    expect([...parseCut(tiny(), "A0.1->MLP 0").edges]).toEqual([8]);
    expect(parseCut(tiny(), "").edges.size).toBe(0);
  });
  test("shows a head and its inputs as one place", () => {
    expect(tiny().places.map(({ name }) => name).sort()).toEqual(["A0.0", "A0.1", "MLP 0", "Resid End", "Resid Start"]);
  });
  test("tells positions apart", () => {
    const topology = tiny(2);
    expect(topology.edgeCount).toBe(26);
    expect([0, 1, 2].map((edge) => edgeTitle(topology, edge))).toEqual([
      "Resid Start->A0.0.Q at position 0", "Resid Start->A0.1.Q at position 0", "Resid Start->A0.0.Q at position 1",
    ]);
  });
  test("starts at the first source that a module may read", () => {
    const graph = create(GraphSchema, { edgeCount: 1n, modules: [{ name: "m", shape: [1n] }] });
    const nodes = [...SOURCES, reader("Resid Post 0", "", 3, "m")];
    const topology = buildTopology(graph, nodes, [create(WrapperSchema, { moduleName: "m", inSrcBegin: 3 })]);
    expect(edgeName(topology, 0)).toBe("MLP 0->Resid Post 0");
  });
  test("refuses shapes that it does not understand", () => {
    const graph = create(GraphSchema, { edgeCount: 5n, modules: [{ name: "m", shape: [5n] }] });
    expect(() => buildTopology(graph, SOURCES, [])).toThrow("does not understand");
  });
});

group("scores", () => {
  test("land where their module begins", () => {
    const topology = tiny();
    const values = new Float32Array(topology.edgeCount);
    const data = new Uint8Array(Float32Array.of(7).buffer);
    const chunk = create(TensorChunkSchema, { name: "blocks.0.hook_mlp_in", offsetBytes: 4n, data });
    place(topology, new Uint8Array(values.buffer), chunk);
    expect(values[7]).toBe(7);
    expect(() => place(topology, new Uint8Array(values.buffer), create(TensorChunkSchema, { name: "x" }))).toThrow("x");
  });
  test("rank by size, infinities first, ties in canonical order, zeros last", () => {
    const values = Float32Array.of(0, -3, 1, Infinity, 3);
    const order = ranking(values);
    expect([...order]).toEqual([3, 1, 4, 2, 0]);
    expect(nonzeroCount(values, order)).toBe(4);
    expect(scale(values, order)).toBe(3);
  });
  test("of 100,000 edges rank at once", () => {
    const values = Float32Array.from({ length: 100_000 }, (_, edge) => Math.sin(edge * 12.9898) * 1000);
    const start = performance.now();
    const order = ranking(values);
    expect(performance.now() - start).toBeLessThan(2000);
    expect(Math.abs(values[order[0]!]!)).toBeGreaterThanOrEqual(Math.abs(values[order[99_999]!]!));
  });
});

group("the picture", () => {
  const topology = tiny();
  const values = Float32Array.from({ length: 13 }, (_, edge) => (edge === 8 ? -2 : edge / 10));
  const order = ranking(values);
  const scene = buildScene(topology, values, order.subarray(0, 3), 2);

  test("puts layers upward and the strongest edge first", () => {
    const at = (name: string) => scene.layout.y[topology.places.findIndex((one) => one.name === name)]!;
    expect(at("Resid Start")).toBeGreaterThan(at("A0.0"));
    expect(at("A0.0")).toBe(at("A0.1"));
    expect(at("MLP 0")).toBeGreaterThan(at("Resid End"));
    expect([scene.edges[0], scene.strength[0], scene.positive[0]]).toEqual([8, 1, 0]);
  });
  test("finds the node, or the edge, under a point", () => {
    const index = topology.places.findIndex(({ name }) => name === "A0.1");
    expect(hit(scene, scene.layout.x[index]!, scene.layout.y[index]!, 5).place).toBe(index);
    const [x, y] = [along(scene.curves, 0, 0.5), along(scene.curves, 1, 0.5)];
    expect(hit(scene, x, y, 5)).toEqual({ edge: 0, place: -1 });
    expect(hit(scene, -500, -500, 5)).toEqual({ edge: -1, place: -1 });
  });
  test("zooms about the pointer", () => {
    const view = fit(scene, 400, 300);
    const next = zoom(view, 2, 100, 50);
    expect((100 - next.x) / next.scale).toBeCloseTo((100 - view.x) / view.scale);
    expect(next.scale).toBeCloseTo(view.scale * 2);
  });
  test("is the same as SVG, with names and exact scores", () => {
    const colours = { page: "#fff", ink: "#000", line: "#888", node: "#eee", mlp: "#efe", plus: "red", minus: "blue" };
    const svg = toSvg(scene, values, colours, "a < b");
    expect(svg.match(/<path /g)).toHaveLength(3);
    expect(svg).toContain("<title>A0.1-&gt;MLP 0: -2</title>");
    expect(svg).toContain("<title>a &lt; b</title>");
  });
  test("of more edges or fewer is the same scene with another count", () => {
    const one = withCount(scene, 1);
    expect([one.count, withCount(scene, 99).count, one.edges]).toEqual([1, 3, scene.edges]);
    const at = (name: string) => topology.places.findIndex((one) => one.name === name);
    expect(["A0.1", "MLP 0", "Resid End"].map((name) => isTouched(one, at(name)))).toEqual([true, true, false]);
    expect(isTouched(withCount(scene, 2), at("Resid End"))).toBe(true); // by MLP 0->Resid End, the second
    expect(ranksAt(scene, at("MLP 0"))).toEqual([0, 1]);
    expect(ranksAt(one, at("MLP 0"))).toEqual([0]);
    expect([rankOf(scene, 12), rankOf(one, 12), rankOf(scene, -1)]).toEqual([1, -1, -1]);
  });
  test("draws edges of about one strength together, the weakest first, each once", () => {
    const many = Float32Array.from({ length: 13 }, (_, edge) => 100 / (edge + 1) ** 2);
    const all = buildScene(topology, many, ranking(many), 100);
    const runs = runsOf(all, ranksBetween(0, 13), 13);
    expect(runs[0]!.end).toBe(13);
    expect(runs.at(-1)!.begin).toBe(0);
    for (let index = 1; index < runs.length; index++) {
      expect(runs[index]!.end).toBe(runs[index - 1]!.begin);
      expect(runs[index]!.width).toBeGreaterThan(runs[index - 1]!.width);
      expect(runs[index]!.opacity).toBeGreaterThan(runs[index - 1]!.opacity);
    }
    expect(runs.length).toBeLessThan(13);
    expect(runsOf(all, ranksBetween(0, 13), 30_000)[0]!.opacity).toBeLessThan(runs[0]!.opacity);
  });
  test("of very many edges is a path for each strength and sign", () => {
    const big = tiny(1000);
    const many = Float32Array.from({ length: big.edgeCount }, (_, edge) => Math.sin(edge));
    const colours = { page: "#fff", ink: "#000", line: "#888", node: "#eee", mlp: "#efe", plus: "red", minus: "blue" };
    const svg = toSvg(buildScene(big, many, ranking(many), 1), many, colours, "many");
    expect(svg.match(/<path /g)!.length).toBeLessThanOrEqual(24);
    expect(svg.match(/M[\d.-]+ [\d.-]+C/g)).toHaveLength(big.edgeCount);
  });
});

test("the heat map has a cell an edge and blanks where there is none", () => {
  const topology = tiny();
  const heat = buildHeat(topology, Float32Array.from({ length: 13 }, (_, edge) => edge));
  expect([heat.rows, heat.columns]).toEqual([8, 4]);
  expect(heat.cells.filter(Number.isNaN)).toHaveLength(32 - 13);
  const image = pixels(heat, 12, "rgb(200, 100, 0)", "rgb(0, 0, 255)", "rgb(0, 0, 0)");
  expect([...image.slice(image.length - 4)]).toEqual([200, 100, 0, 255]);
  expect(parseRgb("rgb(1, 2, 3)")).toEqual([1, 2, 3]);
});

test("a heat map's view stays full of cells, and follows its cursor", () => {
  const topology = tiny();
  const heat = buildHeat(topology, new Float32Array(13));
  const size = { width: 484, height: 294 }; // a plot of 400 by 200
  expect(keepInside({ scale: 0.5, x: 300, y: -20 }, size)).toEqual(ALL);
  expect(keepInside({ scale: 2, x: 999, y: -999 }, size)).toEqual({ scale: 2, x: ALL.x, y: ALL.y - 200 });
  expect(cellAt(heat, ALL, size, ALL.x + 1, ALL.y + 1)).toBe(0);
  expect(cellAt(heat, ALL, size, ALL.x - 1, ALL.y + 1)).toBe(-1);
  expect(cellAt(heat, ALL, size, 483, ALL.y + 199)).toBe(heat.rows * heat.columns - 1);
  const held = zoom(ALL, 3, 200, 50);
  expect(cellAt(heat, held, size, 200, 50)).toBe(cellAt(heat, ALL, size, 200, 50));
  const last = heat.rows * heat.columns - 1;
  const followed = keepInside(showing(heat, { ...ALL, scale: 4 }, size, last), size);
  expect(cellAt(heat, followed, size, 483, ALL.y + 199)).toBe(last);
});

test("the slider reaches every end", () => {
  expect([sizeAt(0, 1519), sizeAt(1, 1519), sizeAt(400, 1519)]).toEqual([0, 1, 1519]);
  expect(sizeAt(stepOf(1519, 1519), 1519)).toBe(1519);
  expect(stepOf(0, 1519)).toBe(0);
});

group("files", () => {
  const topology = tiny();
  const values = Float32Array.from({ length: 13 }, (_, edge) => edge - 6);
  test("of scores are safetensors with AutoCircuit's names", () => {
    const file = toSafetensors(topology, values, { job_id: "job-1" });
    const view = new DataView(file.buffer);
    const length = Number(view.getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
    expect(length % 8).toBe(0);
    expect(header["blocks.0.hook_mlp_in"]).toEqual({ dtype: "F32", shape: [3], data_offsets: [24, 36] });
    expect(header.__metadata__.job_id).toBe("job-1");
    expect(view.getFloat32(8 + length + 24, true)).toBe(0);
    expect(file.length).toBe(8 + length + 13 * 4);
  });
  test("of circuits are MIB's JSON, where in_graph means kept", () => {
    const model = create(ModelSchema, { config: { nLayers: 1, nHeads: 2, nKeyValueHeads: 2, dModel: 8 } });
    expect(mibProblem(topology, model)).toBe("");
    const file = JSON.parse(toMib(topology, model, values, new Set([0, 10])));
    expect(file.cfg).toEqual({ n_layers: 1, n_heads: 2, parallel_attn_mlp: false, d_model: 8 });
    expect(file.edges["input->a0.h0<q>"]).toEqual({ score: -6, in_graph: true });
    expect(file.edges["m0->logits"].in_graph).toBe(false);
    expect(file.nodes).toEqual({
      input: { in_graph: true }, "a0.h0": { in_graph: true }, "a0.h1": { in_graph: false },
      m0: { in_graph: false }, logits: { in_graph: true },
    });
    const grouped = create(ModelSchema, { config: { nLayers: 1, nHeads: 2, nKeyValueHeads: 1, dModel: 8 } });
    expect(mibProblem(topology, grouped)).toContain("expand KV heads");
  });
});
