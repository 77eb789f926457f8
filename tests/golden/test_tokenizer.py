# SPDX-License-Identifier: Apache-2.0
"""The C tokenizer against Hugging Face `tokenizers`: recorded strings, then a differential fuzz.

Needs the package `tokenizers` 0.20.3 and the program `tokenize`, from $ABLATE_BUILD (default:
build/dev). That version's Unicode tables are those of PCRE2 10.42 (Debian 12, Ubuntu 24.04). Others
know other new letters: on these strings 0.23.3 gives other ids at hieroglyphs of Unicode 16, and
decodes a normalized added token to other text. SmolLM2 is read from $ABLATE_SMOLLM2 (default:
build/models/smollm2-135m). What is missing is skipped, with the reason.

ABLATE_FUZZ_STRINGS is how many random strings each tokenizer gets (default 10000), ABLATE_FUZZ_SEED
the seed.
"""
import copy
import json
import os
import pathlib
import random
import struct
import subprocess

import pytest

tokenizers = pytest.importorskip("tokenizers", reason="pip install tokenizers==0.20.3")

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = pathlib.Path(os.environ.get("ABLATE_BUILD", ROOT / "build/dev")) / "bin/tokenize"
GOLDENS = pathlib.Path(os.environ.get("ABLATE_GOLDENS", ROOT.parent / "shared/goldens"))
SMOLLM2 = pathlib.Path(os.environ.get("ABLATE_SMOLLM2", ROOT / "build/models/smollm2-135m"))
TINY = ROOT / "tests/golden/data/models/tiny-ioi/tokenizer.json"
STRINGS = int(os.environ.get("ABLATE_FUZZ_STRINGS", "10000"))
SEED = int(os.environ.get("ABLATE_FUZZ_SEED", "20"))

if tokenizers.__version__ != "0.20.3":
    pytest.skip(f"tokenizers is {tokenizers.__version__}, not 0.20.3", allow_module_level=True)
if not TOOL.exists():
    pytest.skip(f"no {TOOL}: build first, or set ABLATE_BUILD", allow_module_level=True)

GPT2_LIKE = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BARE = dict(GPT2_LIKE, use_regex=False)
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


