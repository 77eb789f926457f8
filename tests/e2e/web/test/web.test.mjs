// SPDX-License-Identifier: Apache-2.0
// The HTTP port as a browser sees it: connect-web over gRPC-web, and the bytes underneath.
import assert from "node:assert/strict";
import { request as httpRequest } from "node:http";
import { after, before, test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { ErrorInfoSchema } from "../build/gen/google/rpc/error_details_pb.js";
import {
  AdminService, GetServerInfoRequestSchema, GetServerInfoResponseSchema,
} from "../build/gen/ablate/v1/admin_pb.js";
import { DatasetService } from "../build/gen/ablate/v1/dataset_pb.js";
import { GraphService } from "../build/gen/ablate/v1/graph_pb.js";
import { ModelService } from "../build/gen/ablate/v1/model_pb.js";
import { JobState, PruneService } from "../build/gen/ablate/v1/prune_pb.js";
import { RunService } from "../build/gen/ablate/v1/run_pb.js";
import { ioiJson, startDaemon } from "./daemon.mjs";

let daemon, admin, models, graphs, datasets, prune, run, model, graph, dataset;

before(async () => {
  daemon = await startDaemon();
  const transport = createGrpcWebTransport({ baseUrl: daemon.url });
  [admin, models, graphs, datasets, prune, run] = [
    AdminService, ModelService, GraphService, DatasetService, PruneService, RunService,
  ].map((service) => createClient(service, transport));
});
after(async () => daemon?.stop());

async function prepare() {
  if (dataset) return;
  for await (const progress of models.loadModel({ name: "tiny-ioi" })) {
    if (progress.model) model = progress.model;
  }
  graph = (await graphs.createGraph({ modelId: model.modelId })).graph;
  dataset = (await datasets.uploadDataset({ name: "ioi", json: ioiJson() })).dataset;
}

const longJob = () => ({
  graphId: graph.graphId,
  datasetId: dataset.datasetId,
  batchSize: 1,
  // One mask point of one prompt a step: far more steps than any test lasts.
  algorithm: { case: "maskGradient", value: { at: { case: "integratedGradSamples", value: 1000 } } },
});

// One HTTP exchange with every header in our hands, which fetch does not allow.
function exchange(method, path, headers, body) {
  return new Promise((done, failed) => {
    const outgoing = httpRequest(daemon.url + path, { method, headers, agent: false }, (response) => {
      const pieces = [];
      response.on("data", (piece) => pieces.push(piece));
      response.on("end", () =>
        done({ status: response.statusCode, headers: response.headers, body: Buffer.concat(pieces) }),
      );
    });
    outgoing.on("error", failed);
    outgoing.end(body);
  });
}

function frame(message) {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

function frames(bytes) {
  const result = [];
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at + 1);
    result.push({ flags: bytes[at], data: bytes.subarray(at + 5, at + 5 + length) });
    at += 5 + length;
  }
  return result;
}

const infoPath = "/ablate.v1.AdminService/GetServerInfo";
const infoBody = () => frame(Buffer.from(toBinary(GetServerInfoRequestSchema, create(GetServerInfoRequestSchema))));

test("a unary call answers", async () => {
  const info = await admin.getServerInfo({});
  assert.equal(info.protocol, "ablate.v1");
  const { models: files } = await models.listModelFiles({});
  assert.ok(files.some((file) => file.name === "tiny-ioi" && file.problem === ""));
});

test("loading a model streams progress and ends with the model", async () => {
  await prepare();
  assert.equal(model.config.nLayers, 4);
  const { tokens } = await models.toTokens({ modelId: model.modelId, texts: ["When Mary"] });
  // JavaScript has a toString of its own, so the generated one is called toString$.
  const { text } = await models.toString$({ modelId: model.modelId, tokens: tokens[0] });
  assert.match(text, /When Mary$/);
});

test("prune scores arrive while they form, then whole", async () => {
  await prepare();
  const spec = { graphId: graph.graphId, datasetId: dataset.datasetId, batchSize: 4, topK: 5 };
  spec.algorithm = { case: "eap", value: {} };
  const parts = [];
  for await (const { part } of prune.streamPruneScores({ spec })) parts.push(part);
  assert.equal(parts[0].case, "created");
  assert.equal(parts.at(-1).case, "ended");
  assert.equal(parts.at(-1).value.state, JobState.SUCCEEDED);
  const events = parts.filter((part) => part.case === "event").map((part) => part.value);
  assert.deepEqual(events.map((event) => Number(event.sequence)), events.map((_, index) => index + 1));
  const running = events.filter((event) => event.doneUnits > 0n && event.doneUnits < event.totalUnits);
  assert.ok(running.length >= 3, `only ${running.length} events with a part of the work done`);
  assert.ok(running.every((event) => event.topEdges.length === 5));
  const bytes = parts.filter((part) => part.case === "scores")
    .reduce((sum, part) => sum + part.value.data.length, 0);
  assert.equal(bytes, Number(graph.edgeCount) * 4);
});

