/* SPDX-License-Identifier: Apache-2.0
 *
 * The table is open addressing with linear probes, at most half full, and never grows: the number
 * of keys is known when it is made. A slot holds 32 bits of the hash beside the id, so that a probe
 * rarely has to look at a text. A chained table was not tried: tokens are looked up for every word,
 * and one cache line a look-up is what this costs. */
#include "core/tokenizer/text.h"

#include "core/base/mem.h"

#include <string.h>
#include <sys/random.h>

abl_code abl_grow(void **block, size_t *capacity, size_t count, size_t item_bytes,
                  abl_status *ret_status) {
    if (count <= *capacity) {
        return ABL_CODE_OK;
    }
    size_t wanted = *capacity * 2 > count ? *capacity * 2 : count;
    wanted = wanted < 16 ? 16 : wanted;
    void *grown = abl_realloc_array(*block, wanted, item_bytes);
    if (grown == NULL) {
        return abl_fail_oom(ret_status);
    }
    *block = grown;
    *capacity = wanted;
    return ABL_CODE_OK;
}

abl_code abl_ids_add(abl_ids *ids, int32_t id, abl_status *ret_status) {
    if (ids->count == ids->capacity) {
        void *items = ids->items;
        abl_code code =
            abl_grow(&items, &ids->capacity, ids->count + 1, sizeof *ids->items, ret_status);
        ids->items = items;
        if (code != ABL_CODE_OK) {
            return code;
        }
    }
    ids->items[ids->count++] = id;
    return ABL_CODE_OK;
}

/* Unicode 15, table 3-7: what may follow each lead byte. */
size_t abl_utf8_length(const char *data, size_t size, size_t *ret_bad) {
    unsigned char lead = (unsigned char)data[0];
    size_t bad = 1;
    size_t length = 0;
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    if (lead < 0x80) {
        return 1;
    }
    if (lead >= 0xC2 && lead <= 0xDF) {
        length = 2;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        length = 3;
        low = lead == 0xE0 ? 0xA0 : low;
        high = lead == 0xED ? 0x9F : high;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        length = 4;
        low = lead == 0xF0 ? 0x90 : low;
        high = lead == 0xF4 ? 0x8F : high;
    }
    while (bad < length && bad < size && (unsigned char)data[bad] >= low &&
           (unsigned char)data[bad] <= high) {
        bad++;
        low = 0x80;
        high = 0xBF;
    }
    if (length != 0 && bad == length) {
        return length;
    }
    if (ret_bad != NULL) {
        *ret_bad = bad;
    }
    return 0;
}

uint32_t abl_utf8_decode(const char *data, size_t length) {
    static const unsigned char lead_mask[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t codepoint = (unsigned char)data[0] & lead_mask[length];
    for (size_t i = 1; i < length; i++) {
        codepoint = codepoint << 6 | ((unsigned char)data[i] & 0x3F);
    }
    return codepoint;
}

size_t abl_utf8_encode(uint32_t codepoint, char bytes[4]) {
    if (codepoint < 0x80) {
        bytes[0] = (char)codepoint;
        return 1;
    }
    size_t length = codepoint < 0x800 ? 2 : codepoint < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = length - 1; i > 0; i--) {
        bytes[i] = (char)(0x80 | (codepoint & 0x3F));
        codepoint >>= 6;
    }
    bytes[0] = (char)(lead[length] | codepoint);
    return length;
}

size_t abl_utf8_check(const char *data, size_t size) {
    size_t at = 0;
    while (at < size) {
        size_t length = abl_utf8_length(data + at, size - at, NULL);
        if (length == 0) {
            return at;
        }
        at += length;
    }
    return size;
}

uint64_t abl_hash_seed(void) {
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) {
        seed = 0x9E3779B97F4A7C15U; /* early boot only; the table is right with any seed */
    }
    return seed;
}

static uint32_t text_hash(uint64_t seed, const char *data, size_t size) {
    uint64_t hash = seed ^ (size * 0x9E3779B97F4A7C15U);
    while (size > 0) {
        uint64_t word = 0;
        size_t taken = size < sizeof word ? size : sizeof word;
        memcpy(&word, data, taken);
        hash = (hash ^ word) * 0xFF51AFD7ED558CCDU;
        hash ^= hash >> 32;
        data += taken;
        size -= taken;
    }
    return (uint32_t)(hash ^ hash >> 29);
}

abl_code abl_table_init(abl_table *table, int32_t id_end, size_t indexed_max,
                        abl_status *ret_status) {
    size_t slot_count = 16;
    while (slot_count < indexed_max * 2) {
        slot_count *= 2;
    }
    *table = (abl_table){.id_end = id_end, .slot_mask = slot_count - 1, .seed = abl_hash_seed()};
    table->items = abl_calloc((size_t)id_end, sizeof *table->items);
    table->slots = abl_calloc(slot_count, sizeof *table->slots);
    if (table->items == NULL || table->slots == NULL) {
        return abl_fail_oom(ret_status);
    }
    for (size_t i = 0; i < slot_count; i++) {
        table->slots[i].id = -1;
    }
    return ABL_CODE_OK;
}

void abl_table_finish(abl_table *table) {
    abl_free(table->items);
    abl_free(table->slots);
    *table = (abl_table){0};
}

/* The slot that holds the text, or the free one where it would go. */
static abl_table_slot *table_slot(const abl_table *table, uint32_t hash, const char *data,
                                  size_t size) {
    for (size_t at = hash & table->slot_mask;; at = (at + 1) & table->slot_mask) {
        abl_table_slot *slot = &table->slots[at];
        if (slot->id < 0) {
            return slot;
        }
        const abl_text *text = &table->items[slot->id];
        if (slot->hash == hash && text->size == size && memcmp(text->data, data, size) == 0) {
            return slot;
        }
    }
}

bool abl_table_index(abl_table *table, int32_t id) {
    const abl_text *text = &table->items[id];
    uint32_t hash = text_hash(table->seed, text->data, text->size);
    abl_table_slot *slot = table_slot(table, hash, text->data, text->size);
    if (slot->id >= 0) {
        return false;
    }
    *slot = (abl_table_slot){.hash = hash, .id = id};
    return true;
}

int32_t abl_table_find(const abl_table *table, const char *data, size_t size) {
    return table_slot(table, text_hash(table->seed, data, size), data, size)->id;
}
