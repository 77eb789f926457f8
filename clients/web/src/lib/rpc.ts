// SPDX-License-Identifier: Apache-2.0
// The daemon that serves this page, over gRPC-web: one transport, a client a service.
import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { AdminService } from "#gen/ablate/v1/admin_pb.js";
import { CacheService } from "#gen/ablate/v1/cache_pb.js";
import { DatasetService } from "#gen/ablate/v1/dataset_pb.js";
import { EvaluateService } from "#gen/ablate/v1/evaluate_pb.js";
import { GraphService } from "#gen/ablate/v1/graph_pb.js";
import { MaskService } from "#gen/ablate/v1/mask_pb.js";
import { ModelService } from "#gen/ablate/v1/model_pb.js";
import { PruneService } from "#gen/ablate/v1/prune_pb.js";
import { RunService } from "#gen/ablate/v1/run_pb.js";

const transport = createGrpcWebTransport({ baseUrl: globalThis.location?.origin ?? "" });

export const admin = createClient(AdminService, transport);
export const caches = createClient(CacheService, transport);
export const datasets = createClient(DatasetService, transport);
export const evaluate = createClient(EvaluateService, transport);
export const graphs = createClient(GraphService, transport);
export const masks = createClient(MaskService, transport);
export const models = createClient(ModelService, transport);
export const prune = createClient(PruneService, transport);
export const run = createClient(RunService, transport);

/** For what a page says when it goes: such a request is sent though nobody waits for the answer. */
export const leaving = createClient(GraphService, createGrpcWebTransport({
  baseUrl: globalThis.location?.origin ?? "",
  fetch: (input, init) => fetch(input, { ...init, keepalive: true }),
}));

/** The protocol that this page was built for; GetServerInfo says what the daemon speaks. */
export const PROTOCOL = "ablate.v1";

/** Calls that should be answered at once are given up after this long. */
export const QUICK = { timeoutMs: 8000 };
