// SPDX-License-Identifier: Apache-2.0
/** The slider's steps: even steps of the logarithm, so small circuits can be told apart. */
export const STEPS = 400;

export function sizeAt(step: number, edgeCount: number): number {
  if (step <= 0 || edgeCount === 0) return 0;
  return Math.max(1, Math.min(edgeCount, Math.round(edgeCount ** (step / STEPS))));
}

export function stepOf(size: number, edgeCount: number): number {
  if (size <= 0 || edgeCount <= 1) return 0;
  return Math.max(1, Math.round((Math.log(size) / Math.log(edgeCount)) * STEPS));
}
