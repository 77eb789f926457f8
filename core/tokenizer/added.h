/* added.h -- added tokens: texts that become one id wherever they stand. Private to
 * core/tokenizer.
 *
 * OWNERSHIP  abl_added_finish() ends all that a set holds; it borrows no text.
 * THREADS    One thread while it is filled; any thread may read afterwards.
 * ERRORS     RESOURCE_EXHAUSTED when there is no memory; nothing else fails.
 */
#ifndef ABLATE_CORE_TOKENIZER_ADDED_H
#define ABLATE_CORE_TOKENIZER_ADDED_H

#include "core/tokenizer/text.h"

ABL_BEGIN_DECLS

typedef struct abl_added_token {
    int32_t id;
    bool single_word; /* only where no word character touches it */
    bool lstrip;      /* takes the white space before it */
    bool rstrip;      /* and after it */
} abl_added_token;

typedef struct abl_added_node {
    int32_t token;   /* index in tokens; -1: no token ends here */
    int32_t child;   /* first child; -1: none */
    int32_t sibling; /* next child of the same parent; -1: none */
    unsigned char byte;
} abl_added_node;

/* A set of texts, as a trie over bytes. */
typedef struct abl_added {
    abl_added_token *tokens;
    size_t token_count;
    size_t token_capacity;
    abl_added_node *nodes; /* [0] is the root */
    size_t node_count;
    size_t node_capacity;
    int32_t first[256]; /* the root's children by byte; -1: none */
} abl_added;

ABL_MUST_CHECK abl_code abl_added_init(abl_added *added, abl_status *ret_status);
void abl_added_finish(abl_added *added);

/* Adds a token under its text; a text that is there already keeps its first token. */
ABL_MUST_CHECK abl_code abl_added_add(abl_added *added, abl_text text, abl_added_token token,
                                      abl_status *ret_status);

/* The id of a text; -1: it is not in the set. */
int32_t abl_added_find(const abl_added *added, abl_text text);

/* The first token in the text at or after `from`: leftmost, and of those that begin there the
 * longest. NULL: none. Its single_word, lstrip and rstrip are the caller's to honour. */
const abl_added_token *abl_added_search(const abl_added *added, abl_text text, size_t from,
                                        size_t *ret_start, size_t *ret_end);

ABL_END_DECLS
#endif
