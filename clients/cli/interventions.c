/* SPDX-License-Identifier: Apache-2.0
 *
 * Words are cut at blanks, interventions at semicolons; a word with a '=' is a selection, others
 * are the point, the operation and its numbers, in this order. Each intervention is one block of
 * memory: the message, its operation, its lists and its texts, so that ending it is one call. */
#include "clients/cli/interventions.h"

#include "core/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDEX_MAX 256
#define NUMBER_MAX 2
#define WORD_BYTES 512
#define BLANKS " \t\n"

typedef struct spec {
    Ablate__V1__Intervention message; /* first: the message is the block */
    char name[WORD_BYTES];
    int32_t heads[INDEX_MAX];
    int32_t positions[INDEX_MAX];
    int32_t rows[INDEX_MAX];
    Ablate__V1__ZeroOperation zero;
    Ablate__V1__MeanOperation mean;
    Ablate__V1__ScaleOperation scale;
    Ablate__V1__ClampOperation clamp;
    char operation[WORD_BYTES];
    double numbers[NUMBER_MAX];
    size_t number_count;
} spec;

typedef struct fault {
    char *text;
    size_t size;
} fault;

static bool fail(const fault *to, const char *what, const char *word) {
    (void)snprintf(to->text, to->size, "--intervene: %s: '%.80s'", what, word);
    return false;
}

/* ---- words --------------------------------------------------------------------------------- */

static bool read_indices(const char *text, int32_t *indices, size_t *ret_count, const char *word,
                         const fault *to) {
    size_t count = 0;
    for (const char *at = text; count < INDEX_MAX;) {
        char *end = NULL;
        errno = 0;
        long value = strtol(at, &end, 10);
        if (end == at || (*end != ',' && *end != '\0') || errno != 0 || value > INT32_MAX ||
            value < INT32_MIN) {
            return fail(to, "this must be whole numbers, separated by commas", word);
        }
        indices[count++] = (int32_t)value;
        if (*end == '\0') {
            *ret_count = count;
            return true;
        }
        at = end + 1;
    }
    return fail(to, "too many numbers", word);
}

static bool read_over(spec *s, const char *text, const char *word, const fault *to) {
    s->mean.over_rows = strcmp(text, "rows") == 0 || strcmp(text, "rows,pos") == 0;
    s->mean.over_positions = strcmp(text, "pos") == 0 || strcmp(text, "rows,pos") == 0;
    return s->mean.over_rows || s->mean.over_positions
               ? true
               : fail(to, "this must be over=rows, over=pos or over=rows,pos", word);
}

static bool read_selection(spec *s, const char *word, const fault *to) {
    const struct {
        const char *key;
        int32_t *indices;
        size_t *count;
    } lists[] = {{"heads=", s->heads, &s->message.n_heads},
                 {"pos=", s->positions, &s->message.n_positions},
                 {"rows=", s->rows, &s->message.n_rows}};
    for (size_t i = 0; i < ABL_COUNT_OF(lists); i++) {
        size_t length = strlen(lists[i].key);
        if (strncmp(word, lists[i].key, length) == 0) {
            return read_indices(word + length, lists[i].indices, lists[i].count, word, to);
        }
    }
    if (strncmp(word, "over=", 5) == 0) {
        return read_over(s, word + 5, word, to);
    }
    return fail(to, "there is heads=, pos=, rows= and over=, and not this", word);
}

static bool read_number(spec *s, const char *word, const fault *to) {
    char *end = NULL;
    double value = strtod(word, &end);
    if (end == word || *end != '\0' || s->number_count == NUMBER_MAX) {
        return fail(to, "this is not understood", word);
    }
    s->numbers[s->number_count++] = value;
    return true;
}

static bool read_word(spec *s, const char *word, const fault *to) {
    if (s->name[0] == '\0') {
        (void)snprintf(s->name, sizeof s->name, "%s", word);
        return true;
    }
    if (strchr(word, '=') != NULL) {
        return read_selection(s, word, to);
    }
    if (s->operation[0] == '\0') {
        (void)snprintf(s->operation, sizeof s->operation, "%s", word);
        return true;
    }
    return read_number(s, word, to);
}

/* ---- interventions ------------------------------------------------------------------------- */

