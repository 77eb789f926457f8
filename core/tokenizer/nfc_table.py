#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes nfc_table.h: canonical decompositions, compositions and combining classes.

usage: nfc_table.py > nfc_table.h    (needs the Python package `tokenizers` 0.20.3)

The data is Python's unicodedata, reduced to what the normalizer of Hugging Face's `tokenizers`
knows: that one is of an older Unicode, and ids must equal its. Each entry is probed there.
"""
import unicodedata as ud

from tokenizers import normalizers

HANGUL = range(0xAC00, 0xAC00 + 11172)
nfc = normalizers.NFC().normalize_str
nfd = normalizers.NFD().normalize_str
codepoints = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def combining(c):
    """The combining class there, or 0: a class is real if it moves the character."""
    own = ud.combining(chr(c))
    if own == 0:
        return 0
    low, high = "\u0334", "\u0345"  # classes 1 and 240, the extremes
    moved = nfd(high + chr(c)) == chr(c) + high if own < 240 else nfd(chr(c) + low) == low + chr(c)
    return own if moved or nfd(chr(c)) != chr(c) else 0


def rows(items, per_line):
    for i in range(0, len(items), per_line):
        print("    " + " ".join(items[i:i + per_line]))


pairs = []
for c in codepoints:
    parts = ud.decomposition(chr(c))
    if c in HANGUL or not parts or parts.startswith("<") or nfd(chr(c)) == chr(c):
        continue
    a, b = ([int(p, 16) for p in parts.split()] + [0])[:2]
    pairs.append((c, a, b))
order = sorted((i for i, (c, a, b) in enumerate(pairs) if b and nfc(chr(a) + chr(b)) == chr(c)),
               key=lambda i: pairs[i][1:])
ranges = []
for c in codepoints:
    k = combining(c)
    if k and ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == k:
        ranges[-1][1] = c
    elif k:
        ranges.append([c, c, k])

print("""/* nfc_table.h -- data for nfc.c. Written by nfc_table.py; do not edit. */
#ifndef ABLATE_CORE_TOKENIZER_NFC_TABLE_H
#define ABLATE_CORE_TOKENIZER_NFC_TABLE_H

#include <stdint.h>

/* clang-format off */
/* One step of canonical decomposition, by codepoint; second 0: a single character. */
static const struct { uint32_t codepoint, first, second; } nfc_pairs[] = {""")
rows([f"{{0x{c:X}, 0x{a:X}, 0x{b:X}}}," for c, a, b in pairs], 4)
print("""};

/* Those of nfc_pairs that compose, by (first, second). */
static const uint16_t nfc_compositions[] = {""")
rows([f"{i}," for i in order], 15)
print("""};

/* Combining classes; 0 elsewhere. */
static const struct { uint32_t first, last; uint8_t value; } nfc_classes[] = {""")
rows([f"{{0x{a:X}, 0x{b:X}, {k}}}," for a, b, k in ranges], 5)
print("""};
/* clang-format on */

#endif""")
