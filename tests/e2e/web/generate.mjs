// SPDX-License-Identifier: Apache-2.0
// Generates the messages and services of proto/ into build/gen, with protoc (a build tool of the
// daemon anyway) and protoc-gen-es. Run before the tests; nothing generated is committed.
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const protoRoot = join(here, "..", "..", "..", "proto");
const out = join(here, "build", "gen");

function protosBelow(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return protosBelow(path);
    return entry.name.endsWith(".proto") ? [relative(protoRoot, path)] : [];
  });
}

const protos = ["ablate", "google"].flatMap((name) => protosBelow(join(protoRoot, name)));
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
execFileSync(
  process.env.PROTOC ?? "protoc",
  [
    `--plugin=protoc-gen-es=${join(here, "node_modules", ".bin", "protoc-gen-es")}`,
    `-I${protoRoot}`,
    `--es_out=${out}`,
    "--es_opt=target=js,import_extension=js",
    ...protos,
  ],
  { stdio: "inherit" },
);