/* The operation's name and numbers as the message has them. */
static bool finish(spec *s, const fault *to) {
    static const struct {
        const char *name;
        size_t numbers;
        Ablate__V1__Intervention__OperationCase number;
    } operations[] = {{"zero", 0, ABLATE__V1__INTERVENTION__OPERATION_ZERO},
                      {"mean", 0, ABLATE__V1__INTERVENTION__OPERATION_MEAN},
                      {"scale", 1, ABLATE__V1__INTERVENTION__OPERATION_SCALE},
                      {"clamp", 2, ABLATE__V1__INTERVENTION__OPERATION_CLAMP}};
    size_t i = 0;
    while (i < ABL_COUNT_OF(operations) && strcmp(operations[i].name, s->operation) != 0) {
        i++;
    }
    if (i == ABL_COUNT_OF(operations)) {
        return fail(to, "behind the hook point comes zero, mean, scale or clamp, and not",
                    s->operation);
    }
    if (s->number_count != operations[i].numbers) {
        return fail(to, "scale takes one number, clamp two, others none", s->operation);
    }
    s->message.operation_case = operations[i].number;
    s->scale.factor = (float)s->numbers[0];
    s->clamp.low = (float)s->numbers[0];
    s->clamp.high = (float)s->numbers[1];
    switch ((int)operations[i].number) {
    case ABLATE__V1__INTERVENTION__OPERATION_ZERO:
        s->message.zero = &s->zero;
        break;
    case ABLATE__V1__INTERVENTION__OPERATION_MEAN:
        s->message.mean = &s->mean;
        break;
    case ABLATE__V1__INTERVENTION__OPERATION_SCALE:
        s->message.scale = &s->scale;
        break;
    default:
        s->message.clamp = &s->clamp;
        break;
    }
    return true;
}

static spec *spec_create(void) {
    spec *s = abl_calloc(1, sizeof *s);
    if (s != NULL) {
        ablate__v1__intervention__init(&s->message);
        ablate__v1__zero_operation__init(&s->zero);
        ablate__v1__mean_operation__init(&s->mean);
        ablate__v1__scale_operation__init(&s->scale);
        ablate__v1__clamp_operation__init(&s->clamp);
        s->message.name = s->name;
        s->message.heads = s->heads;
        s->message.positions = s->positions;
        s->message.rows = s->rows;
    }
    return s;
}

static bool read_one(spec *s, const char *text, size_t length, const fault *to) {
    const char *end = text + length;
    while (text < end) {
        text += strspn(text, BLANKS);
        size_t bytes = text < end ? strcspn(text, BLANKS ";") : 0;
        char word[WORD_BYTES];
        if (bytes == 0) {
            break;
        }
        if (bytes >= sizeof word) {
            return fail(to, "a word is too long", text);
        }
        memcpy(word, text, bytes);
        word[bytes] = '\0';
        if (!read_word(s, word, to)) {
            return false;
        }
        text += bytes;
    }
    return s->name[0] == '\0' ? fail(to, "there is no hook point", text) : finish(s, to);
}

void abl_interventions_free(abl_cli_interventions *set) {
    for (size_t i = 0; i < set->count; i++) {
        abl_free(set->items[i]); /* the block: spec begins with it */
    }
    abl_free(set->items);
    *set = (abl_cli_interventions){.count = 0};
}

bool abl_interventions_read(const char *text, abl_cli_interventions *ret_set, char *problem,
                            size_t problem_size) {
    const fault to = {problem, problem_size};
    abl_cli_interventions set = {.count = 0};
    size_t most = 1;
    for (const char *at = text; *at != '\0'; at++) {
        most += *at == ';' ? 1 : 0;
    }
    set.items = abl_calloc(most, sizeof(void *));
    bool fine = set.items != NULL || fail(&to, "there is no memory for", text);
    for (const char *at = text; fine;) {
        size_t length = strcspn(at, ";");
        spec *s = spec_create();
        fine = s != NULL ? read_one(s, at, length, &to) : fail(&to, "there is no memory for", at);
        if (s != NULL) {
            set.items[set.count++] = &s->message;
        }
        if (at[length] == '\0') {
            break;
        }
        at += length + 1;
    }
    if (!fine) {
        abl_interventions_free(&set);
        return false;
    }
    *ret_set = set;
    return true;
}
