// SPDX-License-Identifier: Apache-2.0
// Scores as AutoCircuit's PruneScores: a float32 tensor a destination module, in a safetensors file.
import type { Topology } from "../graph/topology.js";

/** u64 length of the header, the header as JSON padded to 8 bytes, the tensors. */
export function toSafetensors(
  topology: Pick<Topology, "blocks">,
  values: Float32Array,
  metadata: Record<string, string>,
): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = { __metadata__: { format: "ablate.prune_scores", ...metadata } };
  for (const { name, shape, begin, size } of topology.blocks) {
    header[name] = { dtype: "F32", shape, data_offsets: [begin * 4, (begin + size) * 4] };
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = Math.ceil(text.length / 8) * 8;
  const out = new Uint8Array(8 + length + values.length * 4).fill(0x20, 8, 8 + length);
  const view = new DataView(out.buffer);
  view.setBigUint64(0, BigInt(length), true);
  out.set(text, 8);
  values.forEach((value, index) => view.setFloat32(8 + length + index * 4, value, true));
  return out;
}
