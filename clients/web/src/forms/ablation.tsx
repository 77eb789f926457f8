// SPDX-License-Identifier: Apache-2.0
// What ablated edges carry: a kind of ablation, which the run makes for itself, or one that is kept on
// the server. Messages have two fields for it, of which one is set: ablation_type and ablation_id.
import { useId } from "preact/hooks";
import { AblationTypeSchema } from "#gen/ablate/v1/common_pb.js";
import type { Cell } from "../lib/route.js";
import { choicesOf, commentOf, type FormContent, type Handle } from "./schema.js";

const TYPES = choicesOf(AblationTypeSchema);

interface Props {
  /** Its ablationType and ablationId are set. */
  content: Cell<FormContent>;
  /** Ablations that are kept, of this model. */
  kept: Handle[];
  /** Only these kinds, by their names in proto/. */
  only?: string[];
  /** What the default is, where it is not what the protos say of the type. */
  standard?: string | undefined;
  /** What the protos say of the choice here, if that is more than of the type. */
  note?: string | undefined;
}

export function AblationField({ content, kept, only, standard, note }: Props) {
  const id = useId();
  const { ablationType, ablationId, ...others } = content.value;
  const types = TYPES.filter(({ name }) => !only || only.includes(name));
  const type = types.find(({ name }) => name === ablationType) ?? types[0]!;
  const chosen = kept.find((one) => one.id === ablationId);
  const choose = (value: string) => {
    if (kept.some((one) => one.id === value)) content.value = { ...others, ablationId: value };
    else content.value = value === TYPES[0]!.name ? others : { ...others, ablationType: value };
  };
  const help = ablationId !== undefined
    ? chosen?.help ?? "It was deleted since. Choose another."
    : type !== TYPES[0] ? type.help
    : standard ?? `${type.help}: ${TYPES.find(({ label }) => label === type.help)?.help ?? ""}.`;
  return (
    <div class="field">
      <label for={id} title={commentOf(AblationTypeSchema.typeName)}>Ablated edges carry</label>
      <select id={id} value={String(ablationId ?? type.name)} aria-describedby={`${id}-help`}
              onChange={(event) => choose(event.currentTarget.value)}>
        {types.map(({ name, label, help: about }) => (
          <option key={name} value={name} title={about}>{name === TYPES[0]!.name && standard ? "default" : label}</option>
        ))}
        {(kept.length > 0 || ablationId !== undefined) && (
          <optgroup label="Kept on the server">
            {kept.map((one) => <option key={one.id} value={one.id} title={one.help}>{one.label}</option>)}
            {ablationId !== undefined && !chosen && <option value={String(ablationId)}>{String(ablationId)} (gone)</option>}
          </optgroup>
        )}
      </select>
      <small id={`${id}-help`} class="quiet">{help}{note && ` ${note}`}</small>
    </div>
  );
}
