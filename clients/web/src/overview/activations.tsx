// SPDX-License-Identifier: Apache-2.0
// Activations that stay on the device: what a graph's capturing hooks kept of its last run, and what
// single passes were asked to keep.
import { useSignal } from "@preact/signals";
import { describe } from "../lib/errors.js";
import { bytes, clock } from "../lib/format.js";
import { usePolled } from "../lib/poll.js";
import { QUICK, caches, graphs, run } from "../lib/rpc.js";
import { Notice } from "../ui/notice.js";

const NAMES_MAX = 3;

/** Kept activations, those of graphs first, each with who keeps them. */
async function fetchActivations(signal: AbortSignal) {
  const options = { ...QUICK, signal };
  const [{ activations }, { graphs: list }] = await Promise.all([caches.listActivations({}, options), graphs.listGraphs({}, options)]);
  const hooked = activations.length === 0 ? [] : list.filter(({ hookCount }) => hookCount > 0);
  const keepers = new Map<string, string>();
  await Promise.all(hooked.map(async ({ graphId }) => {
    for (const hook of (await run.listHooks({ graphId }, options)).hooks) {
      if (hook.activationsId !== "") keepers.set(hook.activationsId, `${graphId}, ${hook.hookId}: its last run`);
    }
  }));
  return activations
    .map((one) => ({ ...one, keeper: keepers.get(one.activationsId) ?? "" }))
    .sort((a, b) => Number(a.keeper === "") - Number(b.keeper === "") || a.keeper.localeCompare(b.keeper));
}

function tensorWords(tensors: { name: string; shape: bigint[] }[]): string {
  const named = tensors.slice(0, NAMES_MAX).map(({ name, shape }) => `${name} [${shape.join(", ")}]`);
  return named.join(", ") + (tensors.length > NAMES_MAX ? ` and ${tensors.length - NAMES_MAX} more` : "");
}

export function KeptActivations() {
  const error = useSignal("");
  const polled = usePolled(fetchActivations, 3);
  const release = async (activationsId: string) => {
    error.value = "";
    try {
      await caches.deleteActivations({ activationsId }, QUICK);
      polled.refresh();
    } catch (failure) {
      error.value = describe(failure);
    }
  };
  const list = polled.value.value;
  if (!list || list.length === 0) return null;
  const total = list.reduce((sum, one) => sum + Number(one.bytes), 0);
  return (
    <section aria-labelledby="activations-title" class="wide">
      <h2 id="activations-title">Captured activations <small>{bytes(total)} in all</small></h2>
      {(error.value || polled.error.value) && <Notice kind="error">{error.value || polled.error.value}</Notice>}
      <table class="list">
        <thead>
          <tr>
            <th scope="col">Activations</th>
            <th scope="col">Of</th>
            <th scope="col">Tensors</th>
            <th scope="col" class="num">Size</th>
            <th scope="col">Made</th>
            <th scope="col"><span class="hidden">Actions</span></th>
          </tr>
        </thead>
        <tbody>
          {list.map((one) => (
            <tr key={one.activationsId}>
              <th scope="row">{one.activationsId}</th>
              <td>{one.keeper || `a pass of ${one.modelId}`}</td>
              <td title={one.tensors.map(({ name }) => name).join("\n")}>{tensorWords(one.tensors)}</td>
              <td class="num">{bytes(one.bytes)}</td>
              <td>{clock(Number(one.createdMs))}</td>
              <td class="actions">
                <button type="button" aria-label={`Release ${one.activationsId}`} onClick={() => void release(one.activationsId)}>
                  Release
                </button>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
