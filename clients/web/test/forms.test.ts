// SPDX-License-Identifier: Apache-2.0
import { ScalarType, fromJson } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { AblationTypeSchema } from "#gen/ablate/v1/common_pb.js";
import {
  CircuitProbingSchema, EapIgMethodSchema, EapIgSchema, MaskGradientSchema, PruneJobSpecSchema, RandomScoresSchema,
} from "#gen/ablate/v1/prune_pb.js";
import { choicesOf, commentOf, itemsOf, labelOf, parseList, parseScalar, pathOf, withValue } from "../src/forms/schema.js";

test("a form has a message's members in order, a oneof as one of them", () => {
  const names = itemsOf(MaskGradientSchema).map((item) => (item.kind === "field" ? item.field.name : item.oneof.name));
  expect(names).toEqual(["grad_function", "answer_function", "at", "ablation_type"]);
  expect(itemsOf(EapIgSchema, ["steps"])).toHaveLength(1);
});

test("an enum's choices say what the default is, and explain themselves", () => {
  const [first, second] = choicesOf(EapIgMethodSchema);
  expect(first).toMatchObject({ name: "EAP_IG_METHOD_UNSPECIFIED", label: "default: INPUTS" });
  expect(second!.label).toBe("INPUTS");
  expect(second!.help).toMatch(/^The input embedding goes/);
});

test("every algorithm of the protos can be chosen and says what it is", () => {
  for (const field of PruneJobSpecSchema.oneofs[0]!.fields) {
    expect(commentOf(field.message!.typeName), field.name).not.toBe("");
  }
});

test("text becomes JSON that the message takes, or a sentence", () => {
  expect(parseScalar(" 5 ", ScalarType.INT32, "Steps")).toBe(5);
  expect(parseScalar("", ScalarType.INT32, "Steps")).toBeUndefined();
  expect(() => parseScalar("five", ScalarType.INT32, "Steps")).toThrow("Steps: 'five' is no number.");
  expect(() => parseScalar("1.5", ScalarType.INT32, "Steps")).toThrow("no whole number");
  expect(parseList("0.1, 0.2 1e-3", ScalarType.DOUBLE, "Taus")).toEqual([0.1, 0.2, 0.001]);
  expect(parseList("MLP 0->A1.0.Q, A0.1->MLP 1", ScalarType.STRING, "Edges")).toEqual(["MLP 0->A1.0.Q", "A0.1->MLP 1"]);
  const spec = fromJson(PruneJobSpecSchema, { graphId: "g", eapIg: { steps: 7, method: "EAP_IG_METHOD_ACTIVATIONS" } });
  expect(spec.algorithm).toMatchObject({ case: "eapIg", value: { steps: 7 } });
  expect(labelOf("expand_kv_heads")).toBe("Expand KV heads");
});

test("every kind of ablation explains itself without the one before it", () => {
  for (const { name, help } of choicesOf(AblationTypeSchema)) expect(help, name).toMatch(/^[^.]/);
});

test("the ablation's field is found where an algorithm has it, and set there", () => {
  expect(pathOf(EapIgSchema, "ablation_type")).toEqual(["ablationType"]);
  expect(pathOf(CircuitProbingSchema, "ablation_type")).toEqual(["training", "ablationType"]);
  expect(pathOf(RandomScoresSchema, "ablation_type")).toBeUndefined();
  const content = { training: { epochs: 3 } };
  const set = withValue(content, ["training", "ablationType"], "ABLATION_TYPE_ZERO");
  expect(set).toEqual({ training: { epochs: 3, ablationType: "ABLATION_TYPE_ZERO" } });
  expect(withValue(set, ["training", "ablationType"], undefined)).toEqual(content);
  expect(withValue({}, ["training", "ablationType"], "ABLATION_TYPE_ZERO"))
    .toEqual({ training: { ablationType: "ABLATION_TYPE_ZERO" } });
  const left = itemsOf(EapIgSchema, undefined, ["ablation_type"]);
  expect(left).toHaveLength(itemsOf(EapIgSchema).length - 1);
});
