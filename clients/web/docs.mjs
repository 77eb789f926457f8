// SPDX-License-Identifier: Apache-2.0
// The comments of proto/ as JSON, for forms that explain their fields: build/gen/docs.json maps
// "ablate.v1.EapIg.steps" to its comment.
import { readFileSync, writeFileSync } from "node:fs";
import { fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";

const gen = new URL("build/gen/", import.meta.url).pathname;
const set = fromBinary(FileDescriptorSetSchema, readFileSync(`${gen}protos.binpb`));
const docs = {};

// The full name of what a path of SourceCodeInfo points at, if it is of a kind that forms show.
function nameAt(file, path) {
  if (path[0] === 5 && path.length >= 2) {
    const type = file.enumType[path[1]];
    if (path.length === 2) return `${file.package}.${type.name}`;
    if (path[2] === 2 && path.length === 4) return `${file.package}.${type.name}.${type.value[path[3]].name}`;
  }
  if (path[0] !== 4) return undefined;
  const message = file.messageType[path[1]];
  const name = `${file.package}.${message.name}`;
  if (path.length === 2) return name;
  if (path.length !== 4) return undefined;
  if (path[2] === 2) return `${name}.${message.field[path[3]].name}`;
  if (path[2] === 8) return `${name}.${message.oneofDecl[path[3]].name}`;
  return undefined;
}

for (const file of set.file) {
  for (const { path, leadingComments, trailingComments } of file.sourceCodeInfo?.location ?? []) {
    const text = (leadingComments || trailingComments).trim().replace(/\s*\n\s*/g, " ");
    const name = text && nameAt(file, path);
    if (name) docs[name] = text;
  }
}
writeFileSync(`${gen}docs.json`, JSON.stringify(docs));
