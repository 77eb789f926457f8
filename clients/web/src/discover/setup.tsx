// SPDX-License-Identifier: Apache-2.0
// A new run: model, graph, dataset, algorithm, options. What is not there yet is made on the way: a
// model on disk is loaded, a graph created, a file uploaded.
import { fromJson, type JsonObject } from "@bufbuild/protobuf";
import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import type { Dataset } from "#gen/ablate/v1/dataset_pb.js";
import { GraphOptionsSchema } from "#gen/ablate/v1/common_pb.js";
import type { Graph } from "#gen/ablate/v1/graph_pb.js";
import { PruneJobSpecSchema, type PruneJobSpec } from "#gen/ablate/v1/prune_pb.js";
import { AblationField } from "../forms/ablation.js";
import { Fields, Handles } from "../forms/fields.js";
import { commentOf, pathOf, withValue, type FormContent } from "../forms/schema.js";
import { describe } from "../lib/errors.js";
import { count, counted } from "../lib/format.js";
import { algorithmName, type AlgorithmCase } from "../lib/jobs.js";
import { ablationHandle, fetchKept, kvCacheHandle } from "../lib/kept.js";
import { loadModel } from "../lib/models.js";
import { usePolled } from "../lib/poll.js";
import { jsonCell, setParams, textCell } from "../lib/route.js";
import { QUICK, datasets, graphs, models, prune } from "../lib/rpc.js";
import { GraphHooks } from "../ui/graphhooks.js";
import { Notice } from "../ui/notice.js";
import { KeepAblation, KeepPrefix } from "./keep.js";

const ALGORITHMS = PruneJobSpecSchema.oneofs[0]!.fields.filter((field) => field.name !== "uploaded");
const RUN_OPTIONS = ["batch_size", "prompt_count", "bos", "tail_divergence", "top_k"];
const GRAPH_OPTIONS = ["kind", "merge_qkv", "seq_len", "expand_kv_heads", "out_slice", "kv_cache_ids"];
/** Trainings have a default of their own, which the protos tell with the field. */
const OWN_DEFAULT = "ablate.v1.SubnetworkProbing.ablation_type";

const NEW_GRAPH = "new";
const FIRST_ALGORITHM = "eap_ig";

/** What is in the form, all of it in the address. */
function formCells() {
  const content = (name: string) => jsonCell<FormContent>(name, {});
  return {
    model: textCell("model"), graph: textCell("graph"), dataset: textCell("dataset"), algorithm: textCell("algorithm"),
    options: content("options"), runOptions: content("run"), graphOptions: content("new"), ablation: content("ablation"),
  };
}

/** The parameters of the address that are the form's: they stay when another run is opened. */
export const FORM_PARAMS = ["model", "graph", "dataset", "algorithm", "options", "run", "new", "ablation"];

async function choicesOf(signal: AbortSignal) {
  const options = { ...QUICK, signal };
  const [resident, files, graphList, datasetList, kept] = await Promise.all([
    models.listModels({}, options), models.listModelFiles({}, options),
    graphs.listGraphs({}, options), datasets.listDatasets({}, options), fetchKept(signal),
  ]);
  const loaded = new Set(resident.models.map((model) => model.name));
  return {
    models: [
      ...resident.models.map((model) => ({ value: model.modelId, label: model.name, onDisk: false })),
      ...files.models.filter((file) => !file.problem && !loaded.has(file.name))
        .map((file) => ({ value: file.name, label: `${file.name} (on disk)`, onDisk: true })),
    ],
    graphs: graphList.graphs,
    datasets: datasetList.datasets,
    ...kept,
  };
}

