/* SPDX-License-Identifier: Apache-2.0
 *
 * Hugging Face builds an Aho-Corasick automaton with leftmost-longest matches. At each place that
 * means: the longest text of the set that begins here. A plain trie, walked from each byte that
 * begins a token at all, finds the same; it is quadratic only in the length of a token, which has a
 * ceiling, and real sets begin with one or two different bytes. Children are sibling lists, but for
 * the root, which is looked at for every byte of every prompt. */
#include "core/tokenizer/added.h"

#include "core/base/mem.h"

#include <string.h>

static abl_code added_node(abl_added *added, unsigned char byte, int32_t *ret_node,
                           abl_status *ret_status) {
    void *nodes = added->nodes;
    abl_code code = abl_grow(&nodes, &added->node_capacity, added->node_count + 1,
                             sizeof *added->nodes, ret_status);
    added->nodes = nodes;
    if (code == ABL_CODE_OK) {
        *ret_node = (int32_t)added->node_count++;
        added->nodes[*ret_node] =
            (abl_added_node){.token = -1, .child = -1, .sibling = -1, .byte = byte};
    }
    return code;
}

abl_code abl_added_init(abl_added *added, abl_status *ret_status) {
    *added = (abl_added){0};
    for (size_t i = 0; i < ABL_COUNT_OF(added->first); i++) {
        added->first[i] = -1;
    }
    int32_t root = 0;
    return added_node(added, 0, &root, ret_status);
}

void abl_added_finish(abl_added *added) {
    abl_free(added->tokens);
    abl_free(added->nodes);
    *added = (abl_added){0};
}

static int32_t added_child(const abl_added *added, int32_t node, unsigned char byte) {
    if (node == 0) {
        return added->first[byte];
    }
    int32_t child = added->nodes[node].child;
    while (child >= 0 && added->nodes[child].byte != byte) {
        child = added->nodes[child].sibling;
    }
    return child;
}

abl_code abl_added_add(abl_added *added, abl_text text, abl_added_token token,
                       abl_status *ret_status) {
    int32_t node = 0;
    for (size_t i = 0; i < text.size; i++) {
        unsigned char byte = (unsigned char)text.data[i];
        int32_t child = added_child(added, node, byte);
        if (child < 0) {
            abl_code code = added_node(added, byte, &child, ret_status);
            if (code != ABL_CODE_OK) {
                return code;
            }
            if (node == 0) {
                added->first[byte] = child;
            } else {
                added->nodes[child].sibling = added->nodes[node].child;
                added->nodes[node].child = child;
            }
        }
        node = child;
    }
    if (added->nodes[node].token >= 0) {
        return ABL_CODE_OK;
    }
    void *tokens = added->tokens;
    abl_code code = abl_grow(&tokens, &added->token_capacity, added->token_count + 1,
                             sizeof *added->tokens, ret_status);
    added->tokens = tokens;
    if (code == ABL_CODE_OK) {
        added->nodes[node].token = (int32_t)added->token_count;
        added->tokens[added->token_count++] = token;
    }
    return code;
}

int32_t abl_added_find(const abl_added *added, abl_text text) {
    int32_t node = 0;
    for (size_t i = 0; i < text.size && node >= 0; i++) {
        node = added_child(added, node, (unsigned char)text.data[i]);
    }
    return node <= 0 || added->nodes[node].token < 0 ? -1
                                                     : added->tokens[added->nodes[node].token].id;
}

const abl_added_token *abl_added_search(const abl_added *added, abl_text text, size_t from,
                                        size_t *ret_start, size_t *ret_end) {
    if (added->token_count == 0) {
        return NULL;
    }
    for (size_t start = from; start < text.size; start++) {
        int32_t token = -1;
        size_t end = start;
        int32_t node = added->first[(unsigned char)text.data[start]];
        for (size_t at = start + 1; node >= 0; at++) {
            if (added->nodes[node].token >= 0) {
                token = added->nodes[node].token;
                end = at;
            }
            node = at < text.size ? added_child(added, node, (unsigned char)text.data[at]) : -1;
        }
        if (token >= 0) {
            *ret_start = start;
            *ret_end = end;
            return &added->tokens[token];
        }
    }
    return NULL;
}
