// SPDX-License-Identifier: Apache-2.0
// Errors in words: what happened, and what to do. The daemon's own sentences are kept as they are.
import { Code, ConnectError } from "@connectrpc/connect";
import { ErrorInfoSchema } from "#gen/google/rpc/error_details_pb.js";

const LOST = "The daemon does not answer. Is it still running? This page keeps trying by itself.";

/** The daemon's reason, "GRAPH_UNKNOWN"; empty where the error is not the daemon's. */
export function reasonOf(error: unknown): string {
  return ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason ?? "";
}

/** Whether the call was ended by ourselves. */
export function isCancelled(error: unknown): boolean {
  return (
    (error instanceof DOMException && error.name === "AbortError") ||
    ConnectError.from(error).code === Code.Canceled
  );
}

/** A sentence of this page's own. What a call ends with is a ConnectError, what fetch does a TypeError. */
function isOwn(error: unknown): error is Error {
  const calls = [ConnectError, TypeError, DOMException];
  return error instanceof Error && !calls.some((kind) => error instanceof kind);
}

/** Whether nobody answered, so that trying again may help; a refusal of the daemon's is not that. */
export function isLost(error: unknown): boolean {
  if (isOwn(error)) return false;
  const known = ConnectError.from(error);
  if (reasonOf(error) !== "") return known.code === Code.Unavailable;
  return [Code.Unavailable, Code.DeadlineExceeded, Code.Unknown, Code.Aborted].includes(known.code);
}

/** One or two sentences for people. */
export function describe(error: unknown): string {
  if (isOwn(error)) return full(error.message);
  const known = ConnectError.from(error);
  const reason = reasonOf(error);
  if (reason === "" && isLost(error)) return LOST;
  const sentence = known.rawMessage.replace(/\s+$/, "");
  if (known.code === Code.NotFound && /_UNKNOWN$/.test(reason)) {
    const found = sentence.replace(/; List\w+ lists them\.?$/, ""); // that is for programs; here there are lists to choose from
    return `${full(found)} It was removed, or the daemon was started again since. Choose another.`;
  }
  if (known.code === Code.Unimplemented && reason === "") {
    return `This daemon does not know that call; it is older than this page. Reload the page. (${sentence})`;
  }
  return full(sentence) || `The call failed (${Code[known.code]}).`;
}

function full(sentence: string): string {
  if (sentence === "") return "";
  const text = sentence.charAt(0).toUpperCase() + sentence.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
