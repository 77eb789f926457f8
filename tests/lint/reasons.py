#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md: every reason that the daemon can give, with its codes and its sentences.

    tests/lint/reasons.py [--write]

The sentences are read from the sources, so the page cannot tell of other ones. Without --write it
exits 1 when the page is not what it would write. A reason given through a name (`ABL_CONFIG_INVALID` in
core/model) is looked up; those that other functions pass on are in a table below.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "errors.md"
CALL = re.compile(r"\babl_(?:rpc_|call_)?fail\(")
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
# Reasons that reach abl_fail() through an argument or a table: those of the registry's kinds, and of
# readers that many share. Each with its code and what it says.
KINDS = ("MODEL", "GRAPH", "DATASET", "JOB", "ABLATION", "KV_CACHE", "ACTIVATIONS")
PASSED_ON = {
    **{f"{kind}_UNKNOWN": ("NOT_FOUND", "no … has the id '…'") for kind in KINDS},
    **{f"{kind}_IN_USE": ("FAILED_PRECONDITION", "… is in use by …") for kind in KINDS},
    **{
        f"TOO_MANY_{kind}": ("RESOURCE_EXHAUSTED", "there are … …; the limit is …")
        for kind in ("MODELS", "GRAPHS", "DATASETS", "JOBS", "ABLATIONS", "KV_CACHES", "ACTIVATIONS")
    },
    "NODE_UNKNOWN": ("NOT_FOUND", "no node … is in this graph; …"),
    "DATASET_NOT_JSON": ("INVALID_ARGUMENT", "the dataset: … at line …, column …"),
    "FILE_TOO_BIG": ("RESOURCE_EXHAUSTED", "… has … bytes; the limit is …"),
    "HOOK_ROWS": ("INVALID_ARGUMENT", "…: row …; the batch has …"),
    "HOOK_POSITIONS": ("INVALID_ARGUMENT", "…: position …; the prompts have …"),
    "SAFETENSORS_INVALID": ("INVALID_ARGUMENT", "…: what is wrong with the file, and where"),
    "SAFETENSORS_TOO_BIG": ("RESOURCE_EXHAUSTED", "…: … bytes; the limit is …"),
    "GRAPH_OPTIONS_INVALID": ("INVALID_ARGUMENT", "a graph of … cannot be made"),
}  # fmt: skip
HEAD = """# Errors

Each error has a canonical code, a sentence for people, and a reason for programs: the
`google.rpc.ErrorInfo` (domain `ablate`) in `grpc-status-details-bin`, `.reason` on the Python client's
errors, the word in brackets on the command line. Reasons do not change; sentences may. In the sentences
below `…` stands for what the request or the state puts there. `tests/lint/reasons.py --write` makes
this page from the sources.

| reason | code | sentences |
|---|---|---|
"""


def arguments(text: str, start: int) -> list[str]:
    """The arguments of the call whose parenthesis opens before `start`."""
    depth, begin, found, at = 1, start, [], start
    while depth > 0:
        if literal := LITERAL.match(text, at):
            at = literal.end()
            continue
        depth += text[at] in "([{"
        depth -= text[at] in ")]}"
        if depth == 0 or (depth == 1 and text[at] == ","):
            found.append(text[begin:at])
            begin = at + 1
        at += 1
    return found


def reasons_of(argument: str, text: str) -> list[str]:
    """The literals of an argument, or that of the name that it is."""
    if found := LITERAL.findall(argument):
        return found
    name = argument.strip()
    named = re.search(rf'(?:#define\s+{re.escape(name)}|\b{re.escape(name)}\[\]\s*=)\s+"([A-Z0-9_]+)"', text)
    return [named[1]] if named else []


def sentence_of(argument: str) -> str:
    text = "".join(LITERAL.findall(re.sub(r"PRI\w+", '"d"', argument)))
    text = re.sub(r"%[-+ #0]*(?:\*|\d+)?(?:\.(?:\*|\d+))?(?:hh|h|ll|l|z|j|t)?[diouxXeEfgGcsp]", "…", text)
    text = text.replace("%%", "%").replace('\\"', '"').replace("|", "\\|").replace("<", "&lt;")
    return " ".join(text.split())


def collect() -> dict[str, tuple[set[str], list[str]]]:
    found = {reason: ({code}, [says]) for reason, (code, says) in PASSED_ON.items()}
    sources = [p for folder in ("core", "server") for p in sorted((ROOT / folder).rglob("*.[ch]*"))]
    headers = "".join(path.read_text() for path in sources if path.suffix == ".h")
    for path in sources:
        text = path.read_text()
        for call in CALL.finditer(text):
            given = arguments(text, call.end())
            if len(given) < 4:
                continue
            for reason in reasons_of(given[2], text + headers):
                codes, sentences = found.setdefault(reason, (set(), []))
                codes.update(re.findall(r"ABL_CODE_([A-Z_]+)", given[1]))
                if (sentence := sentence_of(given[3])) not in ("", *sentences):
                    sentences.append(sentence)
    return found


def page() -> str:
    rows = [
        f"| `{reason}` | {', '.join(sorted(codes))} | {'<br>'.join(sentences)} |"
        for reason, (codes, sentences) in sorted(collect().items())
    ]
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the page")
    if parser.parse_args().write:
        PAGE.write_text(page())
        return 0
    if not PAGE.exists() or PAGE.read_text() != page():
        print("docs/errors.md is not what the sources say: run tests/lint/reasons.py --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
