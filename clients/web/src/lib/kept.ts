// SPDX-License-Identifier: Apache-2.0
// What is kept on the server between calls, in words for those who choose among it.
import { AblationType } from "#gen/ablate/v1/common_pb.js";
import type { KvCache, ResidentAblation } from "#gen/ablate/v1/cache_pb.js";
import type { Handle } from "../forms/schema.js";
import { bytes, counted } from "./format.js";
import { QUICK, caches } from "./rpc.js";

export interface Kept {
  ablations: ResidentAblation[];
  kvCaches: KvCache[];
}

export async function fetchKept(signal: AbortSignal): Promise<Kept> {
  const options = { ...QUICK, signal };
  const [{ ablations }, { kvCaches }] = await Promise.all([caches.listAblations({}, options), caches.listKvCaches({}, options)]);
  return { ablations, kvCaches };
}

export function ablationHandle(ablation: ResidentAblation): Handle {
  const of = ablation.datasetId ? `${counted(ablation.promptCount, "pair")} of ${ablation.datasetId}` : "prompts";
  const rows = ablation.rowCount === 1 ? "a mean, for batches of any size" : `a row for each of ${ablation.rowCount} prompts`;
  return {
    id: ablation.ablationId,
    label: `${ablation.ablationId}: ${AblationType[ablation.type]}${ablation.fromClean ? ", from clean" : ""}`,
    help: `Of ${of}, for ${counted(ablation.seqLen, "position")}` +
      `${ablation.prefixLength > 0 ? ` behind a prefix of ${ablation.prefixLength}` : ""}: ${rows}. ${bytes(ablation.bytes)}.`,
  };
}

export function kvCacheHandle(cache: KvCache): Handle {
  return {
    id: cache.kvCacheId,
    label: `${cache.kvCacheId}: ${counted(cache.tokens.length, "token")}`,
    help: `${bytes(cache.bytes)}, used ${counted(cache.hits, "time")}.`,
  };
}