# Every code point of the planes in use, and some of the empty ones, which hold nothing different.
POINTS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000
          and (c < 0x33480 or 0xE0000 <= c < 0xE0200 or c % 251 == 0)]


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def added(first_id, *flags_of):
    return [dict({"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                  "special": True, "id": first_id + i, "content": content}, **flags)
            for i, (content, flags) in enumerate(flags_of)]


# What real families put around the model, on tiny-ioi's vocabulary; each is a change to the file.
VARIANTS = {
    "llama3": dict(pre_tokenizer=sequence(split({"Regex": LLAMA3}), BARE), ignore_merges=True),
    "qwen2": dict(pre_tokenizer=sequence(split({"Regex": QWEN2}), BARE), normalizer={"type": "NFC"}),
    "gpt4o": dict(pre_tokenizer=sequence(split({"Regex": GPT4O}), BARE)),
    "neox": dict(pre_tokenizer=dict(GPT2_LIKE, add_prefix_space=True), normalizer={"type": "NFC"}),
    "digits": dict(pre_tokenizer=sequence({"type": "Digits", "individual_digits": False}, GPT2_LIKE)),
    "words": dict(pre_tokenizer=sequence(split({"Regex": r"\w"}, "Contiguous"), BARE)),
    "spaces": dict(pre_tokenizer=sequence(split({"Regex": r"\s+"}, "Removed"), BARE)),
    "inverted": dict(pre_tokenizer=sequence(split({"Regex": r"\d|\S"}, "Removed", True), BARE)),
    "previous": dict(pre_tokenizer=sequence(split({"Regex": r"[aeiou\s]"}, "MergedWithPrevious"), BARE)),
    "next": dict(pre_tokenizer=sequence(split({"String": " "}, "MergedWithNext"), BARE)),
    "empty": dict(pre_tokenizer=sequence(split({"Regex": r"\d*"}), split({"Regex": r"x*?"}), GPT2_LIKE)),
    "added": dict(normalizer={"type": "NFC"}, pre_tokenizer=GPT2_LIKE, added=added(
        1000, ("<pad>", {"lstrip": True}), ("<eos>", {"rstrip": True, "lstrip": True}),
        ("<e>", {"special": False}), ("cafe\u0301", {"normalized": True, "special": False}),
        ("word", {"single_word": True, "normalized": True}), ("<eos><eos>", {}), ("\u00e9\u0323", {}),
        ("  ", {"special": False}), ("\u200d", {"single_word": True, "rstrip": True}))),
}


def variant(name):
    change = VARIANTS[name]
    data = json.loads(TINY.read_text(encoding="utf-8"))
    data["pre_tokenizer"] = change["pre_tokenizer"]
    data["normalizer"] = change.get("normalizer")
    data["model"]["ignore_merges"] = change.get("ignore_merges", False)
    data["added_tokens"] += copy.deepcopy(change.get("added", []))
    return data


PIECES = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>", "<eos>", "<e>", "caf\u00e9", "cafe\u0301", "word",
    "'s", "'S", "'t", "'re", "'VE", "'m", "'ll", "'d", "'\u017f", "don't", "WE'LL", " the", "The", "  ", "\n",
    "\r\n", "\t", " \n", "\n\n", "123", "1234567", "3.14", "hello", " world", "Hello", "I", "Mary", " John",
    "\u00bd", "\u00b2", "\u0663\u0664", "\u0967\u0968", "\u4e00\u4e8c", "\uff11\uff12", "\U0001d7d8",
    "\U00011f50", "\u2160", "\u1369", "\u00e9", "e\u0301", "\u0301\u0323", "\u0323\u0301", "\u1e69", "q\u0307\u0323",
    "\uac00", "\u1100\u1161\u11a8", "\uac00\u11a7",
    "\U00011935\U00011930", "\u0915\u093c", "\u212b", "\ufb01", "\u0345\u0301", "\U0001d15e",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\U0001f44d\U0001f3fd",
    "\u180e", "\u200b", "\u200d", "\u200c", "\ufeff", "\u2060", "\x00", "\x1c", "\x1f", "\x7f", "\x85", "\xa0", "\xad",
    "\u1680", "\u2000", "\u2003", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000",
    "a" * 70, " " * 40, "\n" * 30, "ab" * 40, "'" * 9, "0" * 33, "\u0301" * 40, "(", "!?", "...", "_", "-", "/", "`",
]
ALPHABET = "abcdefghijklmnopqrstuvwxyzABCXYZ     0123456789.,'\n"


def character(rng):
    kind = rng.random()
    if kind < 0.5:
        c = rng.randrange(0x80) if kind < 0.25 else rng.randrange(0x3000)
    elif kind < 0.8:
        c = rng.randrange(0x10000)
    else:  # every plane, assigned or not
        c = rng.randrange(0x110000) if kind < 0.9 else 0x10000 + rng.randrange(0x20000)
    return chr(c if not 0xD800 <= c < 0xE000 else 0xFFFD)


def random_string(rng):
    parts = []
    for _ in range(rng.choice((1, 2, 3, 5, 8, 13, 30))):
        kind = rng.random()
        if kind < 0.35:
            parts.append(character(rng))
        elif kind < 0.65:
            parts.append(rng.choice(PIECES))
        elif kind < 0.75:
            parts.append(rng.choice(PIECES) * rng.randrange(1, 5))
        elif kind < 0.8:
            parts.append(character(rng) * rng.randrange(1, 40))
        else:
            parts.append("".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 12))))
    return "".join(parts)


