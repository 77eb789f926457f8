// SPDX-License-Identifier: Apache-2.0
// Ablation by hand: click nodes and edges away and see what the model says then.
import { computed, useComputed, useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import type { Job } from "#gen/ablate/v1/prune_pb.js";
import { AblationField } from "../forms/ablation.js";
import type { FormContent } from "../forms/schema.js";
import { Picture } from "../graph/picture.js";
import { buildScene } from "../graph/scene.js";
import { nonzeroCount } from "../graph/scores.js";
import { edgeIndex, edgeTitle } from "../graph/topology.js";
import { epoch, recoveries } from "../lib/connection.js";
import { describe, isCancelled, reasonOf } from "../lib/errors.js";
import { counted } from "../lib/format.js";
import { isActive, jobTitle } from "../lib/jobs.js";
import { ablationHandle, fetchKept } from "../lib/kept.js";
import { usePolled } from "../lib/poll.js";
import { jsonCell, route, setParams, type Cell } from "../lib/route.js";
import { QUICK, graphs, prune } from "../lib/rpc.js";
import { PromptInputs, promptOf, useModel, useSettled } from "../prompt/inputs.js";
import { Notice } from "../ui/notice.js";
import { TOUCH_MS, closeBench, edgesFrom, formatCut, openBench, parseCut, type Bench } from "./bench.js";
import { Hooks } from "./hooks.js";
import { Latest } from "./latest.js";
import { measure, type Outcome } from "./outcome.js";
import { Output } from "./output.js";
import { recipesOf, type Recipe } from "./recipes.js";

const SHOWN = 60;

function useBench(modelId: string | undefined, job: Job | undefined) {
  const bench = useSignal<Bench | undefined>(undefined);
  const error = useSignal("");
  const again = useSignal(0);
  useEffect(() => {
    bench.value = undefined;
    error.value = "";
    if (modelId === undefined) return undefined;
    const controller = new AbortController();
    let graphId = "";
    openBench(modelId, job, controller.signal)
      .then((opened) => {
        ({ graphId } = opened);
        if (controller.signal.aborted) closeBench(graphId);
        else bench.value = opened;
      })
      .catch((failure: unknown) => {
        if (!controller.signal.aborted && !isCancelled(failure)) error.value = describe(failure);
      });
    const leave = () => {
      if (graphId !== "") closeBench(graphId);
    };
    const back = (event: PageTransitionEvent) => {
      if (event.persisted) again.value++; // out of the browser's cache: the graph went with the page
    };
    const touch = () => {
      if (graphId === "") return;
      graphs.getGraph({ graphId }, QUICK).catch((failure: unknown) => {
        if (reasonOf(failure) === "GRAPH_UNKNOWN") again.value++;
      });
    };
    const timer = setInterval(touch, TOUCH_MS);
    addEventListener("pagehide", leave);
    addEventListener("pageshow", back);
    return () => {
      clearInterval(timer);
      removeEventListener("pagehide", leave);
      removeEventListener("pageshow", back);
      controller.abort();
      leave();
    };
  }, [modelId, job?.jobId, epoch.value, again.value]);
  return { bench, error, reopen: () => again.value++ };
}

/** The hooks, as the address has them. */
function recipeCell(): Cell<Recipe[]> {
  const text = jsonCell<Recipe[]>("hooks", []);
  const checked = computed(() => recipesOf(text.value));
  return {
    get value() { return checked.value; },
    set value(next) { text.value = next; },
  };
}

/** `reopen`: the graph was deleted by somebody; another is made. */
function Table({ bench, modelId, reopen }: { bench: Bench; modelId: string; reopen: () => void }) {
  const { topology } = bench;
  const clean = useSettled(promptOf("clean"));
  const corrupt = useSettled(promptOf("corrupt"));
  const ablation = useMemo(() => jsonCell<FormContent>("ablation", {}), []);
  const recipes = useMemo(() => recipeCell(), []);
  const kept = usePolled(fetchKept, 5);
  const ablations = (kept.value.value?.ablations ?? []).filter((one) => one.modelId === modelId).map(ablationHandle);
  const asked = useMemo(() => parseCut(topology, route.value.params["cut"] ?? ""), [topology]);
  const edges = useSignal<ReadonlySet<number>>(asked.edges);
  const places = useSignal<ReadonlySet<number>>(asked.places);
  const pointed = useSignal(-1);
  const name = useSignal("");
  const error = useSignal("");
  const outcome = useSignal<Outcome | undefined>(undefined);
  const fresh = useSignal(false);
  const latest = useMemo(() => new Latest(), []);
  const indexOf = useMemo(() => edgeIndex(topology), [topology]);
  const cut = useComputed(() => [...new Set([...edges.value, ...[...places.value].flatMap((place) => edgesFrom(topology, place))])]);
  const values = useSignal<Float32Array | undefined>(bench.values);
  const scene = useComputed(() => {
    const top = bench.order.subarray(0, Math.min(SHOWN, nonzeroCount(bench.values, bench.order)));
    const scene = buildScene(topology, bench.values, [...new Set([...top, ...edges.value])], bench.largest);
    if (top.length === 0) scene.touchedFrom.fill(0); // without a job's edges every node counts
    return scene;
  });
  useEffect(() => () => latest.clear(), []);
  useEffect(() => setParams({ cut: formatCut(topology, places.value, edges.value) }), [places.value, edges.value]);
  useEffect(() => {
    fresh.value = false;
    latest.ask(async () => {
      try {
        outcome.value = await measure(topology, cut.value, recipes.value, { modelId, clean, corrupt }, ablation.value);
        error.value = "";
        fresh.value = true;
      } catch (failure) {
        if (reasonOf(failure) === "GRAPH_UNKNOWN") return reopen();
        error.value = describe(failure);
        outcome.value = undefined;
      }
    });
  }, [cut.value, clean, corrupt, ablation.value, recipes.value, topology, recoveries.value]);

  const toggle = (set: typeof edges, item: number) => {
    const next = new Set(set.value);
    if (!next.delete(item)) next.add(item);
    set.value = next;
  };
  const byName = () => {
    const place = topology.places.findIndex((one) => one.name === name.value.trim());
    const edge = indexOf(name.value.trim(), 0);
    if (place >= 0) toggle(places, place);
    else if (edge !== undefined) toggle(edges, edge);
    else {
      error.value = `This graph has no node or edge '${name.value}'. Names are as A0.3, MLP 0, A0.3->MLP 0, Resid Start->A1.2.Q.`;
      return;
    }
    name.value = "";
  };
  return (
    <div class="bench">
      <section class="stage" aria-label="Graph">
        <div class="row tight">
          <AblationField content={ablation} kept={ablations} />
          <button type="button" disabled={cut.value.length === 0} onClick={() => {
            edges.value = new Set();
            places.value = new Set();
          }}>
            Restore all
          </button>
        </div>
        <Picture scene={scene} values={values} pointed={pointed} struck={places} cut={edges} at="at"
                 onPlace={(place) => toggle(places, place)} onEdge={(edge) => toggle(edges, edge)}
                 label="Graph: click a node or an edge to ablate it, again to restore it" />
        <form class="row" onSubmit={(event) => { event.preventDefault(); byName(); }}>
          <label>Node or edge by name <input value={name.value} placeholder="A0.3->MLP 0" spellcheck={false}
                                             onInput={(event) => (name.value = event.currentTarget.value)} /></label>
          <button type="submit">Ablate or restore</button>
        </form>
        <ul class="chips" aria-label="Ablated">
          {[...places.value].map((place) => (
            <li key={`n${place}`}>{topology.places[place]!.name}{" "}
              <button type="button" aria-label={`Restore ${topology.places[place]!.name}`} onClick={() => toggle(places, place)}>×</button></li>
          ))}
          {[...edges.value].map((edge) => (
            <li key={`e${edge}`}>{edgeTitle(topology, edge)}{" "}
              <button type="button" aria-label={`Restore ${edgeTitle(topology, edge)}`} onClick={() => toggle(edges, edge)}>×</button></li>
          ))}
        </ul>
        <p class="quiet">{counted(fresh.value && outcome.value ? outcome.value.maskedCount : cut.value.length, "edge")} ablated.</p>
      </section>
      <div class="side">
        {error.value && <Notice kind="error">{error.value}</Notice>}
        {outcome.value && <Output modelId={modelId} outcome={outcome.value} fresh={fresh.value} />}
        <Hooks graphId={bench.graphId} prompts={{ modelId, clean, corrupt }} recipes={recipes} />
      </div>
    </div>
  );
}

export function Patch() {
  const chosenModel = useModel();
  const { model } = chosenModel;
  const polled = usePolled(async (signal) => (await prune.listJobs({ pageSize: 50 }, { ...QUICK, signal })).jobs, 3);
  const jobs = (polled.value.value ?? []).filter((job) => job.modelId === model?.modelId && !isActive(job.state));
  const wanted = route.value.params["job"];
  const job = wanted === "none" ? undefined : wanted ? jobs.find(({ jobId }) => jobId === wanted) : jobs[0];
  const goneJob = wanted && wanted !== "none" && !job && model && polled.value.value ? wanted : "";
  useEffect(() => {
    if (job) setParams({ job: job.jobId }); // newer jobs do not move what is shown
  }, [job?.jobId]);
  const { bench, error, reopen } = useBench(polled.value.value ? model?.modelId : undefined, job);
  return (
    <>
      <h1>Patch by hand</h1>
      <div class="stack">
        <section aria-label="Prompts">
          <PromptInputs {...chosenModel} />
          {(model || goneJob) && <label>
            Edges to choose from{" "}
            <select value={job?.jobId ?? (goneJob || "none")} onChange={(event) => setParams({ job: event.currentTarget.value })}>
              {jobs.map((one) => <option key={one.jobId} value={one.jobId}>the {SHOWN} strongest of {jobTitle(one)}</option>)}
              {goneJob && <option value={goneJob}>{goneJob} (gone)</option>}
              <option value="none">none: nodes only, or edges by name</option>
            </select>
          </label>}
          {goneJob && (
            <Notice kind="error">
              The run {goneJob} is not one of this model's finished runs: it was removed, the daemon was started again, or another
              model was chosen. Choose other edges above; until then there are the nodes, and edges by name.
            </Notice>
          )}
        </section>
        {error.value && <Notice kind="error">{error.value}</Notice>}
        {bench.value && model && (
          <Table key={bench.value.graphId + (job?.jobId ?? "")} bench={bench.value} modelId={model.modelId} reopen={reopen} />
        )}
      </div>
    </>
  );
}
