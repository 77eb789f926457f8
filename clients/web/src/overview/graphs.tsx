// SPDX-License-Identifier: Apache-2.0
// Graphs over resident models: a model cannot be unloaded while it has one. Each view that patches by
// hand has a graph of its own, which goes with it.
import { useSignal } from "@preact/signals";
import { GraphKind, type GraphOptions } from "#gen/ablate/v1/common_pb.js";
import { describe } from "../lib/errors.js";
import { count, duration } from "../lib/format.js";
import { usePolled } from "../lib/poll.js";
import { QUICK, graphs, models, run } from "../lib/rpc.js";
import { GraphHooks } from "../ui/graphhooks.js";
import { Notice } from "../ui/notice.js";

export function optionWords(options: GraphOptions | undefined): string {
  const words = [
    options?.kind === GraphKind.SIMPLE ? "nodes" : "edges",
    options?.mergeQkv ? "q, k, v merged" : "",
    options?.seqLen ? `${options.seqLen} positions` : "",
    options?.expandKvHeads ? "KV heads expanded" : "",
    options?.kvCacheIds.length ? "behind a KV cache" : "",
  ];
  return words.filter(Boolean).join(", ");
}

export function Graphs() {
  const error = useSignal("");
  const polled = usePolled(async (signal) => {
    const options = { ...QUICK, signal };
    const [list, resident] = await Promise.all([graphs.listGraphs({}, options), models.listModels({}, options)]);
    const names = new Map(resident.models.map(({ modelId, name }) => [modelId, name]));
    return list.graphs.map((graph) => ({ graph, model: names.get(graph.modelId) ?? graph.modelId }));
  }, 2);
  const attempt = async (work: () => Promise<unknown>) => {
    error.value = "";
    try {
      await work();
      polled.refresh();
    } catch (failure) {
      error.value = describe(failure);
    }
  };
  const list = polled.value.value;
  if (!list || list.length === 0) return null;
  return (
    <section aria-labelledby="graphs-title" class="wide">
      <h2 id="graphs-title">Graphs</h2>
      {(error.value || polled.error.value) && <Notice kind="error">{error.value || polled.error.value}</Notice>}
      <table class="list">
        <thead>
          <tr>
            <th scope="col">Graph</th>
            <th scope="col">Model</th>
            <th scope="col">Ablates</th>
            <th scope="col" class="num">Edges</th>
            <th scope="col">Hooks</th>
            <th scope="col"><span class="hidden">Actions</span></th>
          </tr>
        </thead>
        <tbody>
          {list.map(({ graph, model }) => (
            <tr key={graph.graphId}>
              <th scope="row">{graph.graphId}</th>
              <td>{model}</td>
              <td>
                {optionWords(graph.options)}
                {graph.idleTimeoutMs > 0n && <small class="quiet">; goes when unused for {duration(graph.idleTimeoutMs)}</small>}
              </td>
              <td class="num">{count(graph.edgeCount)}</td>
              <td>{graph.hookCount > 0 ? <GraphHooks graphId={graph.graphId} /> : <span class="quiet">none</span>}</td>
              <td class="actions">
                {graph.hookCount > 0 && (
                  <button type="button" aria-label={`Remove the hooks of ${graph.graphId}`}
                          onClick={() => void attempt(() => run.resetHooks({ graphId: graph.graphId }, QUICK))}>
                    Remove hooks
                  </button>
                )}
                <button type="button" aria-label={`Delete ${graph.graphId}`}
                        onClick={() => void attempt(() => graphs.deleteGraph({ graphId: graph.graphId }, QUICK))}>
                  Delete
                </button>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