def ours(path, texts):
    """(ids, text of them, text without special tokens) of each text, from the C program."""
    records = b"".join(struct.pack("<I", len(b)) + b for b in (t.encode() for t in texts))
    done = subprocess.run([str(TOOL), str(path)], input=records, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().split("\n")[:-1]
    assert len(lines) == len(texts)
    for line in lines:
        assert not line.startswith("!"), line
        ids, text, bare = line.split("\t")
        yield [int(i) for i in ids.split()], bytes.fromhex(text).decode(), bytes.fromhex(bare).decode()


def compare(path, texts):
    theirs = tokenizers.Tokenizer.from_file(str(path))
    wrong = []
    for text, (ids, decoded, bare) in zip(texts, ours(path, texts)):
        right = theirs.encode(text, add_special_tokens=False).ids
        same = ids == right
        same = same and decoded == theirs.decode(right, skip_special_tokens=False)
        same = same and bare == theirs.decode(right, skip_special_tokens=True)
        if not same:
            wrong.append((text, ids, right))
    print(f"{path}: {len(texts)} strings, {len(wrong)} differ")
    assert not wrong, f"{len(wrong)} of {len(texts)} differ, first {wrong[0]!r}"


def random_strings(count, salt):
    rng = random.Random(f"{SEED} {salt}")
    return [random_string(rng) for _ in range(count)]


@pytest.fixture(params=["tiny-ioi", "tiny-rand", "smollm2-135m"])
def model_file(request):
    path = TINY.parents[1] / request.param / "tokenizer.json"
    if request.param == "smollm2-135m":
        path = SMOLLM2 / "tokenizer.json"
        if not path.exists():
            pytest.skip(f"no {path}: fetch SmolLM2-135M, or set ABLATE_SMOLLM2")
    return path


def test_random_strings_get_the_ids_of_hugging_face(model_file):
    compare(model_file, random_strings(STRINGS, model_file.parent.name))


def test_every_code_point_gets_the_ids_of_hugging_face(tmp_path):
    """Beside letters, digits, spaces and marks, and composed: another class of one character shows.

    SmolLM2's pre-tokenizer on the tiny vocabulary, which merges bytes of a character hardly ever.
    """
    data = variant("digits")
    data["normalizer"] = {"type": "NFC"}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    texts = ["".join(f"a{c}\u0323 1{c}\uac00{c}" for c in POINTS[i:i + 64]) for i in range(0, len(POINTS), 64)]
    compare(path, texts)


def test_every_code_point_beside_an_added_token_gets_the_ids_of_hugging_face(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(variant("added"), ensure_ascii=False), encoding="utf-8")
    texts = ["".join(f"{c}word,word{c},<eos>{c}" for c in POINTS[i:i + 64])
             for i in range(0, len(POINTS), 64)]
    compare(path, texts)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_parts_of_other_families_give_the_ids_of_hugging_face(name, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(variant(name), ensure_ascii=False), encoding="utf-8")
    compare(path, random_strings(max(STRINGS // 5, 1), name))


def test_long_words_get_the_ids_of_hugging_face(model_file):
    rng = random.Random(SEED)
    texts = ["a" * 20000, "ab" * 10000, "\u0301" * 5000,
             "".join(rng.choice("etaoin") for _ in range(50000)), " " * 30000 + "x", "\n \n" * 9000]
    compare(model_file, texts)


def test_recorded_strings_get_the_recorded_ids():
    golden = GOLDENS / "cases/smollm2-135m/tokens.json"
    for path in (golden, SMOLLM2 / "tokenizer.json"):
        if not path.exists():
            pytest.skip(f"no {path}")
    cases = json.loads(golden.read_text(encoding="utf-8"))
    texts = [case["text"] for case in cases]
    for case, (ids, decoded, _) in zip(cases, ours(SMOLLM2 / "tokenizer.json", texts)):
        assert ids == case["ids"], case["text"]
        assert decoded == case["decoded"], case["text"]


def test_recorded_strings_get_the_other_ids_without_digit_splitting(tmp_path):
    golden = GOLDENS / "cases/smollm2-135m/tokens.json"
    for path in (golden, SMOLLM2 / "tokenizer.json"):
        if not path.exists():
            pytest.skip(f"no {path}")
    data = json.loads((SMOLLM2 / "tokenizer.json").read_text(encoding="utf-8"))
    data["pre_tokenizer"] = GPT2_LIKE
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    cases = json.loads(golden.read_text(encoding="utf-8"))
    for case, (ids, _, _) in zip(cases, ours(path, [case["text"] for case in cases])):
        assert ids == case["ids_bytelevel_only"], case["text"]
