// SPDX-License-Identifier: Apache-2.0
// A form made from a message's descriptor. Each control explains itself with the comment in proto/.
// Fields that name something resident (ablation_id, kv_cache_ids) are chosen from what there is.
import type { DescField, DescMessage, DescOneof } from "@bufbuild/protobuf";
import { useSignal } from "@preact/signals";
import { createContext } from "preact";
import { useContext, useId, useMemo } from "preact/hooks";
import type { Cell } from "../lib/route.js";
import { choicesOf, commentOf, itemsOf, labelOf, parseList, parseScalar, type FormContent, type Handle } from "./schema.js";

interface Props {
  message: DescMessage;
  content: Cell<FormContent>;
  /** Only these members, by their names in proto/. */
  only?: string[];
  /** Not these, here and in the messages within: they are asked for elsewhere. */
  except?: string[];
}

/** What fields that are handles can be, by their names in proto/. */
export const Handles = createContext<Record<string, Handle[]>>({});
const Except = createContext<string[]>([]);

function change(content: Cell<FormContent>, name: string, value: FormContent[string] | undefined): void {
  const { [name]: _, ...rest } = content.value;
  content.value = value === undefined ? rest : { ...rest, [name]: value };
}

function fullName(field: DescField): string {
  return `${field.parent.typeName}.${field.name}`;
}

function TextField({ field, content, list }: { field: DescField; content: Cell<FormContent>; list: boolean }) {
  const id = useId();
  const error = useSignal("");
  const label = labelOf(field.name);
  const first = useMemo(() => [content.value[field.jsonName] ?? ""].flat().join(", "), []);
  const scalar = field.scalar!;
  const take = (text: string) => {
    try {
      const value = list ? parseList(text, scalar, label) : parseScalar(text, scalar, label);
      change(content, field.jsonName, value);
      error.value = "";
    } catch (failure) {
      error.value = (failure as Error).message;
    }
  };
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input id={id} type="text" inputMode={list ? "text" : "decimal"} placeholder="default" defaultValue={first}
             title={commentOf(fullName(field))} aria-describedby={`${id}-help`} aria-invalid={error.value !== ""}
             onInput={(event) => take(event.currentTarget.value)} />
      <small id={`${id}-help`} class={error.value ? "wrong" : "quiet"}>{error.value || commentOf(fullName(field))}</small>
    </div>
  );
}

function EnumField({ field, content }: { field: DescField; content: Cell<FormContent> }) {
  const id = useId();
  const choices = choicesOf(field.enum!);
  const chosen = choices.find(({ name }) => name === content.value[field.jsonName]) ?? choices[0]!;
  const help = [commentOf(fullName(field)), chosen === choices[0] ? "" : `${chosen.label}: ${chosen.help}`];
  return (
    <div class="field">
      <label for={id}>{labelOf(field.name)}</label>
      <select id={id} value={chosen.name} aria-describedby={`${id}-help`}
              onChange={(event) => {
                const { selectedIndex } = event.currentTarget;
                change(content, field.jsonName, selectedIndex === 0 ? undefined : choices[selectedIndex]!.name);
              }}>
        {choices.map(({ name, label, help: about }) => (
          <option key={name} value={name} title={about}>{label}</option>
        ))}
      </select>
      <small id={`${id}-help`} class="quiet">{help.filter(Boolean).join(" ")}</small>
    </div>
  );
}

function BoolField({ field, content }: { field: DescField; content: Cell<FormContent> }) {
  const id = useId();
  return (
    <div class="field">
      <label class="check">
        <input type="checkbox" checked={content.value[field.jsonName] === true} aria-describedby={`${id}-help`}
               onChange={(event) => change(content, field.jsonName, event.currentTarget.checked || undefined)} />{" "}
        <span>{labelOf(field.name)}</span>
      </label>
      <small id={`${id}-help`} class="quiet">{commentOf(fullName(field))}</small>
    </div>
  );
}

/** One of the resident things, or none. */
function HandleField({ field, content, handles }: { field: DescField; content: Cell<FormContent>; handles: Handle[] }) {
  const id = useId();
  const value = String(content.value[field.jsonName] ?? "");
  return (
    <div class="field">
      <label for={id}>{labelOf(field.name).replace(/ id$/, "")}</label>
      <select id={id} value={value} aria-describedby={`${id}-help`}
              onChange={(event) => change(content, field.jsonName, event.currentTarget.value || undefined)}>
        <option value="">none</option>
        {handles.map((handle) => <option key={handle.id} value={handle.id}>{handle.label}</option>)}
        {value !== "" && !handles.some((handle) => handle.id === value) && <option value={value}>{value} (gone)</option>}
      </select>
      <small id={`${id}-help`} class="quiet">{commentOf(fullName(field))}</small>
    </div>
  );
}

