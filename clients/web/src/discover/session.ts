// SPDX-License-Identifier: Apache-2.0
// An open job: its graph, its events as they come, its scores so far and at the end. Scores are read
// again while it runs, at most once a second, so the pictures form. The job goes on without the page;
// opening it again shows the same.
import { batch, signal } from "@preact/signals";
import { JobState, type Job, type JobEvent } from "#gen/ablate/v1/prune_pb.js";
import { describe, isCancelled, isLost, reasonOf } from "../lib/errors.js";
import { isActive, watchJob, type AlgorithmCase } from "../lib/jobs.js";
import { QUICK, prune } from "../lib/rpc.js";
import { fetchScores, ranking, scale } from "../graph/scores.js";
import { fetchTopology, type Topology } from "../graph/topology.js";
import { NO_CURVES, withEvent, type Curves } from "./curves.js";

const READ_AGAIN_MS = 1000;
/** Algorithms whose events have curves. */
const TELLING = new Set<AlgorithmCase | undefined>(["acdc", "subnetworkProbing", "circuitProbing"]);

export class Session {
  readonly job = signal<Job | undefined>(undefined);
  readonly event = signal<JobEvent | undefined>(undefined);
  readonly topology = signal<Topology | undefined>(undefined);
  readonly values = signal<Float32Array | undefined>(undefined);
  /** Edges by falling |score|. */
  readonly order = signal<Uint32Array>(new Uint32Array());
  readonly largest = signal(0);
  /** Whether the scores are the job's last. */
  readonly final = signal(false);
  readonly error = signal("");
  /** How it got there, of algorithms that tell. */
  readonly curves = signal<Curves>(NO_CURVES);
  #controller = new AbortController();
  #watching = false;
  #readMs = 0;

  constructor(readonly jobId: string) {
    void this.#run().catch((failure: unknown) => {
      if (!isCancelled(failure) && !this.#controller.signal.aborted) this.error.value = describe(failure);
    });
  }

  get state(): JobState {
    return this.event.value?.state ?? this.job.value?.state ?? JobState.UNSPECIFIED;
  }

  /** Whether it goes on by itself when the daemon answers again; else it has to be opened anew. */
  get steady(): boolean {
    return this.#watching || this.final.value;
  }

  /** Stops following; the job goes on. */
  close(): void {
    this.#controller.abort();
  }

  async cancel(): Promise<void> {
    try {
      await prune.cancelJob({ jobId: this.jobId }, QUICK);
    } catch (failure) {
      this.error.value = describe(failure);
    }
  }

  #take(values: Float32Array): void {
    batch(() => {
      const order = ranking(values);
      this.values.value = values;
      this.order.value = order;
      this.largest.value = scale(values, order);
    });
  }

  async #read(topology: Topology): Promise<void> {
    this.#take(await fetchScores(topology, this.jobId, this.#controller.signal));
    this.#readMs = Date.now();
  }

  /** Before the first batch there are none, which is no error. */
  async #readSoFar(topology: Topology): Promise<void> {
    try {
      await this.#read(topology);
    } catch (failure) {
      if (reasonOf(failure) !== "SCORES_NOT_READY" && !isLost(failure)) throw failure;
    }
  }

  async #run(): Promise<void> {
    const { signal } = this.#controller;
    const { job } = await prune.getJob({ jobId: this.jobId }, { ...QUICK, signal });
    if (!job?.spec) throw new Error("The daemon sent no job.");
    this.job.value = job;
    const topology = await fetchTopology(job.spec.graphId, signal);
    this.topology.value = topology;
    const active = isActive(job.state);
    if (active || TELLING.has(job.spec.algorithm.case)) {
      this.#watching = true;
      for await (const event of watchJob(this.jobId, 0n, signal)) {
        this.curves.value = withEvent(this.curves.value, event);
        if (!active) continue; // it is over: only the curves are of interest
        this.event.value = event;
        if (event.doneUnits === 0n || Date.now() - this.#readMs <= READ_AGAIN_MS) continue;
        this.#watching = false;
        await this.#readSoFar(topology);
        this.#watching = true;
      }
      this.#watching = false;
    }
    if (signal.aborted) return;
    await this.#read(topology);
    const ended = await prune.getJob({ jobId: this.jobId }, { ...QUICK, signal });
    batch(() => {
      this.job.value = ended.job ?? job;
      this.event.value = undefined;
      this.final.value = true;
    });
  }
}
