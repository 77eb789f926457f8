// SPDX-License-Identifier: Apache-2.0
// What can be taken away from an open job: its scores for other tools, its picture, a link to the view.
import { useSignal } from "@preact/signals";
import type { Job } from "#gen/ablate/v1/prune_pb.js";
import type { Scene } from "../graph/scene.js";
import type { Topology } from "../graph/topology.js";
import { describe } from "../lib/errors.js";
import { jobTitle } from "../lib/jobs.js";
import { QUICK, models } from "../lib/rpc.js";
import { colour } from "../lib/theme.js";
import { Notice } from "../ui/notice.js";
import { download } from "./download.js";
import { mibProblem, toMib } from "./mib.js";
import { toPng } from "./png.js";
import { toSafetensors } from "./safetensors.js";
import { toSvg } from "./svg.js";

interface Props {
  job: Job;
  topology: Topology;
  values: Float32Array;
  scene: Scene;
}

export function ExportMenu({ job, topology, values, scene }: Props) {
  const said = useSignal("");
  const error = useSignal("");
  const attempt = (what: () => Promise<void> | void) => async () => {
    said.value = error.value = "";
    try {
      await what();
    } catch (failure) {
      error.value = describe(failure);
    }
  };
  const svg = () => toSvg(scene, values, {
    page: colour("--card"), ink: colour("--ink"), line: colour("--node-line"), node: colour("--node"),
    mlp: colour("--node-mlp"), plus: colour("--plus"), minus: colour("--minus"),
  }, jobTitle(job));
  const mib = async () => {
    const { model } = await models.getModel({ modelId: job.modelId }, QUICK);
    const problem = mibProblem(topology, model!);
    if (problem) error.value = problem;
    else download(`${job.jobId}.json`, toMib(topology, model!, values, new Set(scene.edges.subarray(0, scene.count))), "application/json");
  };
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      said.value = "The link is copied. It shows this view for as long as the daemon keeps the job.";
    } catch {
      said.value = `This browser does not copy from here; the address is the link: ${location.href}`;
    }
  };
  const metadata = { job_id: job.jobId, model: job.provenance?.model ?? "", algorithm: job.provenance?.algorithmJson ?? "" };
  return (
    <section aria-labelledby="export-title">
      <h2 id="export-title">Take away</h2>
      <div class="row tight">
        <button type="button" onClick={attempt(() => download(`${job.jobId}.safetensors`, toSafetensors(topology, values, metadata), "application/octet-stream"))}>
          Scores, safetensors
        </button>
        <button type="button" onClick={attempt(mib)}>Circuit, MIB JSON</button>
        <button type="button" onClick={attempt(() => download(`${job.jobId}.svg`, svg(), "image/svg+xml"))}>SVG</button>
        <button type="button" onClick={attempt(async () => download(`${job.jobId}.png`, await toPng(scene), "image/png"))}>PNG</button>
        <button type="button" onClick={attempt(copy)}>Copy link</button>
      </div>
      {said.value && <Notice kind="info">{said.value}</Notice>}
      {error.value && <Notice kind="error">{error.value}</Notice>}
    </section>
  );
}