/** Any number of choices, ticked: resident things, or the values of an enum. */
function ChecksField({ field, content, choices }: { field: DescField; content: Cell<FormContent>; choices: Handle[] }) {
  const id = useId();
  const chosen = (content.value[field.jsonName] ?? []) as string[];
  const toggle = (one: string) => {
    const next = choices.map((choice) => choice.id).filter((other) => (other === one) !== chosen.includes(other));
    change(content, field.jsonName, next.length > 0 ? next : undefined);
  };
  return (
    <div class="field" role="group" aria-labelledby={id} aria-describedby={`${id}-help`}>
      <span id={id} class="name">{labelOf(field.name).replace(/ ids$/, "s")}</span>
      {choices.length === 0 && <small class="quiet">There is none yet.</small>}
      {choices.map((choice) => (
        <label key={choice.id} class="check" title={choice.help}>
          <input type="checkbox" checked={chosen.includes(choice.id)} onChange={() => toggle(choice.id)} /> <span>{choice.label}</span>
        </label>
      ))}
      <small id={`${id}-help`} class="quiet">{commentOf(fullName(field))}</small>
    </div>
  );
}

function MessageField({ field, content }: { field: DescField; content: Cell<FormContent> }) {
  const forward: Cell<FormContent> = {
    get value() { return (content.value[field.jsonName] ?? {}) as FormContent; },
    set value(next) { change(content, field.jsonName, Object.keys(next).length > 0 ? next : undefined); },
  };
  return (
    <fieldset>
      <legend>{labelOf(field.name)}</legend>
      <Fields message={field.message!} content={forward} />
    </fieldset>
  );
}

function OneofField({ oneof, content }: { oneof: DescOneof; content: Cell<FormContent> }) {
  const id = useId();
  const chosen = useSignal(oneof.fields.findIndex(({ jsonName }) => content.value[jsonName] !== undefined));
  const only = oneof.fields.length === 1 ? oneof.fields[0]! : undefined;
  if (only) return <Field field={only} content={content} />;
  const field = oneof.fields[chosen.value];
  return (
    <>
      <div class="field">
        <label for={id}>{labelOf(oneof.name)}</label>
        <select id={id} value={chosen.value} onChange={(event) => {
          for (const { jsonName } of oneof.fields) change(content, jsonName, undefined);
          chosen.value = Number(event.currentTarget.value);
        }}>
          <option value={-1}>default</option>
          {oneof.fields.map((option, index) => (
            <option key={option.name} value={index}>{labelOf(option.name)}</option>
          ))}
        </select>
        <small class="quiet">{commentOf(`${oneof.parent.typeName}.${oneof.name}`)}</small>
      </div>
      {field && <Field key={field.name} field={field} content={content} />}
    </>
  );
}

function Field({ field, content }: { field: DescField; content: Cell<FormContent> }) {
  const handles = useContext(Handles)[field.name];
  if (handles) {
    return field.fieldKind === "list"
      ? <ChecksField field={field} content={content} choices={handles} />
      : <HandleField field={field} content={content} handles={handles} />;
  }
  if (field.fieldKind === "list" && field.listKind === "enum") {
    const choices = choicesOf(field.enum!).slice(1).map(({ name, label, help }) => ({ id: name, label, help }));
    return <ChecksField field={field} content={content} choices={choices} />;
  }
  if (field.fieldKind === "enum") return <EnumField field={field} content={content} />;
  if (field.fieldKind === "message") return <MessageField field={field} content={content} />;
  if (field.fieldKind === "list" && field.listKind === "scalar") return <TextField field={field} content={content} list />;
  if (field.fieldKind !== "scalar") return null; // lists of messages: no form here has one
  if (field.scalar === 8) return <BoolField field={field} content={content} />;
  return <TextField field={field} content={content} list={false} />;
}

export function Fields({ message, content, only, except }: Props) {
  const outer = useContext(Except);
  const left = except ?? outer;
  return (
    <Except.Provider value={left}>
      <div class="fields">
        {itemsOf(message, only, left).map((item) =>
          item.kind === "field"
            ? <Field key={item.field.name} field={item.field} content={content} />
            : <OneofField key={item.oneof.name} oneof={item.oneof} content={content} />)}
      </div>
    </Except.Provider>
  );
}
