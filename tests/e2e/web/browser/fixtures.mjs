// SPDX-License-Identifier: Apache-2.0
// What the tests of the dashboard share: a daemon with tiny-ioi, its answers by another way than the
// page's (gRPC-web from Node, or the Python client), and a page that must not throw.
//
// `test` uses one daemon a worker; `alone` one of the test's own, which it may end and restart.
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { test as base, expect } from "@playwright/test";
import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { AdminService } from "../build/gen/ablate/v1/admin_pb.js";
import { DatasetService } from "../build/gen/ablate/v1/dataset_pb.js";
import { EvaluateService } from "../build/gen/ablate/v1/evaluate_pb.js";
import { GraphService } from "../build/gen/ablate/v1/graph_pb.js";
import { WeightMode, ModelService } from "../build/gen/ablate/v1/model_pb.js";
import { PruneService } from "../build/gen/ablate/v1/prune_pb.js";
import { RunService } from "../build/gen/ablate/v1/run_pb.js";
import { ioiJson, root, spawnDaemon } from "../test/daemon.mjs";

export { expect };

export const data = join(root, "tests", "golden", "data");
export const ioiPath = join(data, "prompts", "ioi_abba.json");

export const EAP = { batchSize: 4, algorithm: { case: "eap", value: {} } };
export const EAP_IG = { batchSize: 4, algorithm: { case: "eapIg", value: {} } };

/** The daemon's services, as Node calls them. */
export class Api {
  constructor(url) {
    const transport = createGrpcWebTransport({ baseUrl: url });
    const services = {
      admin: AdminService, datasets: DatasetService, evaluate: EvaluateService, graphs: GraphService,
      models: ModelService, prune: PruneService, run: RunService,
    };
    for (const [name, service] of Object.entries(services)) this[name] = createClient(service, transport);
  }

  /** With TransformerLens's weights, as the dashboard loads it. */
  async load(name = "tiny-ioi") {
    let model;
    const weights = { case: "mode", value: WeightMode.TL };
    for await (const progress of this.models.loadModel({ name, weights })) model = progress.model ?? model;
    return model;
  }

  async upload(json = ioiJson(data), name = "ioi") {
    return (await this.datasets.uploadDataset({ name, json })).dataset;
  }

  async graph(modelId, options = {}) {
    return (await this.graphs.createGraph({ modelId, options })).graph;
  }

  /** tiny-ioi, a graph over it and the prompts: {model, graph, dataset}. */
  async prepare() {
    const [model, dataset] = [await this.load(), await this.upload()];
    return { model, dataset, graph: await this.graph(model.modelId) };
  }

  async submit({ graph, dataset }, spec) {
    return (await this.prune.submitJob({ spec: { ...spec, graphId: graph.graphId, datasetId: dataset.datasetId } })).job;
  }

  /**
   * Submits a job that lasts longer than any test, and has scores early: one mask point of one prompt a
   * step, scores after each of very many prompts.
   */
  async submitLong({ graph }) {
    const { prompts } = JSON.parse(await readFile(ioiPath, "utf8"));
    const json = Buffer.from(JSON.stringify({ prompts: Array(8).fill(prompts).flat() }));
    const algorithm = { case: "maskGradient", value: { at: { case: "integratedGradSamples", value: 100 } } };
    return this.submit({ graph, dataset: await this.upload(json, "long") }, { batchSize: 1, algorithm });
  }

  /** Submits, and waits for the end. */
  async finish(prepared, spec) {
    const { jobId } = await this.submit(prepared, spec);
    for await (const _ of this.prune.watchJob({ jobId }));
    return (await this.prune.getJob({ jobId })).job;
  }

  /** A job's score tensors by module, as bytes. */
  async scores(jobId) {
    const tensors = new Map();
    for await (const { chunk } of this.prune.getPruneScores({ jobId })) {
      tensors.set(chunk.name, Buffer.concat([tensors.get(chunk.name) ?? Buffer.alloc(0), chunk.data]));
    }
    return tensors;
  }

