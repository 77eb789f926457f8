// SPDX-License-Identifier: Apache-2.0
// What is resident, what it costs, and who is at work.
import { KeptActivations } from "./activations.js";
import { Graphs } from "./graphs.js";
import { Health } from "./health.js";
import { Jobs } from "./jobs.js";
import { Kept } from "./kept.js";
import { Memory } from "./memory.js";
import { Models } from "./models.js";

export function Overview() {
  return (
    <div class="overview">
      <h1>Overview</h1>
      <Jobs />
      <Models />
      <Graphs />
      <Kept />
      <KeptActivations />
      <Memory />
      <Health />
    </div>
  );
}