test("all scores come behind each event for those who ask", async () => {
  await prepare();
  const spec = { graphId: graph.graphId, datasetId: dataset.datasetId, batchSize: 4 };
  spec.algorithm = { case: "eap", value: {} };
  const whole = [];
  let left = 0;
  let bytes = 0;
  for await (const { part } of prune.streamPruneScores({ spec, withScores: true })) {
    if (part.case === "event") {
      assert.equal(left, 0, "an event before the last one's scores");
      left = part.value.scoreTensorCount;
      bytes = 0;
    } else if (part.case === "scores" && left > 0) {
      bytes += part.value.data.length;
      left -= part.value.isLast ? 1 : 0;
      if (left === 0) whole.push(bytes);
    }
  }
  assert.ok(whole.length >= 4, `scores of ${whole.length} events`);
  assert.ok(whole.every((each) => each === Number(graph.edgeCount) * 4), String(whole));
});

test("an error has its code, its sentence and its reason", async () => {
  const error = await models.getModel({ modelId: "no-such-model" }).then(
    () => assert.fail("it was found"),
    (reason) => ConnectError.from(reason),
  );
  assert.equal(error.code, Code.NotFound);
  assert.match(error.rawMessage, /no-such-model/);
  const [info] = error.findDetails(ErrorInfoSchema);
  assert.deepEqual([info.reason, info.domain], ["MODEL_UNKNOWN", "ablate"]);
});

test("an error in a stream arrives too", async () => {
  await assert.rejects(
    async () => {
      for await (const _ of models.loadModel({ name: "../../etc" })) assert.fail("it loads");
    },
    (error) => error instanceof ConnectError && error.findDetails(ErrorInfoSchema).length === 1,
  );
});

test("aborting the stream cancels the job on the daemon", async () => {
  await prepare();
  const abort = new AbortController();
  let jobId;
  await assert.rejects(
    async () => {
      for await (const { part } of prune.streamPruneScores({ spec: longJob() }, { signal: abort.signal })) {
        if (part.case === "created") jobId = part.value.jobId;
        if (part.case === "event" && part.value.doneUnits > 0n) abort.abort();
      }
    },
    (error) => ConnectError.from(error).code === Code.Canceled,
  );
  let last;
  for await (const { event } of prune.watchJob({ jobId })) last = event;
  assert.equal(last.state, JobState.CANCELLED);
  assert.ok(last.doneUnits < last.totalUnits);
});

test("a pass answers while somebody's long job runs", async () => {
  await prepare();
  const { job } = await prune.submitJob({ spec: longJob() });
  const { tokens } = await models.toTokens({ modelId: model.modelId, texts: ["When Mary"] });
  const ids = Int32Array.from(tokens[0].ids);
  const response = await run.forward({
    target: { case: "modelId", value: model.modelId },
    prompts: { input: { case: "tokens", value: {
      dtype: 4, shape: [1n, BigInt(ids.length)], data: new Uint8Array(ids.buffer),
    } } },
    topK: 3,
  });
  assert.equal(response.top[0].tokens.length, 3);
  const { job: still } = await prune.getJob({ jobId: job.jobId });
  assert.ok([JobState.QUEUED, JobState.RUNNING].includes(still.state));
  await prune.cancelJob({ jobId: job.jobId });
});

test("the binary format is frames, the last one the trailers", async () => {
  const headers = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1" };
  const response = await exchange("POST", infoPath, headers, infoBody());
  assert.equal(response.status, 200);
  const [message, trailers] = frames(response.body);
  assert.equal(fromBinary(GetServerInfoResponseSchema, message.data).protocol, "ablate.v1");
  assert.equal(trailers.flags, 0x80);
  assert.match(trailers.data.toString(), /grpc-status: ?0\r\n/);
});

test("the text format is the same in base64", async () => {
  const headers = { "content-type": "application/grpc-web-text", accept: "application/grpc-web-text" };
  const response = await exchange("POST", infoPath, headers, infoBody().toString("base64"));
  assert.equal(response.status, 200);
  assert.match(response.headers["content-type"], /^application\/grpc-web-text/);
  // Base64 piece by piece: padding may stand in the middle.
  const pieces = response.body.toString("latin1").match(/[^=]+=*/g) ?? [];
  const [message, trailers] = frames(Buffer.concat(pieces.map((piece) => Buffer.from(piece, "base64"))));
  assert.equal(fromBinary(GetServerInfoResponseSchema, message.data).protocol, "ablate.v1");
  assert.match(trailers.data.toString(), /grpc-status: ?0\r\n/);
});

