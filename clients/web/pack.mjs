// SPDX-License-Identifier: Apache-2.0
// The last step of the build: a .gz beside each file that it makes smaller, which the daemon serves to
// browsers as it is. Says how large the whole is over a line, and fails where that is too much.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const LIMIT_BYTES = 600_000;
const WORTH_IT = 0.95;
const dist = new URL("dist/", import.meta.url).pathname;
const files = readdirSync(dist, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile() && !entry.name.endsWith(".gz"))
  .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
let bytes = 0;
for (const file of files) {
  const plain = readFileSync(file);
  const packed = gzipSync(plain, { level: 9 });
  const smaller = packed.length < plain.length * WORTH_IT;
  if (smaller) writeFileSync(`${file}.gz`, packed);
  bytes += smaller ? packed.length : plain.length;
}
console.log(`dashboard: ${files.length} files, ${(bytes / 1000).toFixed(0)} kB gzipped`);
if (bytes > LIMIT_BYTES) {
  console.error(`dashboard: more than the ${LIMIT_BYTES / 1000} kB that it may have`);
  process.exit(1);
}
