// SPDX-License-Identifier: Apache-2.0
import { WeightMode, type LoadModelResponse, type Model } from "#gen/ablate/v1/model_pb.js";
import { models } from "./rpc.js";

/** Makes a model resident, or finds it so. Weights are processed as TransformerLens does by default. */
export async function loadModel(name: string, progress?: (at: LoadModelResponse) => void): Promise<Model> {
  let model: Model | undefined;
  const weights = { case: "mode" as const, value: WeightMode.TL };
  for await (const message of models.loadModel({ name, weights })) {
    progress?.(message);
    model = message.model ?? model;
  }
  if (model === undefined) throw new Error(`The daemon ended the load of ${name} without a model.`);
  return model;
}
