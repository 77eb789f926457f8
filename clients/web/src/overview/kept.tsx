// SPDX-License-Identifier: Apache-2.0
// What stays on the device between calls: ablations, which keep their model loaded, and KV caches.
import { useSignal } from "@preact/signals";
import { describe } from "../lib/errors.js";
import { bytes, clock } from "../lib/format.js";
import { ablationHandle, fetchKept, kvCacheHandle } from "../lib/kept.js";
import { usePolled } from "../lib/poll.js";
import { QUICK, caches } from "../lib/rpc.js";
import { Notice } from "../ui/notice.js";

export function Kept() {
  const error = useSignal("");
  const polled = usePolled(fetchKept, 3);
  const remove = async (work: () => Promise<unknown>) => {
    error.value = "";
    try {
      await work();
      polled.refresh();
    } catch (failure) {
      error.value = describe(failure);
    }
  };
  const now = polled.value.value;
  if (!now || now.ablations.length + now.kvCaches.length === 0) return null;
  const rows = [
    ...now.ablations.map((one) => ({
      ...ablationHandle(one), kind: "Ablation", size: one.bytes, made: one.createdMs,
      users: one.jobIds.length + one.callCount, remove: () => caches.deleteAblation({ ablationId: one.ablationId }, QUICK),
    })),
    ...now.kvCaches.map((one) => ({
      ...kvCacheHandle(one), kind: "KV cache", size: one.bytes, made: one.createdMs,
      users: one.userIds.length + one.callCount, remove: () => caches.deleteKvCache({ kvCacheId: one.kvCacheId }, QUICK),
    })),
  ];
  return (
    <section aria-labelledby="kept-title" class="wide">
      <h2 id="kept-title">Kept between calls</h2>
      {(error.value || polled.error.value) && <Notice kind="error">{error.value || polled.error.value}</Notice>}
      <table class="list">
        <thead>
          <tr>
            <th scope="col">Kind</th>
            <th scope="col">What</th>
            <th scope="col">Of what</th>
            <th scope="col" class="num">Size</th>
            <th scope="col" class="num">In use by</th>
            <th scope="col">Made</th>
            <th scope="col"><span class="hidden">Actions</span></th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.id}>
              <th scope="row">{row.kind}</th>
              <td>{row.label}</td>
              <td>{row.help}</td>
              <td class="num">{bytes(row.size)}</td>
              <td class="num">{row.users}</td>
              <td>{clock(Number(row.made))}</td>
              <td class="actions">
                <button type="button" aria-label={`Delete ${row.id}`} onClick={() => void remove(row.remove)}>Delete</button>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
