// SPDX-License-Identifier: Apache-2.0
// Says how large the built dashboard is, and fails where it is too large to load over a slow line.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const LIMIT_BYTES = 600_000;
const dist = new URL("dist/", import.meta.url).pathname;
const files = readdirSync(dist, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath ?? entry.path, entry.name));
const bytes = files.reduce((sum, file) => sum + gzipSync(readFileSync(file)).length, 0);
console.log(`dashboard: ${files.length} files, ${(bytes / 1000).toFixed(0)} kB gzipped`);
if (bytes > LIMIT_BYTES) {
  console.error(`dashboard: more than the ${LIMIT_BYTES / 1000} kB that it may have`);
  process.exit(1);
}
