// SPDX-License-Identifier: Apache-2.0
// Generates the messages and services of proto/ into FOLDER/build/gen, with protoc (a build tool of
// the daemon anyway) and FOLDER's protoc-gen-es. Run before the tests, and by the dashboard's build;
// nothing generated is committed.
//
//   node generate.mjs [FOLDER [js|ts]]    this folder and js, if not said otherwise
//
// Beside the code it leaves protos.binpb, the descriptors with their comments.
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const protoRoot = join(here, "..", "..", "..", "proto");
const folder = resolve(process.argv[2] ?? here);
const target = process.argv[3] ?? "js";
const out = join(folder, "build", "gen");

function protosBelow(below) {
  return readdirSync(below, { withFileTypes: true }).flatMap((entry) => {
    const path = join(below, entry.name);
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
    `--plugin=protoc-gen-es=${join(folder, "node_modules", ".bin", "protoc-gen-es")}`,
    `-I${protoRoot}`,
    `--es_out=${out}`,
    `--es_opt=target=${target},import_extension=js`,
    "--include_source_info",
    `--descriptor_set_out=${join(out, "protos.binpb")}`,
    ...protos,
  ],
  { stdio: "inherit" },
);
