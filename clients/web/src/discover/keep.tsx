// SPDX-License-Identifier: Apache-2.0
// Two things that runs can share instead of each making its own: an ablation, and the keys and values
// of the tokens that all prompts begin with.
import { fromJson, type JsonObject } from "@bufbuild/protobuf";
import { useSignal } from "@preact/signals";
import { CreateAblationRequestSchema } from "#gen/ablate/v1/cache_pb.js";
import { TextPromptsSchema } from "#gen/ablate/v1/common_pb.js";
import { Fields } from "../forms/fields.js";
import type { FormContent } from "../forms/schema.js";
import { describe } from "../lib/errors.js";
import { counted } from "../lib/format.js";
import { caches } from "../lib/rpc.js";
import { Meter } from "../ui/meter.js";
import { Notice } from "../ui/notice.js";

const ABLATION_OPTIONS = ["type", "from_clean", "prompt_count", "batch_size", "bos", "tail_divergence", "kv_cache_id"];

interface Props {
  modelId: string | undefined;
  /** Told of the new handle. */
  made: (id: string) => void;
}

const NO_MODEL = "The model is not in memory yet. Load it in the overview, or start a run with it.";

/** Sets the errors that a piece of work ends with. */
function useAttempt() {
  const error = useSignal("");
  const busy = useSignal(false);
  const attempt = async (work: () => Promise<void>) => {
    error.value = "";
    busy.value = true;
    try {
      await work();
    } catch (failure) {
      error.value = describe(failure);
    }
    busy.value = false;
  };
  return { error, busy, attempt };
}

export function KeepAblation({ modelId, datasetId, made }: Props & { datasetId: string | undefined }) {
  const content = useSignal<FormContent>({});
  const share = useSignal(0);
  const { error, busy, attempt } = useAttempt();
  const make = () => attempt(async () => {
    if (modelId === undefined) throw new Error(NO_MODEL);
    if (datasetId === undefined) throw new Error("There is no dataset: upload a JSON file of prompt pairs.");
    share.value = 0;
    const request = fromJson(CreateAblationRequestSchema, { ...(content.value as JsonObject), modelId, datasetId });
    for await (const { doneCount, totalCount, ablation } of caches.createAblation(request)) {
      if (totalCount > 0) share.value = doneCount / totalCount;
      if (ablation) made(ablation.ablationId);
    }
  });
  return (
    <details>
      <summary>Keep an ablation on the server</summary>
      <p class="quiet">Made once of the dataset above, shared by runs, sweeps and patching by hand.</p>
      <Fields message={CreateAblationRequestSchema} content={content} only={ABLATION_OPTIONS} />
      {error.value && <Notice kind="error">{error.value}</Notice>}
      {busy.value
        ? <Meter share={share.value} label="Making the ablation" />
        : <button type="button" onClick={() => void make()}>Keep the ablation</button>}
    </details>
  );
}

export function KeepPrefix({ modelId, made }: Props) {
  const text = useSignal("");
  const content = useSignal<FormContent>({});
  const said = useSignal("");
  const { error, busy, attempt } = useAttempt();
  const make = () => attempt(async () => {
    said.value = "";
    if (modelId === undefined) throw new Error(NO_MODEL);
    if (text.value === "") throw new Error("Type the text that all prompts begin with.");
    const prompts = fromJson(TextPromptsSchema, { ...(content.value as JsonObject), prompts: [text.value] });
    const { kvCache, created } = await caches.createKvCache({ modelId, prompts: { input: { case: "text", value: prompts } } });
    said.value = `${kvCache!.kvCacheId} has ${counted(kvCache!.tokens.length, "token")}${created ? "" : " and was there already"}.`;
    made(kvCache!.kvCacheId);
  });
  return (
    <details>
      <summary>Keep a shared prefix (KV cache)</summary>
      <p class="quiet">Its keys and values are computed once; a new graph can stand behind it.</p>
      <div class="field">
        <label>Prefix
          <textarea rows={3} spellcheck={false} value={text.value} onInput={(event) => (text.value = event.currentTarget.value)} />
        </label>
      </div>
      <Fields message={TextPromptsSchema} content={content} only={["bos"]} />
      {error.value && <Notice kind="error">{error.value}</Notice>}
      {said.value && <Notice kind="info">{said.value}</Notice>}
      <button type="button" disabled={busy.value} onClick={() => void make()}>Keep the prefix</button>
    </details>
  );
}
