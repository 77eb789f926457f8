// SPDX-License-Identifier: Apache-2.0
#include "tests/golden/laws.h"

#include "core/base/mem.h"

float *laws_logits(const laws_subject *s, const int32_t *tokens, const float *mask,
                   const abl_sources *ablated) {
    const abl_patch_options options = {.model = s->model,
                                       .graph = s->graph,
                                       .tokens = tokens,
                                       .batch = LAWS_PROMPTS,
                                       .seq = LAWS_SEQ,
                                       .mask = mask,
                                       .ablated = ablated};
    float *logits = abl_calloc((size_t)abl_patch_logit_count(&options), sizeof *logits);
    abl_status status;
    golden_must(abl_patch_forward(&options, logits, &status), &status);
    return logits;
}

double laws_loss(const laws_subject *s, const float *mask, const abl_sources *ablated) {
    float *logits = laws_logits(s, s->batch.clean, mask, ablated);
    double loss =
        abl_loss_value(s->loss, &s->batch, logits, abl_model_get_config(s->model)->d_vocab_out);
    abl_free(logits);
    return loss;
}

abl_sources *laws_ablation(const laws_subject *s, abl_ablation ablation) {
    abl_sources *sources = NULL;
    abl_status status;
    if (ablation != ABL_ABLATION_ZERO) {
        golden_must(abl_sources_create(s->model, NULL, s->batch.corrupt, LAWS_PROMPTS, LAWS_SEQ,
                                       &sources, &status),
                    &status);
    }
    return sources;
}

float *laws_scores(const laws_subject *s, abl_prune_algorithm algorithm, abl_ablation ablation) {
    const abl_prune_options options = {
        .algorithm = algorithm,
        .model = s->model,
        .graph = s->graph,
        .batches = {.dataset = s->dataset, .count = LAWS_PROMPTS, .batch_size = LAWS_PROMPTS},
        .ablation = ablation,
        .grad_function = s->loss.grad_function,
        .answer_function = s->loss.answer_function};
    return edges_scores(&options);
}
