// SPDX-License-Identifier: Apache-2.0
// Everything is bundled into dist/, which the daemon reads at its start: index.html and assets/, one
// folder deep (server/page.c). `npm run dev` talks to the daemon of $ABLATE_HTTP through Vite instead.
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const daemon = process.env["ABLATE_HTTP"] ?? "http://127.0.0.1:8080";

export default defineConfig({
  resolve: { alias: { "#gen": fileURLToPath(new URL("./build/gen", import.meta.url)) } },
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: { target: "es2022", chunkSizeWarningLimit: 1500, sourcemap: false },
  server: { proxy: { "^/(ablate|grpc)\\.": daemon, "/metrics": daemon } },
  test: { include: ["test/**/*.test.ts"], environment: "node" },
});
