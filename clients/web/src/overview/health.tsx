// SPDX-License-Identifier: Apache-2.0
import { server } from "../lib/connection.js";
import { count, counted, duration } from "../lib/format.js";

export function Health() {
  const info = server.value!;
  const held = ([
    [info.modelCount, "model"], [info.graphCount, "graph"], [info.datasetCount, "dataset"], [info.kvCacheCount, "KV cache"],
    [info.activationsCount, "set of activations", "sets of activations"], [info.ablationCount, "ablation"],
  ] as const).filter(([some]) => some > 0).map(([some, noun, nouns]) => counted(some, noun, nouns));
  const rows: [string, string][] = [
    ["State", info.draining ? "draining: it finishes its work and takes no more" : "serving"],
    ["Up for", duration(info.uptimeMs)],
    ["Version", `${info.version}, ${info.protocol}`],
    ["Computes with", [info.backend, info.blas].filter(Boolean).join(", ")],
    ["Holds", held.length > 0 ? held.join(", ") : "nothing yet"],
  ];
  return (
    <section aria-labelledby="health-title">
      <h2 id="health-title">Health</h2>
      <table class="facts">
        <tbody>
          {rows.map(([name, value]) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              <td>{value}</td>
            </tr>
          ))}
          {info.devices.map((device) => (
            <tr key={device.name}>
              <th scope="row">Device {device.name}</th>
              <td>
                {device.queueLength === 0 ? "nothing waits" : `${count(device.queueLength)} waiting`}
                {device.threadCount > 0 && `, ${count(device.threadCount)} threads`}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      <p class="quiet">
        For Prometheus: <a href="/metrics">/metrics</a>
      </p>
    </section>
  );
}
