// SPDX-License-Identifier: Apache-2.0
// Interventions at hook points: zero, scale, or steer by the difference of the two prompts. They are of
// the page's own graph, and act in its next pass.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { DType } from "#gen/ablate/v1/common_pb.js";
import { InterventionSchema, type Hook } from "#gen/ablate/v1/hooks_pb.js";
import { describe } from "../lib/errors.js";
import { QUICK, models, run } from "../lib/rpc.js";
import { Notice } from "../ui/notice.js";
import { keepHooks } from "./kepthooks.js";

const OPERATIONS = { zero: "Zero", scale: "Scale by", steer: "Steer: add × (corrupt − clean)" } as const;
type Operation = keyof typeof OPERATIONS;

/** "0, 3 7" → [0, 3, 7]; throws a sentence. */
export function wholeNumbers(text: string, what: string): number[] {
  return text.split(/[\s,;]+/).filter(Boolean).map((part) => {
    const value = Number(part);
    if (!Number.isInteger(value)) throw new Error(`${what}: '${part}' is no whole number.`);
    return value;
  });
}

async function activation(modelId: string, name: string, prompt: string, positions: number[]) {
  const prompts = { input: { case: "text" as const, value: { prompts: [prompt] } } };
  let values = new Float32Array();
  let shape: bigint[] = [];
  const forward = { target: { case: "modelId" as const, value: modelId }, prompts };
  for await (const { chunk } of run.runWithCache({ forward, names: [name], positions })) {
    if (chunk?.name !== name) continue;
    if (shape.length === 0) {
      shape = chunk.shape;
      values = new Float32Array(Number(shape.reduce((product, length) => product * length, 1n)));
    }
    new Uint8Array(values.buffer).set(chunk.data, Number(chunk.offsetBytes));
  }
  return { values, shape };
}

function wordsOf({ intervention: it }: Hook): string {
  const where = [
    it?.heads.length ? `heads ${it.heads.join(", ")}` : "",
    it?.positions.length ? `positions ${it.positions.join(", ")}` : "",
  ].filter(Boolean).join("; ");
  const operation = it?.operation;
  const what =
    operation?.case === "scale" ? `scaled by ${operation.value.factor}`
    : operation?.case === "add" ? `plus ${operation.value.factor || 1} × (corrupt − clean)`
    : operation?.case === "zero" ? "zero" : operation?.case ?? "?";
  return `${it?.name} ${what}${where ? ` (${where})` : ""}`;
}

interface Props {
  modelId: string;
  graphId: string;
  clean: string;
  corrupt: string;
  changed: () => void;
}

export function Hooks({ modelId, graphId, clean, corrupt, changed }: Props) {
  const points = useSignal<string[]>([]);
  const hooks = useSignal<Hook[]>([]);
  const name = useSignal("");
  const operation = useSignal<Operation>("zero");
  const factor = useSignal("1");
  const heads = useSignal("");
  const positions = useSignal("");
  const error = useSignal("");

  const attempt = async (work: () => Promise<unknown>) => {
    error.value = "";
    try {
      await work();
      hooks.value = (await run.listHooks({ graphId }, QUICK)).hooks;
      keepHooks(modelId, hooks.value);
      changed();
    } catch (failure) {
      error.value = describe(failure);
    }
  };
  useEffect(() => {
    void models.listHookPoints({ modelId }, QUICK)
      .then(({ hookPoints }) => {
        points.value = hookPoints.map((point) => point.name);
        name.value ||= points.value.find((point) => point.endsWith("hook_resid_post")) ?? points.value[0] ?? "";
      })
      .catch((failure: unknown) => (error.value = describe(failure)));
    void attempt(async () => undefined);
  }, [modelId, graphId]);

  const add = () => attempt(async () => {
    const at = wholeNumbers(positions.value, "Positions");
    const times = Number(factor.value);
    if (!Number.isFinite(times)) throw new Error(`'${factor.value}' is no number.`);
    const intervention: MessageInitShape<typeof InterventionSchema> = {
      name: name.value, heads: wholeNumbers(heads.value, "Heads"), positions: at,
    };
    if (operation.value === "zero") intervention.operation = { case: "zero", value: {} };
    if (operation.value === "scale") intervention.operation = { case: "scale", value: { factor: times } };
    if (operation.value === "steer") {
      if (heads.value.trim() !== "") throw new Error("Steering is of all heads of a point: leave Heads empty.");
      const where = at.length > 0 ? at : [-1];
      const [from, to] = [await activation(modelId, name.value, clean, where), await activation(modelId, name.value, corrupt, where)];
      const data = new Uint8Array(to.values.map((value, index) => value - from.values[index]!).buffer);
      intervention.positions = where;
      intervention.operation = {
        case: "add", value: { factor: times, value: { dtype: DType.DTYPE_FLOAT32, shape: to.shape, data } },
      };
    }
    await run.addHook({ graphId, intervention }, QUICK);
  });

  return (
    <section aria-labelledby="hooks-title">
      <h2 id="hooks-title">Hooks</h2>
      <form class="hooks" onSubmit={(event) => { event.preventDefault(); void add(); }}>
        <label>Hook point
          <input list="hook-points" value={name.value} spellcheck={false} onInput={(event) => (name.value = event.currentTarget.value)} />
        </label>
        <datalist id="hook-points">{points.value.map((point) => <option key={point} value={point} />)}</datalist>
        <label>Operation
          <select value={operation.value} onChange={(event) => (operation.value = event.currentTarget.value as Operation)}>
            {Object.entries(OPERATIONS).map(([key, label]) => <option key={key} value={key}>{label}</option>)}
          </select>
        </label>
        {operation.value !== "zero" && (
          <label>Factor
            <input value={factor.value} inputMode="decimal" onInput={(event) => (factor.value = event.currentTarget.value)} />
          </label>
        )}
        <label>Heads
          <input value={heads.value} placeholder="all" onInput={(event) => (heads.value = event.currentTarget.value)} />
        </label>
        <label>Positions
          <input value={positions.value} placeholder={operation.value === "steer" ? "the last" : "all"}
                 onInput={(event) => (positions.value = event.currentTarget.value)} />
        </label>
        <button type="submit">Add hook</button>
      </form>
      {error.value && <Notice kind="error">{error.value}</Notice>}
      <ul class="chips">
        {hooks.value.map((hook) => (
          <li key={hook.hookId}>
            {wordsOf(hook)}{" "}
            <button type="button" aria-label={`Remove hook ${hook.hookId}`}
                    onClick={() => void attempt(() => run.removeHook({ graphId, hookId: hook.hookId }, QUICK))}>×</button>
          </li>
        ))}
      </ul>
      {hooks.value.length === 0 && <p class="quiet">None. Hooks act in the patched pass only.</p>}
    </section>
  );
}
