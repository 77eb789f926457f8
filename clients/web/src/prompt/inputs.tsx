// SPDX-License-Identifier: Apache-2.0
// The prompt pair that the views about prompts share: it is in the address, so a link carries it.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Model } from "#gen/ablate/v1/model_pb.js";
import { usePolled } from "../lib/poll.js";
import { route, setParams } from "../lib/route.js";
import { QUICK, models } from "../lib/rpc.js";
import { Notice } from "../ui/notice.js";

export const EXAMPLE = {
  clean: "Then, Alice and Emma went to the restaurant. Emma gave a basket to",
  corrupt: "Then, Alice and Emma went to the restaurant. Alice gave a basket to",
};

/** Answers of the example. */
export const ANSWERS = { answer: " Alice", wrong: " Emma" };

export function promptOf(which: "clean" | "corrupt"): string {
  return route.value.params[which] ?? EXAMPLE[which];
}

export interface ChosenModel {
  /** Undefined while there is none, and when the one that was chosen is gone: no other takes its place unasked. */
  model: Model | undefined;
  list: Model[] | undefined;
  /** The handle of a chosen model that is gone, or empty. */
  gone: string;
}

export function useModel(): ChosenModel {
  const polled = usePolled(async (signal) => (await models.listModels({}, { ...QUICK, signal })).models, 3);
  const list = polled.value.value;
  const wanted = route.value.params["model"] ?? "";
  const model = wanted === "" ? list?.[0] : list?.find(({ modelId }) => modelId === wanted);
  useEffect(() => {
    if (model) setParams({ model: model.modelId });
  }, [model?.modelId]);
  return { model, list, gone: list && !model ? wanted : "" };
}

/** What happened to the model, and what to do. */
export function GoneModel({ gone }: { gone: string }) {
  return gone === "" ? null : (
    <Notice kind="error">
      The model {gone} is not in memory any more: it was unloaded, or the daemon was started again. What was computed with it is
      taken away. Choose another model here, or load one in the <a href="#/overview">overview</a>.
    </Notice>
  );
}

/** The value, once it has not changed for a while. */
export function useSettled<T>(value: T, ms = 350): T {
  const settled = useSignal(value);
  useEffect(() => {
    const timer = setTimeout(() => (settled.value = value), ms);
    return () => clearTimeout(timer);
  }, [value]);
  return settled.value;
}

export function PromptInputs({ model, list, gone }: ChosenModel) {
  if (list?.length === 0 && gone === "") {
    return (
      <Notice kind="info">
        No model is in memory. Load one in the <a href="#/overview">overview</a>.
      </Notice>
    );
  }
  return (
    <>
    <GoneModel gone={gone} />
    <form class="prompts" onSubmit={(event) => event.preventDefault()}>
      <label>
        Model
        <select value={model?.modelId ?? ""} onChange={(event) => setParams({ model: event.currentTarget.value })}>
          {gone !== "" && <option value="">{gone} (gone)</option>}
          {list?.map(({ modelId, name }) => <option key={modelId} value={modelId}>{name}</option>)}
        </select>
      </label>
      {(["clean", "corrupt"] as const).map((which) => (
        <label key={which}>
          {which === "clean" ? "Clean prompt" : "Corrupt prompt"}
          <textarea rows={2} spellcheck={false} value={promptOf(which)}
                    onInput={(event) => setParams({ [which]: event.currentTarget.value })} />
        </label>
      ))}
    </form>
    </>
  );
}