  /** The edges with the largest |score|, each {value, edge}: edge is its place in the tensors end to end. */
  async strongest(jobId, count) {
    const { job } = await this.prune.getJob({ jobId });
    const { graph } = await this.graphs.getGraph({ graphId: job.spec.graphId });
    const tensors = await this.scores(jobId);
    const bytes = Buffer.concat(graph.modules.map(({ name }) => tensors.get(name)));
    const all = Array.from({ length: bytes.length / 4 }, (_, edge) => ({ edge, value: bytes.readFloatLE(edge * 4) }));
    return all.sort((a, b) => Math.abs(b.value) - Math.abs(a.value) || a.edge - b.edge).slice(0, count);
  }

  /** What metrics say of a job's circuit of one size. */
  async measured(jobId, edgeCount, metrics) {
    const request = { sweep: { jobId, edgeCounts: [BigInt(edgeCount)] }, metrics };
    let values;
    for await (const row of this.evaluate.evaluateCircuits(request)) if (!row.progress) values = row.values;
    return values.map(({ value }) => value);
  }
}

/** A view's address. */
export const address = (view, params = {}) => `/#/${view}?${new URLSearchParams(params)}`;

/** Runs Python with the package `ablate` against the daemon; the last line it prints is JSON. */
export async function python(daemon, script) {
  const { stdout } = await promisify(execFile)(join(root, ".venv", "bin", "python"), ["-c", script], {
    env: { ...process.env, ABLATE_HOST: daemon.grpc },
  });
  return JSON.parse(stdout.trim().split("\n").at(-1));
}

/** What a button of "Take away" hands over: {name, bytes}. */
export async function taken(page, button) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: button }).click()]);
  return { name: download.suggestedFilename(), bytes: await readFile(await download.path()) };
}

/** As lib/format.ts writes a score. */
export function shown(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  return (value < 0 ? "−" : "") + (size >= 1e-3 && size < 1e5 ? size.toPrecision(4) : size.toExponential(2));
}

async function start(options = {}) {
  const flags = ["--web-root", join(root, "clients", "web", "dist")];
  const daemon = await spawnDaemon({ roots: [join(data, "models")], flags, stdio: "ignore", ...options });
  return Object.assign(daemon, { api: new Api(daemon.url) });
}

export const test = base.extend({
  shared: [async ({}, use) => {
    const daemon = await start();
    Object.assign(daemon, await daemon.api.prepare());
    await use(daemon);
    await daemon.stop();
  }, { scope: "worker" }],
  daemon: async ({ shared }, use) => use(shared),
  baseURL: async ({ daemon }, use) => use(daemon.url),
  page: async ({ page }, use) => {
    const thrown = [];
    page.on("pageerror", (error) => thrown.push(error.stack ?? String(error)));
    await use(page);
    expect(thrown, "the page threw").toEqual([]);
  },
});

/**
 * A wire to the daemon that can be cut: the page's address is `wire.url`, and `wire.cut()` breaks every
 * connection there is, as a bad network does; new ones are made as if nothing had been.
 */
export async function wireTo(daemon) {
  const sockets = new Set();
  const { hostname, port } = new URL(daemon.url);
  const server = createServer((near) => {
    const far = connect(Number(port), hostname);
    for (const [one, other] of [[near, far], [far, near]]) {
      sockets.add(one);
      one.on("close", () => {
        sockets.delete(one);
        other.destroy();
      });
      one.on("error", () => {});
      one.pipe(other);
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const cut = () => sockets.forEach((socket) => socket.destroy());
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    cut,
    close: () => {
      server.close();
      cut();
    },
  };
}

/** A daemon of the test's own: `daemon.restart()` begins anew at the same addresses. */
export const alone = test.extend({
  /** Its model roots. */
  roots: [[join(data, "models")], { option: true }],
  daemon: async ({ roots }, use) => {
    const first = await start({ roots });
    let current = first;
    const daemon = {
      url: first.url, grpc: first.grpc, api: first.api,
      get process() { return current.process; },
      stop: (signal) => current.stop(signal),
      restart: async () => {
        current = await start({ roots, listen: first.grpc, http: new URL(first.url).host });
      },
    };
    await use(daemon);
    if (current.process.exitCode === null && current.process.signalCode === null) await current.stop();
  },
});
