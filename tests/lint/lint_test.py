#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each rule of lint.py catches what it should, and lets good files pass."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

LINT = Path(__file__).with_name("lint.py")
SPDX = "/* SPDX-License-Identifier: Apache-2.0 */\n"

GOOD = {
    "core/base/README.md": "# core/base\n",
    "core/base/a.c": SPDX + '#include "core/base/a.h"\n\n#include <stdlib.h>\n\n'
    "/* strcpy() in a comment is nothing */\nvoid *f(void) {\n    return malloc(1);\n}\n",
    "core/base/a.h": "void *f(void);\n",
    "core/tensor/README.md": "# core/tensor\n",
    "core/tensor/t.cpp": SPDX + "#include <torch/torch.h>\n",
    "server/transport/README.md": "# server/transport\n",
    "server/transport/t.c": SPDX + '#include "core/base/a.h"\n\n#include <grpc/grpc.h>\n',
    "proto/README.md": "# proto\n",
    "proto/ablate/v1/a.proto": 'syntax = "proto3";\n// What it is.\nmessage A {\n'
    "  // Why.\n  string name = 1;\n}\n",
}  # fmt: skip

# What is added to the good tree, and what the lint must say of it.
BAD = [
    ("core/base/b.c", SPDX + '#include "core/tensor/t.h"\n', "an arrow drawn back"),
    ("core/graph/b.c", SPDX + '#include "server/main.h"\n', "an arrow drawn back"),
    ("core/graph/b.c", SPDX + '  #  include "clients/cli/cli.h"\n', "an arrow drawn back"),
    ("core/graph/b.c", SPDX + "#include <torch/torch.h>\n", "only core/tensor"),
    ("core/graph/b.c", SPDX + "#include <ATen/ATen.h>\n", "only core/tensor"),
    ("core/graph/b.c", SPDX + "#include <uv.h>\n", "core has no event loop"),
    ("core/graph/b.c", SPDX + "#include <protobuf-c/protobuf-c.h>\n", "protobuf messages end"),
    ("server/service/b.c", SPDX + "#include <grpc/grpc.h>\n", "know gRPC"),
    ("server/service/b.c", SPDX + "#include <microhttpd.h>\n", "knows HTTP"),
    ("server/runtime/b.c", SPDX + '#include "ablate/v1/a.pb-c.h"\n', "protobuf messages end"),
    ("server/service/b.c", SPDX + '#include "core/tensor/backend.h"\n', "core/tensor's own"),
    ("clients/cli/b.c", SPDX + '#include "server/main.h"\n', "an arrow drawn back"),
    ("core/graph/b.c", SPDX + '#include "b.h"\n', "path from the root"),
    ("core/graph/b.c", SPDX + "int f(void) {\n    return atoi(x);\n}\n", "atoi() is banned"),
    ("core/base/b.c", SPDX + "void f(void) {\n    strcpy(a, b);\n}\n", "strcpy() is banned"),
    ("core/graph/b.c", SPDX + "void f(void) {\n    free(malloc(1));\n}\n", "the heap is"),
    ("core/graph/b.c", "int a;\n", "SPDX"),
    ("tests/b.py", "a = 1\n", "SPDX"),
    ("core/graph/b.c", SPDX + "\tint a;\n", "a tab"),
    ("core/graph/b.c", SPDX + "int a; \n", "blanks at the end"),
    ("core/graph/b.c", SPDX + "int a;", "no newline"),
    ("core/graph/b.c", SPDX + "/* " + "a" * 100 + " */\n", "106 columns"),
    ("core/graph/b.h", "/* TODO */\n", "TODO"),
    ("deploy/b.sh", "# SPDX-License-Identifier: Apache-2.0\ncd /" + "work/x\n", "one machine"),
    ("docs/b.md", "Run /" + "home/someone/ablate.\n", "one machine"),
    ("proto/b.proto", "message B {\n}\n", "'message B' has no comment"),
    ("proto/b.proto", "// B.\nmessage B {\n  repeated string a = 1;\n}\n", "has no comment"),
    ("proto/b.proto", "// S.\nservice S {\n  rpc Get(A) returns (B);\n}\n", "'rpc Get'"),
    ("core/graph/b.c", SPDX, "this folder holds code"),
]  # fmt: skip


def run(files: dict[str, str]) -> tuple[int, str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        command = [sys.executable, str(LINT), "--no-tools", "--root", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


class LintTest(unittest.TestCase):
    def test_a_good_tree_passes(self) -> None:
        code, output = run(GOOD)
        self.assertEqual(code, 0, output)

    def test_each_bad_file_is_caught(self) -> None:
        for name, text, said in BAD:
            with self.subTest(name=name, said=said):
                code, output = run({**GOOD, name: text})
                self.assertEqual(code, 1, output)
                self.assertIn(said, output)
                self.assertIn(str(Path(name).parent), output)


if __name__ == "__main__":
    unittest.main()
