/* laws.h -- what the laws of laws_golden.c are asked of, and how.
 *
 * OWNERSHIP  Arrays that are returned end with abl_free(), sources with abl_sources_destroy().
 * ERRORS     What fails ends the process (golden_must). */
#ifndef ABLATE_TESTS_GOLDEN_LAWS_H
#define ABLATE_TESTS_GOLDEN_LAWS_H

#include "core/metric/loss.h"
#include "core/patch/patch.h"
#include "tests/golden/edges.h"

enum { LAWS_PROMPTS = 3, LAWS_SEQ = 4 };

typedef struct laws_subject {
    const char *family;
    bool smooth;
    bool linear;
    abl_model *model;
    abl_graph *graph;
    abl_dataset *dataset;
    abl_batch batch;
    abl_loss loss;
    char title[64];
} laws_subject;

/* The last position's logits under a mask (NULL: none). */
float *laws_logits(const laws_subject *s, const int32_t *tokens, const float *mask,
                   const abl_sources *ablated);
double laws_loss(const laws_subject *s, const float *mask, const abl_sources *ablated);
/* RESAMPLE, or ZERO, which is NULL. */
abl_sources *laws_ablation(const laws_subject *s, abl_ablation ablation);
float *laws_scores(const laws_subject *s, abl_prune_algorithm algorithm, abl_ablation ablation);

/* The laws of gradients: laws_gradient.c. */
void laws_agree(const laws_subject *s, abl_ablation ablation);
void laws_ig(const laws_subject *s);
void laws_reader(const laws_subject *s, abl_ablation ablation);
void laws_linear(const laws_subject *s);
void laws_micro_by_hand(abl_model *model);

#endif
