// SPDX-License-Identifier: Apache-2.0
// A circuit as it forms: the run's form, the picture and heat map, the ranked edges, and how faithful
// the circuit under the slider is.
import { useComputed, useSignal, useSignalEffect, type Signal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { JobState } from "#gen/ablate/v1/prune_pb.js";
import { ExportMenu } from "../export/menu.js";
import { NOTHING, edgeKey, parsePick } from "../graph/pick.js";
import { Picture } from "../graph/picture.js";
import { buildScene, withCount } from "../graph/scene.js";
import { nonzeroCount } from "../graph/scores.js";
import { epoch, recoveries } from "../lib/connection.js";
import { count, counted, duration, number, percent } from "../lib/format.js";
import { STATE_WORDS, isActive, jobTitle, progressOf } from "../lib/jobs.js";
import { usePolled } from "../lib/poll.js";
import { go, param, paramsOf, setParams, textCell } from "../lib/route.js";
import { QUICK, graphs, prune } from "../lib/rpc.js";
import { Meter } from "../ui/meter.js";
import { Notice } from "../ui/notice.js";
import { Faithfulness } from "./faithfulness.js";
import { HeatMap } from "./heatmap.js";
import { Progress } from "./progress.js";
import { Ranked } from "./ranked.js";
import { RunHooks } from "./runhooks.js";
import { Session } from "./session.js";
import { FORM_PARAMS, Setup } from "./setup.js";
import { STEPS, sizeAt, stepOf } from "./size.js";

const SHOWN_FIRST = 40;
const SETTLE_MS = 150;
const DATASET_EXAMPLE = `{"prompts": [
  {"clean": "When Mary and John went to the store, John gave a drink to",
   "corrupt": "When Mary and John went to the store, Mary gave a drink to",
   "answers": [" Mary"], "wrong_answers": [" John"]}
]}`;

function Status({ session }: { session: Session }) {
  const job = session.job.value;
  const event = session.event.value;
  if (!job && session.error.value) return null;
  if (!job) return <p class="quiet">Asking for {session.jobId}…</p>;
  const now = event ?? job;
  return (
    <p class="status" role="status">
      <strong>{jobTitle(job)}</strong>{" "}
      <span class={`state ${STATE_WORDS[now.state]}`}>{STATE_WORDS[now.state]}</span>{" "}
      {isActive(now.state) ? (
        <>
          <Meter share={progressOf(now)} label={`Progress of ${job.jobId}`} />{" "}
          {event && event.etaMs >= 0 && <span class="quiet">{duration(event.etaMs)} left</span>}{" "}
          <button type="button" onClick={() => void session.cancel()}>Cancel</button>
        </>
      ) : (
        <span class="quiet">
          in {duration(now.elapsedMs)}
          {now.state === JobState.CANCELLED && `: scores of ${percent(progressOf(now))} of the work`}
        </span>
      )}
      {now.state === JobState.FAILED && <Notice kind="error">{now.error}</Notice>}
    </p>
  );
}

function SizeSlider({ session, shownCount }: { session: Session; shownCount: Signal<number> }) {
  const edgeCount = session.topology.value?.edgeCount ?? 0;
  const values = session.values.value;
  const order = session.order.value;
  const size = shownCount.value;
  const scored = values ? nonzeroCount(values, order) : 0;
  const last = values && size > 0 ? Math.abs(values[order[size - 1]!] ?? 0) : 0;
  const set = (next: number) => (shownCount.value = Math.max(0, Math.min(edgeCount, next)));
  return (
    <div class="slider">
      <label for="size">Circuit size</label>
      <input id="size" type="range" min={0} max={STEPS} value={stepOf(size, edgeCount)}
             aria-valuetext={counted(size, "edge")} onInput={(event) => set(sizeAt(Number(event.currentTarget.value), edgeCount))} />
      <input type="number" aria-label="Circuit size in edges" min={0} max={edgeCount} value={size}
             onChange={(event) => set(Math.round(Number(event.currentTarget.value)))} />
      <span class="quiet">
        of {count(edgeCount)} edges{last > 0 ? `; |score| ≥ ${number(last)}` : scored < size && `; ${count(scored)} score other than 0`}
      </span>
    </div>
  );
}

/** How many edges are shown: at once here, and in the address when the slider rests. */
function useShownCount(): Signal<number> {
  const parse = (text: string) => Math.max(0, Math.round(text === "" ? SHOWN_FIRST : Number(text) || 0));
  const written = useRef(param("top").value);
  const shown = useSignal(parse(written.current));
  useSignalEffect(() => {
    const top = param("top").value;
    if (top === written.current) return;
    written.current = top; // another link was opened
    shown.value = parse(top);
  });
  useSignalEffect(() => {
    const top = String(shown.value);
    if (parse(written.current) === shown.value) return undefined;
    const timer = setTimeout(() => setParams({ top: (written.current = top) }), SETTLE_MS);
    return () => clearTimeout(timer);
  });
  return shown;
}

/** In words, once the daemon no longer has what an open run is of; empty while it has. */
function useGone(session: Session): string {
  const polled = usePolled(async (signal) => {
    if (!session.final.value || !session.topology.value) return;
    await prune.getJob({ jobId: session.jobId }, { ...QUICK, signal });
    await graphs.getGraph({ graphId: session.topology.value.graph.graphId }, { ...QUICK, signal });
  }, 2);
  return polled.error.value && `${polled.error.value} The picture and the scores are those of before: they can still be taken ` +
    "away, but nothing can be measured with them any more. Start a new run to go on.";
}

/** The arrow keys go from one of two tabs to the other. */
function otherTab(event: KeyboardEvent & { currentTarget: HTMLButtonElement }): void {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  event.preventDefault();
  const other = event.currentTarget.parentElement!.querySelector<HTMLButtonElement>('[role="tab"][aria-selected="false"]');
  other?.focus();
  other?.click();
}

function Open({ session }: { session: Session }) {
  const gone = useGone(session);
  const { topology, values, order, largest } = session;
  const pointed = useSignal(-1);
  const shownCount = useShownCount();
  const pick = useMemo(() => textCell("pick"), []);
  const picked = useComputed(() => (topology.value ? parsePick(topology.value, pick.value) : NOTHING));
  const togglePick = (name: string) => (pick.value = pick.value === name ? "" : name);
  const pickEdge = (edge: number) => togglePick(edgeKey(topology.value!, edge));
  const pickPlace = (place: number) => togglePick(topology.value!.places[place]!.name);
  const tab = param("tab").value === "heat" ? "heat" : "circuit";
  const whole = useComputed(() => {
    if (!topology.value || !values.value) return undefined;
    const scored = order.value.subarray(0, nonzeroCount(values.value, order.value));
    return buildScene(topology.value, values.value, scored, largest.value);
  });
  const scene = useComputed(() => whole.value && withCount(whole.value, shownCount.value));
  const shown = scene.value?.count ?? 0;
  const ready = topology.value && values.value && scene.value;
  return (
    <>
      <section class={topology.value ? "stage" : "stage alone"} aria-label="Circuit">
        <Status session={session} />
        {session.error.value && <Notice kind="error">{session.error.value}</Notice>}
        {gone && <Notice kind="error">{gone}</Notice>}
        {session.job.value && !gone && <RunHooks job={session.job.value} />}
        {topology.value && (
          <div class={gone ? "stale" : ""}>
            <SizeSlider session={session} shownCount={shownCount} />
            <div class="tabs" role="tablist" aria-label="Picture">
              {(["circuit", "heat"] as const).map((name) => (
                <button key={name} type="button" role="tab" id={`tab-${name}`} aria-selected={tab === name} aria-controls="tab-panel"
                        onClick={() => setParams({ tab: name === "heat" ? "heat" : "" })} onKeyDown={otherTab}>
                  {name === "circuit" ? "Circuit" : "Heat map"}
                </button>
              ))}
              <span class="legend quiet">
                <i class="plus" aria-hidden="true" /> positive <i class="minus" aria-hidden="true" /> negative;
                {tab === "circuit" ? " wider is larger, layers go up" : " stronger colour is larger"}
              </span>
            </div>
            {!ready && session.error.value === "" && <p class="quiet">No scores yet.</p>}
            <div role="tabpanel" id="tab-panel" aria-labelledby={`tab-${tab}`}>
              {tab === "heat" ? (
                <HeatMap topology={topology} values={values} largest={largest} pointed={pointed} />
              ) : (
                <Picture scene={scene} values={values} pointed={pointed} picked={picked} onPlace={pickPlace} onEdge={pickEdge} at="at"
                         label={`Circuit of ${counted(shown, "edge")}`} />
              )}
            </div>
          </div>
        )}
      </section>
      <div class="side">
        {topology.value && !gone && (
          <Faithfulness jobId={session.jobId} modelId={topology.value.graph.modelId} edgeCount={topology.value.edgeCount}
                        shownCount={shownCount} final={session.final}
                        standard={session.job.value?.spec?.tailDivergence ? { tailDivergence: true } : {}} />
        )}
        <Progress curves={session.curves.value} live={isActive(session.state)} />
        {ready && (
          <Ranked topology={topology.value!} values={values.value!} order={order.value} largest={largest.value}
                  shownCount={shown} pointed={pointed} picked={picked.value.edge} onPick={pickEdge} />
        )}
        {ready && session.job.value && (
          <ExportMenu job={session.job.value} topology={topology.value!} values={values.value!} scene={scene.value!} />
        )}
      </div>
    </>
  );
}

export function Discover() {
  const jobId = param("job").value;
  const again = useSignal(0);
  const session = useMemo(() => (jobId === "" ? undefined : new Session(jobId)), [jobId, epoch.value, again.value]);
  useEffect(() => () => session?.close(), [session]);
  useEffect(() => {
    if (session && !session.steady) again.value++; // its calls failed while the daemon was away
  }, [recoveries.value]);
  return (
    <>
      <h1>Discover</h1>
      <div class="discover">
        <Setup open={session?.job.value?.modelId ?? ""} started={(job) => go("discover", { ...paramsOf(FORM_PARAMS), job })} />
        {session ? (
          <Open key={`${jobId} ${epoch.value} ${again.value}`} session={session} />
        ) : (
          <section class="stage alone">
            <p>
              Choose a model, a dataset of clean and corrupt prompt pairs and an algorithm, and press Discover: every
              edge of the model's graph gets a score, and the circuit forms here while it does.
            </p>
            <p>
              A dataset is a JSON file in AutoCircuit's form; answers are one token each, with the blank in front:
            </p>
            <pre>{DATASET_EXAMPLE}</pre>
            <p class="quiet">Runs of before are in the <a href="#/overview">overview</a>; each can be opened again.</p>
          </section>
        )}
      </div>
    </>
  );
}
