// SPDX-License-Identifier: Apache-2.0
// Jobs: their names for people, and watching one without losing an event.
import { JobState, type Job, type JobEvent, type PruneJobSpec } from "#gen/ablate/v1/prune_pb.js";
import { backoffMs, sleep } from "./backoff.js";
import { recoveries } from "./connection.js";
import { isLost } from "./errors.js";
import { prune } from "./rpc.js";

export const STATE_WORDS: Record<JobState, string> = {
  [JobState.UNSPECIFIED]: "unknown",
  [JobState.QUEUED]: "queued",
  [JobState.RUNNING]: "running",
  [JobState.SUCCEEDED]: "succeeded",
  [JobState.FAILED]: "failed",
  [JobState.CANCELLED]: "cancelled",
};

export type AlgorithmCase = NonNullable<PruneJobSpec["algorithm"]["case"]>;

const ALGORITHM_WORDS: Partial<Record<AlgorithmCase, string>> = {
  eap: "EAP",
  eapIg: "EAP-IG",
  maskGradient: "Mask gradient",
  groundTruth: "Exact patching",
  random: "Random",
  activationMagnitude: "Activation magnitude",
  acdc: "ACDC",
  subnetworkProbing: "Subnetwork probing",
  circuitProbing: "Circuit probing",
  uploaded: "Uploaded scores",
};

/** An algorithm that is new in the protos goes by its field's name until it has words here. */
export function algorithmName(name: AlgorithmCase | undefined): string {
  return name === undefined ? "unknown" : (ALGORITHM_WORDS[name] ?? name);
}

export function isActive(state: JobState): boolean {
  return state === JobState.QUEUED || state === JobState.RUNNING;
}

/** The share of its work that is done, 0 to 1. */
export function progressOf(job: { doneUnits: bigint; totalUnits: bigint }): number {
  return job.totalUnits > 0n ? Number(job.doneUnits) / Number(job.totalUnits) : 0;
}

/** "EAP-IG on tiny-ioi (job-3)". */
export function jobTitle(job: Job): string {
  return `${algorithmName(job.spec?.algorithm.case)} on ${job.provenance?.model || job.modelId} (${job.jobId})`;
}

type Watch = (jobId: string, after: bigint, signal: AbortSignal) => AsyncIterable<{ event?: JobEvent | undefined }>;

const watchDaemon: Watch = (jobId, afterSequence, signal) =>
  prune.watchJob({ jobId, afterSequence }, { signal });

/**
 * The events of a job after number `after`, to the one that ends it. A connection that breaks is made
 * anew, and goes on behind the last number that was seen; so is one over which the daemon fell silent,
 * for such a connection may be dead and not know it. Only a refusal of the daemon's throws.
 */
export async function* watchJob(
  jobId: string,
  after: bigint,
  signal: AbortSignal,
  watch: Watch = watchDaemon,
): AsyncGenerator<JobEvent> {
  let failures = 0;
  while (!signal.aborted) {
    const attempt = new AbortController();
    const before = recoveries.peek();
    const unsubscribe = recoveries.subscribe((now) => now !== before && attempt.abort());
    try {
      for await (const { event } of watch(jobId, after, AbortSignal.any([signal, attempt.signal]))) {
        if (event === undefined || event.sequence <= after) continue;
        after = event.sequence;
        failures = 0;
        yield event;
        if (!isActive(event.state)) return;
      }
      return; // nothing after `after`: it had ended
    } catch (error) {
      if (signal.aborted) return;
      if (attempt.signal.aborted) continue;
      if (!isLost(error)) throw error;
    } finally {
      unsubscribe();
    }
    await sleep(backoffMs(failures++), signal);
  }
}