test("a page of this machine may ask; the preflight says what it may send and read", async () => {
  const origin = "http://localhost:5173";
  const asked = "content-type,x-grpc-web,x-user-agent,grpc-timeout,authorization";
  const preflight = await exchange("OPTIONS", infoPath, {
    origin,
    "access-control-request-method": "POST",
    "access-control-request-headers": asked,
  });
  assert.ok([200, 204].includes(preflight.status), `status ${preflight.status}`);
  assert.equal(preflight.headers["access-control-allow-origin"], origin);
  const allowed = preflight.headers["access-control-allow-headers"].toLowerCase();
  for (const name of asked.split(",")) assert.ok(allowed.includes(name), `${name} in ${allowed}`);
  const headers = { origin, "content-type": "application/grpc-web+proto" };
  const response = await exchange("POST", infoPath, headers, infoBody());
  assert.equal(response.headers["access-control-allow-origin"], origin);
  const exposed = response.headers["access-control-expose-headers"].toLowerCase();
  for (const name of ["grpc-status", "grpc-message", "grpc-status-details-bin"]) {
    assert.ok(exposed.includes(name), `${name} in ${exposed}`);
  }
});

test("a page from elsewhere may not", async () => {
  const origin = "https://evil.example";
  const headers = { origin, "access-control-request-method": "POST" };
  const preflight = await exchange("OPTIONS", infoPath, headers);
  assert.equal(preflight.headers["access-control-allow-origin"], undefined);
  const post = { origin, "content-type": "application/grpc-web+proto" };
  const response = await exchange("POST", infoPath, post, infoBody());
  assert.equal(response.headers["access-control-allow-origin"], undefined);
});

// No body, half a frame, another type, no such method, a client stream, no base64.
test("what is not a call is refused", async () => {
  const grpcWeb = { "content-type": "application/grpc-web+proto" };
  const failed = (response) =>
    response.status >= 400 || !/grpc-status: ?0\r\n/.test(response.body.toString("latin1") + "\r\n") &&
      response.headers["grpc-status"] !== "0";
  for (const [path, headers, body] of [
    [infoPath, grpcWeb, ""],
    [infoPath, grpcWeb, Buffer.from([0, 0, 0, 1, 0, 1])],
    [infoPath, { "content-type": "application/json" }, "{}"],
    ["/ablate.v1.AdminService/NoSuchMethod", grpcWeb, infoBody()],
    ["/ablate.v1.ModelService/UploadModel", grpcWeb, infoBody()],
    [infoPath, { "content-type": "application/grpc-web-text" }, "%%%%"],
  ]) {
    const response = await exchange("POST", path, headers, body);
    assert.ok(failed(response), `${path} ${headers["content-type"]} ${body}: ${response.status}`);
  }
  assert.equal((await admin.getServerInfo({})).protocol, "ablate.v1");
});

test("a message over the limit is refused and the daemon lives on", async () => {
  const { limits } = await admin.getServerInfo({});
  const json = new Uint8Array(Number(limits.messageBytes) + 1);
  const error = await datasets.uploadDataset({ name: "big", json }).then(
    () => assert.fail("it was taken"),
    (reason) => reason,
  );
  // The daemon may close the connection before all of it was sent: then it is the socket that says so.
  if (error instanceof ConnectError && error.code !== Code.Unknown) {
    assert.ok([Code.ResourceExhausted, Code.Unavailable].includes(error.code), `${error}`);
  }
  assert.equal((await admin.getServerInfo({})).protocol, "ablate.v1");
});

test("metrics are served as text", async () => {
  const response = await exchange("GET", "/metrics", {});
  assert.equal(response.status, 200);
  assert.match(response.headers["content-type"], /^text\/plain/);
  assert.match(response.body.toString(), /^ablate_build_info\{.*\} 1$/m);
});

test("a graph with an idle time-out goes when nobody names it, and a job keeps it", async () => {
  await prepare();
  const make = async (idleTimeoutMs) => (await graphs.createGraph({ modelId: model.modelId, idleTimeoutMs })).graph;
  const known = async ({ graphId }) => (await graphs.listGraphs({})).graphs.some((one) => one.graphId === graphId);
  for (const bad of [-1n, 999n, 86_400_001n]) {
    await assert.rejects(make(bad), (error) => {
      assert.equal(ConnectError.from(error).findDetails(ErrorInfoSchema)[0].reason, "IDLE_TIMEOUT_INVALID");
      return true;
    });
  }
  const [left, named, busy, lasting] = [await make(1000n), await make(4000n), await make(1000n), await make(0n)];
  assert.equal(left.idleTimeoutMs, 1000n);
  const { job } = await prune.submitJob({ spec: { ...longJob(), graphId: busy.graphId } });
  while (await known(left)) await graphs.getGraph({ graphId: named.graphId });
  assert.deepEqual([await known(named), await known(busy), await known(lasting)], [true, true, true]);
  await graphs.deleteGraph({ graphId: busy.graphId }); // as soon as it can be
  assert.equal(await known(busy), true);
  await prune.cancelJob({ jobId: job.jobId });
  while (await known(busy)) await new Promise((done) => setTimeout(done, 50));
  await graphs.deleteGraph({ graphId: named.graphId });
  await graphs.deleteGraph({ graphId: lasting.graphId });
});
