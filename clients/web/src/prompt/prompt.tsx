// SPDX-License-Identifier: Apache-2.0
// A prompt pair through the plain model: its tokens, what comes next at each position, and how the
// logit difference of two answers goes along the prompt.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Model } from "#gen/ablate/v1/model_pb.js";
import { epoch, recoveries } from "../lib/connection.js";
import { describe, isCancelled } from "../lib/errors.js";
import { number, percent } from "../lib/format.js";
import { param, route, setParams, type Cell } from "../lib/route.js";
import { Notice } from "../ui/notice.js";
import { PositionPlot } from "./plot.js";
import { ANSWERS, PromptInputs, promptOf, useModel, useSettled } from "./inputs.js";
import { fetchLogits, logitDifference, probability, topTokens, type Logits } from "./logits.js";
import { TokenStrip } from "./strip.js";
import { answerToken, textsOf, tokenize, visible, type Token } from "./tokens.js";

const TOP = 10;

interface Side {
  tokens: Token[];
  logits: Logits;
}

interface Pair {
  clean: Side;
  corrupt: Side;
}

async function fetchSide(modelId: string, prompt: string, signal: AbortSignal): Promise<Side> {
  const [tokens, logits] = await Promise.all([tokenize(modelId, prompt, signal), fetchLogits(modelId, prompt, signal)]);
  return { tokens, logits };
}

function usePair(model: Model | undefined, clean: string, corrupt: string) {
  const pair = useSignal<Pair | undefined>(undefined);
  const error = useSignal("");
  const busy = useSignal(false);
  useEffect(() => {
    if (!model) {
      pair.value = undefined;
      error.value = "";
      return undefined;
    }
    const controller = new AbortController();
    busy.value = true;
    error.value = "";
    Promise.all([fetchSide(model.modelId, clean, controller.signal), fetchSide(model.modelId, corrupt, controller.signal)])
      .then(([one, other]) => (pair.value = { clean: one, corrupt: other }))
      .catch((failure: unknown) => {
        if (isCancelled(failure)) return;
        pair.value = undefined; // numbers of other prompts are not shown beside these
        error.value = describe(failure);
      })
      .finally(() => {
        if (!controller.signal.aborted) busy.value = false;
      });
    return () => controller.abort();
  }, [model?.modelId, clean, corrupt, epoch.value, recoveries.value]);
  return { pair, error, busy };
}

