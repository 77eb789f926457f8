// SPDX-License-Identifier: Apache-2.0
// The hooks of a tab, by model, so that the view's next graph has them: after a reload, after another
// view, and when the graph was deleted meanwhile.
import { fromJson, toJson, type JsonValue } from "@bufbuild/protobuf";
import { InterventionSchema, type Hook } from "#gen/ablate/v1/hooks_pb.js";
import { QUICK, run } from "../lib/rpc.js";

const key = (modelId: string) => `ablate-hooks ${modelId}`;

export function keepHooks(modelId: string, hooks: Hook[]): void {
  const list = hooks.flatMap(({ intervention }) => (intervention ? [toJson(InterventionSchema, intervention)] : []));
  try {
    sessionStorage.setItem(key(modelId), JSON.stringify(list));
  } catch {
    return; // storage is switched off or full: they are the graph's alone then
  }
}

/** Adds them to a new graph; what the daemon refuses is left out. */
export async function restoreHooks(modelId: string, graphId: string): Promise<void> {
  const kept = JSON.parse(sessionStorage.getItem(key(modelId)) ?? "[]") as JsonValue[];
  for (const intervention of kept) {
    try {
      await run.addHook({ graphId, intervention: fromJson(InterventionSchema, intervention) }, QUICK);
    } catch {
      continue;
    }
  }
}
