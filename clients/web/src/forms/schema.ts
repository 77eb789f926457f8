// SPDX-License-Identifier: Apache-2.0
// What a form needs to know of a message: its fields in order, oneofs as one choice, comments as help.
// A form's content is the message's JSON without what is left at its default; fromJson checks it.
import { ScalarType, type DescEnum, type DescField, type DescMessage, type DescOneof, type JsonValue } from "@bufbuild/protobuf";
import docs from "../../build/gen/docs.json";

export type FormContent = { [name: string]: JsonValue };
export type Item = { kind: "field"; field: DescField } | { kind: "oneof"; oneof: DescOneof };

const comments = docs as Record<string, string>;

/** The comment of a message, field, oneof or enum value in proto/; empty where it has none. */
export function commentOf(fullName: string): string {
  return comments[fullName] ?? "";
}

/** Something resident that a field can name. */
export interface Handle {
  id: string;
  label: string;
  help?: string;
}

export function itemsOf(message: DescMessage, only?: string[], except: string[] = []): Item[] {
  return message.members
    .filter((member) => (!only || only.includes(member.name)) && !except.includes(member.name))
    .map((member): Item =>
      member.kind === "field" ? { kind: "field", field: member } : { kind: "oneof", oneof: member });
}

/** "learning_rate" → "Learning rate". */
export function labelOf(name: string): string {
  const words = name.replaceAll("_", " ").replace(/\bkv\b/g, "KV").replace(/\bqkv\b/g, "QKV").replace(/\bbos\b/g, "BOS");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export interface Choice {
  name: string;
  label: string;
  help: string;
}

/** An enum's values; the unspecified one is the default, and its comment says which that is. */
export function choicesOf(type: DescEnum): Choice[] {
  return type.values.map((value) => {
    const help = commentOf(`${type.typeName}.${value.name}`);
    const short = value.name.replace(type.sharedPrefix?.toUpperCase() ?? "", "");
    const label = value.number === 0 ? `default${/^[A-Z_]{2,}$/.test(help) ? `: ${help}` : ""}` : short;
    return { name: value.name, label, help };
  });
}

/** Where in a message, or in the messages within, a field of this name is: the JSON names on the way. */
export function pathOf(message: DescMessage, name: string): string[] | undefined {
  for (const field of message.fields) {
    if (field.name === name) return [field.jsonName];
    const inner = field.fieldKind === "message" ? pathOf(field.message, name) : undefined;
    if (inner) return [field.jsonName, ...inner];
  }
  return undefined;
}

/** A form's content with the value at a path set; undefined leaves it at its default. */
export function withValue(content: FormContent, path: string[], value: JsonValue | undefined): FormContent {
  const [first = "", ...rest] = path;
  const { [first]: old, ...others } = content;
  const next = rest.length === 0 ? value : withValue((old ?? {}) as FormContent, rest, value);
  return next === undefined ? others : { ...others, [first]: next };
}

export function isNumber(scalar: ScalarType): boolean {
  return scalar !== ScalarType.STRING && scalar !== ScalarType.BYTES && scalar !== ScalarType.BOOL;
}

/** A form's text as JSON of a field; undefined: left at its default. Throws what a person understands. */
export function parseScalar(text: string, scalar: ScalarType, label: string): JsonValue | undefined {
  const trimmed = text.trim();
  if (trimmed === "") return undefined;
  if (!isNumber(scalar)) return trimmed;
  const value = Number(trimmed.replaceAll("_", ""));
  if (!Number.isFinite(value)) throw new Error(`${label}: '${trimmed}' is no number.`);
  const whole = scalar !== ScalarType.FLOAT && scalar !== ScalarType.DOUBLE;
  if (whole && !Number.isInteger(value)) throw new Error(`${label}: ${trimmed} is no whole number.`);
  return value;
}

/** A list as people write one: between commas, blanks or lines. Edge names have blanks, so not these. */
export function parseList(text: string, scalar: ScalarType, label: string): JsonValue | undefined {
  const parts = text.split(isNumber(scalar) ? /[\s,;]+/ : /[,;\n]+/).filter((part) => part.trim() !== "");
  if (parts.length === 0) return undefined;
  return parts.map((part) => parseScalar(part, scalar, label)!);
}
