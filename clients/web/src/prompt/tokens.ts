// SPDX-License-Identifier: Apache-2.0
// Tokens as the model sees them, and ids as text.
import { BosPolicy } from "#gen/ablate/v1/common_pb.js";
import { QUICK, models } from "../lib/rpc.js";

export interface Token {
  id: number;
  text: string;
}

export async function tokenize(modelId: string, text: string, signal: AbortSignal, bos = BosPolicy.UNSPECIFIED): Promise<Token[]> {
  const answer = await models.toStrTokens({ modelId, input: { case: "text", value: text }, bos }, { ...QUICK, signal });
  return answer.ids.map((id, index) => ({ id, text: answer.strTokens[index] ?? "" }));
}

/** The text of each id. */
export async function textsOf(modelId: string, ids: number[], signal: AbortSignal): Promise<Map<number, string>> {
  if (ids.length === 0) return new Map();
  const answer = await models.toStrTokens({ modelId, input: { case: "tokens", value: { ids } } }, { ...QUICK, signal });
  return new Map(answer.ids.map((id, index) => [id, answer.strTokens[index] ?? ""]));
}

/** An answer is one token; a name usually begins with the blank before it. Throws a sentence. */
export async function answerToken(modelId: string, text: string, signal: AbortSignal): Promise<Token> {
  const tokens = await tokenize(modelId, text, signal, BosPolicy.NONE);
  if (tokens.length === 1) return tokens[0]!;
  const parts = tokens.map((token) => JSON.stringify(token.text)).join(", ");
  throw new Error(`'${text}' is ${tokens.length} tokens of this model (${parts}); an answer is one. ` +
    "Mind the blank in front: ' Mary' and 'Mary' differ.");
}

/** Blanks and line breaks made visible. */
export function visible(text: string): string {
  return text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ +| +$/g, (blanks) => "·".repeat(blanks.length)) || "∅";
}
