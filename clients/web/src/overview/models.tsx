// SPDX-License-Identifier: Apache-2.0
// Resident models, and those on disk that can be made so.
import { useSignal } from "@preact/signals";
import type { Model } from "#gen/ablate/v1/model_pb.js";
import { bytes, count, counted } from "../lib/format.js";
import { describe } from "../lib/errors.js";
import { loadModel } from "../lib/models.js";
import { usePolled } from "../lib/poll.js";
import { go } from "../lib/route.js";
import { QUICK, models } from "../lib/rpc.js";
import { Meter } from "../ui/meter.js";
import { Notice } from "../ui/notice.js";

export function shapeOf(model: Model): string {
  const config = model.config;
  if (!config) return "";
  return `${counted(config.nLayers, "layer")} × ${counted(config.nHeads, "head")}, d_model ${count(config.dModel)}`;
}

function Resident({ model, changed }: { model: Model; changed: () => void }) {
  const error = useSignal("");
  const unload = async () => {
    error.value = "";
    try {
      await models.unloadModel({ modelId: model.modelId }, QUICK);
      changed();
    } catch (failure) {
      error.value = describe(failure);
    }
  };
  return (
    <tr>
      <th scope="row">
        {model.name}
        {error.value && <Notice kind="error">{error.value}</Notice>}
      </th>
      <td>{shapeOf(model)}</td>
      <td class="num">{bytes(model.weightBytes)}</td>
      <td>{model.device}</td>
      <td class="num">{count(model.graphCount)}</td>
      <td class="actions">
        <button type="button" onClick={() => go("discover", { model: model.modelId })}>
          Discover
        </button>
        <button type="button" onClick={() => void unload()} aria-label={`Unload ${model.name}`}>
          Unload
        </button>
      </td>
    </tr>
  );
}

function Loadable({ changed }: { changed: () => void }) {
  const files = usePolled(async (signal) => (await models.listModelFiles({}, { ...QUICK, signal })).models, 15);
  const chosen = useSignal("");
  const share = useSignal<number | undefined>(undefined);
  const stage = useSignal("");
  const error = useSignal("");
  const list = files.value.value ?? [];
  const name = chosen.value || list.find((file) => !file.problem)?.name || "";
  const load = async () => {
    share.value = 0;
    error.value = "";
    try {
      await loadModel(name, (progress) => {
        stage.value = progress.stage;
        share.value = progress.totalBytes > 0n ? Number(progress.loadedBytes) / Number(progress.totalBytes) : 0;
      });
      changed();
    } catch (failure) {
      error.value = describe(failure);
    }
    share.value = undefined;
  };
  if (files.value.value === undefined) return null;
  if (list.length === 0) {
    return <p class="quiet">No models on disk. Start the daemon with --model-root at a folder of model folders.</p>;
  }
  return (
    <form class="row" onSubmit={(event) => { event.preventDefault(); void load(); }}>
      <label>
        Model on disk{" "}
        <select value={name} onChange={(event) => (chosen.value = event.currentTarget.value)}>
          {list.map((file) => (
            <option key={file.name} value={file.name} disabled={file.problem !== ""}>
              {file.name} ({file.problem || `${file.family}, ${bytes(file.fileBytes)}`})
            </option>
          ))}
        </select>
      </label>
      <button type="submit" disabled={share.value !== undefined || name === ""}>
        Load
      </button>
      {share.value !== undefined && (
        <>
          <Meter share={share.value} label={`Loading ${name}`} /> <span class="quiet">{stage.value}</span>
        </>
      )}
      {error.value && <Notice kind="error">{error.value}</Notice>}
    </form>
  );
}

export function Models() {
  const resident = usePolled(async (signal) => (await models.listModels({}, { ...QUICK, signal })).models);
  const list = resident.value.value;
  return (
    <section aria-labelledby="models-title" class="wide">
      <h2 id="models-title">Models in memory</h2>
      {resident.error.value && <Notice kind="error">{resident.error.value}</Notice>}
      {list?.length === 0 && <p class="quiet">None yet. Load one of those on disk.</p>}
      {list !== undefined && list.length > 0 && (
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Model</th>
              <th scope="col">Shape</th>
              <th scope="col" class="num">Weights</th>
              <th scope="col">Device</th>
              <th scope="col" class="num">Graphs</th>
              <th scope="col"><span class="hidden">Actions</span></th>
            </tr>
          </thead>
          <tbody>
            {list.map((model) => (
              <Resident key={model.modelId} model={model} changed={resident.refresh} />
            ))}
          </tbody>
        </table>
      )}
      <Loadable changed={resident.refresh} />
    </section>
  );
}
