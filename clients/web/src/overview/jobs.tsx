// SPDX-License-Identifier: Apache-2.0
// Jobs, newest first. A browser gives a page six connections, and every watched job holds one: the two
// newest at work are watched event by event, the others follow the poll.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { JobState, type Job, type JobEvent } from "#gen/ablate/v1/prune_pb.js";
import { epoch } from "../lib/connection.js";
import { describe } from "../lib/errors.js";
import { clock, duration } from "../lib/format.js";
import { STATE_WORDS, algorithmName, isActive, progressOf, watchJob } from "../lib/jobs.js";
import { usePolled } from "../lib/poll.js";
import { go } from "../lib/route.js";
import { QUICK, prune } from "../lib/rpc.js";
import { Meter } from "../ui/meter.js";
import { Notice } from "../ui/notice.js";

const WATCHED_MAX = 2;

function Row({ job, watched, changed }: { job: Job; watched: boolean; changed: () => void }) {
  const event = useSignal<JobEvent | undefined>(undefined);
  const error = useSignal("");
  useEffect(() => {
    if (!watched) return undefined;
    const controller = new AbortController();
    void (async () => {
      try {
        for await (const next of watchJob(job.jobId, job.lastSequence, controller.signal)) event.value = next;
        changed();
      } catch (failure) {
        error.value = describe(failure);
      }
    })();
    return () => controller.abort();
  }, [job.jobId, watched, epoch.value]);
  const cancel = async () => {
    try {
      await prune.cancelJob({ jobId: job.jobId }, QUICK);
      changed();
    } catch (failure) {
      error.value = describe(failure);
    }
  };
  const newest = event.value && event.value.sequence >= job.lastSequence ? event.value : job;
  const name = algorithmName(job.spec?.algorithm.case);
  const top = newest === event.value ? event.value?.topEdges[0] : undefined;
  return (
    <tr>
      <th scope="row">
        {name} <small class="quiet">{job.jobId}</small>
      </th>
      <td>{job.provenance?.model || job.modelId}</td>
      <td>
        <span class={`state ${STATE_WORDS[newest.state]}`}>{STATE_WORDS[newest.state]}</span>
        {newest.state === JobState.FAILED && <small> {job.error}</small>}
        {error.value && <Notice kind="error">{error.value}</Notice>}
      </td>
      <td>
        {isActive(newest.state) ? (
          <Meter share={progressOf(newest)} label={`Progress of ${name} ${job.jobId}`} />
        ) : (
          duration(newest.elapsedMs)
        )}
        {isActive(newest.state) && event.value && event.value.etaMs >= 0 && (
          <small class="quiet"> {duration(event.value.etaMs)} left</small>
        )}
        {isActive(newest.state) && top && <small class="quiet">, strongest so far {top.edge}</small>}
      </td>
      <td>{clock(Number(job.createdMs))}</td>
      <td class="actions">
        <button type="button" onClick={() => go("discover", { job: job.jobId })} aria-label={`Open ${job.jobId}`}>
          Open
        </button>
        {isActive(newest.state) && (
          <button type="button" onClick={() => void cancel()} aria-label={`Cancel ${job.jobId}`}>
            Cancel
          </button>
        )}
      </td>
    </tr>
  );
}

export function Jobs() {
  const polled = usePolled(async (signal) => (await prune.listJobs({ pageSize: 50 }, { ...QUICK, signal })).jobs);
  const list = polled.value.value;
  const watched = new Set((list ?? []).filter((job) => isActive(job.state)).slice(0, WATCHED_MAX).map((job) => job.jobId));
  const waiting = (list ?? []).filter((job) => job.state === JobState.QUEUED).length;
  return (
    <section aria-labelledby="jobs-title" class="wide">
      <h2 id="jobs-title">
        Jobs {waiting > 0 && <small>{waiting} in the queue</small>}
      </h2>
      {polled.error.value && <Notice kind="error">{polled.error.value}</Notice>}
      {list?.length === 0 && (
        <p class="quiet">
          No jobs. <a href="#/discover">Discover a circuit</a>, or start one with <code>ablate discover</code>.
        </p>
      )}
      {list !== undefined && list.length > 0 && (
        <table class="list">
          <thead>
            <tr>
              <th scope="col">Algorithm</th>
              <th scope="col">Model</th>
              <th scope="col">State</th>
              <th scope="col">Progress, or time taken</th>
              <th scope="col">Submitted</th>
              <th scope="col"><span class="hidden">Actions</span></th>
            </tr>
          </thead>
          <tbody>
            {list.map((job) => (
              <Row key={job.jobId} job={job} watched={watched.has(job.jobId)} changed={polled.refresh} />
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}