function NextTokens({ model, pair, position }: { model: Model; pair: Pair; position: number }) {
  const texts = useSignal<Map<number, string>>(new Map());
  const at = (side: Side) => Math.min(position, side.logits.positions - 1);
  const lists = [pair.clean, pair.corrupt].map((side) => topTokens(side.logits, at(side), TOP));
  const ids = [...new Set(lists.flat().map(({ id }) => id))];
  const shown = ids.map((id) => ({
    id,
    clean: probability(pair.clean.logits, at(pair.clean), id),
    corrupt: probability(pair.corrupt.logits, at(pair.corrupt), id),
    logits: [pair.clean, pair.corrupt].map((side) => side.logits.values[at(side) * side.logits.vocabulary + id]!),
  })).sort((a, b) => Math.max(b.clean, b.corrupt) - Math.max(a.clean, a.corrupt)).slice(0, 14);
  useEffect(() => {
    const controller = new AbortController();
    if (model.hasTokenizer) {
      void textsOf(model.modelId, ids, controller.signal).then((found) => (texts.value = found)).catch(() => undefined);
    }
    return () => controller.abort();
  }, [ids.join()]);
  return (
    <table class="list next">
      <caption class="quiet">
        The likeliest tokens after position {position}
      </caption>
      <thead>
        <tr>
          <th scope="col">Next token</th>
          <th scope="col" colSpan={2}>clean</th>
          <th scope="col" colSpan={2}>corrupt</th>
          <th scope="col" class="num">logit, clean</th>
          <th scope="col" class="num">logit, corrupt</th>
        </tr>
      </thead>
      <tbody>
        {shown.map(({ id, clean, corrupt, logits }) => (
          <tr key={id}>
            <th scope="row" class="mono" title={`id ${id}`}>{texts.value.has(id) ? visible(texts.value.get(id)!) : `#${id}`}</th>
            <td class="bar" aria-hidden="true"><i style={{ width: `${clean * 100}%` }} /></td>
            <td class="num">{percent(clean)}</td>
            <td class="bar corrupt" aria-hidden="true"><i style={{ width: `${corrupt * 100}%` }} /></td>
            <td class="num">{percent(corrupt)}</td>
            <td class="num quiet">{number(logits[0]!)}</td>
            <td class="num quiet">{number(logits[1]!)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Difference({ model, pair, position }: { model: Model; pair: Pair; position: Cell<number> }) {
  const answer = route.value.params["answer"] ?? ANSWERS.answer;
  const wrong = route.value.params["wrong"] ?? ANSWERS.wrong;
  const settled = useSettled(`${answer}\n${wrong}`);
  const ids = useSignal<[number, number] | undefined>(undefined);
  const error = useSignal("");
  useEffect(() => {
    const [right = "", other = ""] = settled.split("\n");
    ids.value = undefined;
    error.value = "";
    if (right === "" || other === "") return undefined;
    const controller = new AbortController();
    Promise.all([answerToken(model.modelId, right, controller.signal), answerToken(model.modelId, other, controller.signal)])
      .then(([one, two]) => (ids.value = [one.id, two.id]))
      .catch((failure: unknown) => {
        if (!isCancelled(failure)) error.value = failure instanceof Error ? describe(failure) : String(failure);
      });
    return () => controller.abort();
  }, [settled, model.modelId]);
  const lines = ids.value && [pair.clean, pair.corrupt].map((side) => logitDifference(side.logits, ...ids.value!));
  return (
    <section aria-labelledby="difference-title">
      <h2 id="difference-title">Logit difference by position</h2>
      <div class="row">
        <label>Answer <input size={12} value={answer} spellcheck={false}
                             onInput={(event) => setParams({ answer: event.currentTarget.value })} /></label>
        <label>Wrong answer <input size={12} value={wrong} spellcheck={false}
                                   onInput={(event) => setParams({ wrong: event.currentTarget.value })} /></label>
      </div>
      {error.value && <Notice kind="error">{error.value}</Notice>}
      {lines
        ? <PositionPlot clean={lines[0]!} corrupt={lines[1]!} tokens={pair.clean.tokens} position={position} />
        : <p class="quiet">Give an answer and a wrong answer, one token each, with the blank in front.</p>}
    </section>
  );
}

export function Prompt() {
  const chosenModel = useModel();
  const { model } = chosenModel;
  const clean = useSettled(promptOf("clean"));
  const corrupt = useSettled(promptOf("corrupt"));
  const { pair, error, busy } = usePair(model, clean, corrupt);
  const chosen = param("position").value === "" ? -1 : Number(param("position").value);
  const now = pair.value;
  const position = now ? (chosen >= 0 ? Math.min(chosen, now.clean.tokens.length - 1) : now.clean.tokens.length - 1) : 0;
  const shown: Cell<number> = { get value() { return position; }, set value(next) { setParams({ position: String(next) }); } };
  const lengths = now && now.clean.tokens.length !== now.corrupt.tokens.length;
  return (
    <>
      <h1>Model and prompt</h1>
      <div class="stack">
        <section aria-label="Prompts">
          <PromptInputs {...chosenModel} />
          {error.value && <Notice kind="error">{error.value}</Notice>}
          {now && (
            <div class={busy.value ? "stale" : ""} aria-busy={busy.value}>
              <TokenStrip label="clean" tokens={now.clean.tokens} other={now.corrupt.tokens} position={shown} />
              <TokenStrip label="corrupt" tokens={now.corrupt.tokens} other={now.clean.tokens} position={shown} />
              {lengths && (
                <Notice kind="info">
                  The prompts have {now.clean.tokens.length} and {now.corrupt.tokens.length} tokens. Ablation by resampling
                  needs two of one length.
                </Notice>
              )}
            </div>
          )}
        </section>
        {now && model && (
          <div class={`two ${busy.value ? "stale" : ""}`}>
            <section aria-label="Next token"><NextTokens model={model} pair={now} position={position} /></section>
            <Difference model={model} pair={now} position={shown} />
          </div>
        )}
      </div>
    </>
  );
}