/** `open`: the model of the run that is open, which is taken unless another is chosen. */
export function Setup({ open, started }: { open: string; started: (jobId: string) => void }) {
  const choices = usePolled(choicesOf, 3);
  const { model, graph, dataset, algorithm, options, runOptions, graphOptions, ablation } = useMemo(formCells, []);
  const uploaded = useSignal<Dataset | undefined>(undefined);
  const made = useSignal<Graph | undefined>(undefined); // until it is listed
  const busy = useSignal("");
  const error = useSignal("");
  const known = choices.value.value;
  useEffect(() => {
    if (known?.graphs.some(({ graphId }) => graphId === made.value?.graphId)) made.value = undefined;
  }, [known]);

  // What was chosen and is gone is not replaced by something else unasked.
  const chosenModel = model.value === "" ? known?.models.find(({ value }) => value === open) ?? known?.models[0]
    : known?.models.find(({ value }) => value === model.value)
      ?? known?.models.find(({ label }) => label === model.value); // one that was on disk, and is loaded now
  const listed = known?.graphs ?? [];
  const graphList = [...listed, ...(made.value && !listed.some(({ graphId }) => graphId === made.value!.graphId) ? [made.value] : [])]
    .filter(({ modelId, idleTimeoutMs }) => modelId === chosenModel?.value && idleTimeoutMs === 0n);
  const isGone = known && graph.value !== "" && graph.value !== NEW_GRAPH
    && !graphList.some(({ graphId }) => graphId === graph.value);
  const goneGraph = isGone ? graph.value : "";
  const chosenGraph = graph.value === NEW_GRAPH || isGone ? undefined
    : graphList.find(({ graphId }) => graphId === graph.value) ?? graphList[graphList.length - 1];
  const datasetList = known?.datasets ?? [];
  const chosenDataset = dataset.value === "" ? datasetList[0]
    : datasetList.find(({ datasetId }) => datasetId === dataset.value)
      ?? (uploaded.value?.datasetId === dataset.value ? uploaded.value : undefined);
  const field = ALGORITHMS.find(({ name }) => name === algorithm.value) ?? ALGORITHMS.find(({ name }) => name === FIRST_ALGORITHM)!;
  const ablationPath = pathOf(field.message!, "ablation_type");
  const algorithmFields = field.message!.fields.filter(({ name }) => name !== "ablation_type");
  const ablations = (known?.ablations ?? []).filter(({ modelId }) => modelId === chosenModel?.value).map(ablationHandle);
  const kvCaches = (known?.kvCaches ?? []).filter(({ modelId }) => modelId === chosenModel?.value).map(kvCacheHandle);
  const residentId = chosenModel && !chosenModel.onDisk ? chosenModel.value : undefined;

  const upload = async (file: File | undefined) => {
    if (!file) return;
    error.value = "";
    try {
      const json = new Uint8Array(await file.arrayBuffer());
      const answer = await datasets.uploadDataset({ name: file.name.replace(/\.json$/, ""), json });
      uploaded.value = answer.dataset;
      dataset.value = answer.dataset?.datasetId ?? "";
      choices.refresh();
    } catch (failure) {
      error.value = describe(failure);
    }
  };

  const start = async () => {
    error.value = "";
    try {
      const gone = model.value && !chosenModel ? "model" : dataset.value && !chosenDataset ? "dataset" : "";
      if (gone) throw new Error(`The chosen ${gone} is not there any more. Choose another.`);
      if (!chosenModel) throw new Error("There is no model: start the daemon with --model-root, or load one.");
      if (!chosenDataset) throw new Error("There is no dataset: upload a JSON file of prompt pairs.");
      busy.value = chosenModel.onDisk ? `Loading ${chosenModel.label}…` : "Submitting…";
      const modelId = chosenModel.onDisk ? (await loadModel(chosenModel.value)).modelId : chosenModel.value;
      let graphId = chosenGraph?.graphId;
      if (graphId === undefined) {
        const answer = await graphs.createGraph({ modelId, options: fromJson(GraphOptionsSchema, graphOptions.value as JsonObject) });
        made.value = answer.graph;
        graphId = answer.graph!.graphId;
        graph.value = graphId;
      }
      const { ablationType, ...kept } = ablationPath ? ablation.value : {};
      const spec: PruneJobSpec = fromJson(PruneJobSpecSchema, {
        ...(runOptions.value as JsonObject), ...(kept as JsonObject),
        graphId, datasetId: chosenDataset.datasetId,
        [field.jsonName]: (ablationPath ? withValue(options.value, ablationPath, ablationType) : options.value) as JsonObject,
      });
      busy.value = "Submitting…";
      const { job } = await prune.submitJob({ spec });
      choices.refresh();
      started(job!.jobId);
    } catch (failure) {
      error.value = describe(failure);
    }
    busy.value = "";
  };

  return (
    <section aria-labelledby="setup-title" class="setup">
      <h2 id="setup-title">New run</h2>
      {choices.error.value && <Notice kind="error">{choices.error.value}</Notice>}
      <Handles.Provider value={{ kv_cache_ids: kvCaches, kv_cache_id: kvCaches }}>
      <form onSubmit={(event) => { event.preventDefault(); void start(); }}>
        <div class="field">
          <label for="setup-model">Model</label>
          <select id="setup-model" value={chosenModel?.value ?? ""} onChange={(event) => {
                    setParams({ model: event.currentTarget.value, graph: "" });
                  }}>
            {known && !chosenModel && model.value && <option value="">{model.value} (gone)</option>}
            {known?.models.map(({ value, label }) => <option key={value} value={value}>{label}</option>)}
          </select>
        </div>
        <div class="field">
          <label for="setup-graph">Graph</label>
          <select id="setup-graph" value={chosenGraph?.graphId ?? NEW_GRAPH} onChange={(event) => (graph.value = event.currentTarget.value)}>
            {graphList.map((item) => (
              <option key={item.graphId} value={item.graphId}>{item.graphId} ({count(item.edgeCount)} edges{item.hookCount > 0 && `, ${counted(item.hookCount, "hook")}`})</option>
            ))}
            <option value={NEW_GRAPH}>a new one</option>
          </select>
          {chosenGraph && chosenGraph.hookCount > 0 && (
            <>
              <small>The hooks of {chosenGraph.graphId} act in all runs on it:</small>
              <GraphHooks key={chosenGraph.graphId} graphId={chosenGraph.graphId} />
            </>
          )}
          {goneGraph && <small class="wrong">{goneGraph} was deleted since; a new graph will be made.</small>}
        </div>
        {chosenGraph === undefined && (
          <details>
            <summary>Graph options</summary>
            <Fields message={GraphOptionsSchema} content={graphOptions} only={GRAPH_OPTIONS} />
            <KeepPrefix modelId={residentId} made={choices.refresh} />
          </details>
        )}
        <div class="field">
          <label for="setup-dataset">Dataset</label>
          <select id="setup-dataset" value={chosenDataset?.datasetId ?? ""} onChange={(event) => (dataset.value = event.currentTarget.value)}>
            {known && dataset.value && !chosenDataset && <option value="">{dataset.value} (gone)</option>}
            {datasetList.length === 0 && <option value="">none yet: upload one</option>}
            {datasetList.map((item) => (
              <option key={item.datasetId} value={item.datasetId}>{item.name} ({count(item.promptCount)} pairs)</option>
            ))}
          </select>
          <label class="upload">
            Upload a JSON file{" "}
            <input type="file" accept=".json,application/json" aria-label="Upload a dataset"
                   onChange={(event) => void upload(event.currentTarget.files?.[0])} />
          </label>
        </div>
        <div class="field">
          <label for="setup-algorithm">Algorithm</label>
          <select id="setup-algorithm" value={field.name} onChange={(event) => setParams({ algorithm: event.currentTarget.value, options: "" })}>
            {ALGORITHMS.map((option) => (
              <option key={option.name} value={option.name}>{algorithmName(option.localName as AlgorithmCase)}</option>
            ))}
          </select>
          <small class="quiet" title={commentOf(field.message!.typeName)}>{commentOf(field.message!.typeName)}</small>
        </div>
        {algorithmFields.length > 0 && (
          <details>
            <summary>Options of {algorithmName(field.localName as AlgorithmCase)}</summary>
            <Fields key={field.name} message={field.message!} content={options} except={["ablation_type"]} />
          </details>
        )}
        {ablationPath && (
          <>
            <AblationField content={ablation} kept={ablations}
                           standard={ablationPath.length > 1 || field.message!.typeName === "ablate.v1.SubnetworkProbing"
                             ? commentOf(OWN_DEFAULT) : undefined}
                           note={field.message!.typeName === "ablate.v1.EapIg" ? commentOf("ablate.v1.EapIg.ablation_type") : undefined} />
            <details>
              <summary>More about the ablation</summary>
              <Fields message={PruneJobSpecSchema} content={ablation} only={["ablate_by_clean"]} />
              <KeepAblation modelId={residentId} datasetId={chosenDataset?.datasetId} made={(ablationId) => {
                const { ablationType: _, ...others } = ablation.value;
                ablation.value = { ...others, ablationId };
                choices.refresh();
              }} />
            </details>
          </>
        )}
        <details>
          <summary>Prompts and batches</summary>
          <Fields message={PruneJobSpecSchema} content={runOptions} only={RUN_OPTIONS} />
        </details>
        {error.value && <Notice kind="error">{error.value}</Notice>}
        <button type="submit" class="main" disabled={busy.value !== "" || known === undefined}>
          {busy.value || "Discover"}
        </button>
      </form>
      </Handles.Provider>
    </section>
  );
}
