// SPDX-License-Identifier: Apache-2.0
import type { ResidentBytes } from "#gen/ablate/v1/admin_pb.js";
import { server } from "../lib/connection.js";
import { bytes, percent } from "../lib/format.js";

/** What is held, largest first. */
export function kindsOf(resident: ResidentBytes | undefined): [string, number][] {
  if (resident === undefined) return [];
  const kinds: [string, bigint][] = [
    ["weights", resident.weights],
    ["KV caches", resident.kvCaches],
    ["activations", resident.activations],
    ["ablations", resident.ablations],
    ["graphs", resident.graphs],
    ["jobs' scores", resident.jobs],
    ["datasets", resident.datasets],
  ];
  return kinds
    .map(([name, size]): [string, number] => [name, Number(size)])
    .sort((a, b) => b[1] - a[1]);
}

export function Memory() {
  const kinds = kindsOf(server.value?.residentBytes);
  const total = kinds.reduce((sum, [, size]) => sum + size, 0);
  return (
    <section aria-labelledby="memory-title">
      <h2 id="memory-title">
        Memory <small>{bytes(total)} in all</small>
      </h2>
      <table class="bars">
        <tbody>
          {kinds.map(([name, size]) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              <td class="bar" aria-hidden="true">
                <i style={{ width: total > 0 ? percent(size / total).replace(" ", "") : "0" }} />
              </td>
              <td class="num">{bytes(size)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <p class="quiet">What Ablate holds; the process's allocator may keep more.</p>
    </section>
  );
}
