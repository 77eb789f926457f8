// SPDX-License-Identifier: Apache-2.0
/* AutoCircuit grows a tree from the clean prompt and a circuit from the corrupt one; kinds of
 * ablation that are of the other prompt are of the clean one where the input is the corrupt one. */
#include "core/prune/training_prompts.h"

#include "core/base/mem.h"
#include "core/patch/folded.h"
#include "core/prune/faithfulness.h"
#include "core/prune/knockouts.h"

bool abl_training_input_is_clean(const abl_mask_training_options *options) {
    return options->tree_optimisation || options->knockouts_of != NULL;
}

abl_ablator_options abl_training_ablator(const abl_prune_options *options,
                                         const abl_batches *batches) {
    const bool clean = abl_training_input_is_clean(&options->subnetwork_probing);
    return (abl_ablator_options){.of = {.model = options->model,
                                        .ablation = options->ablation,
                                        .batches = *batches,
                                        .clean = !clean,
                                        .residuals = true,
                                        .interventions = options->interventions,
                                        .graph = options->graph},
                                 .resident = options->resident,
                                 .resident_first = options->resident_first};
}

abl_code abl_training_prompts_open(abl_training_prompts *prompts, const abl_prune_options *options,
                                   const abl_batches *batches, abl_status *ret_status) {
    const abl_mask_training_options *own = &options->subnetwork_probing;
    abl_code code = abl_batches_check_model(batches, options->graph, options->model, ret_status);
    if (code == ABL_CODE_OK) {
        code = abl_prune_check_hooks(options, batches, ret_status);
    }
    prompts->batches = *batches;
    prompts->batch_count = code == ABL_CODE_OK ? abl_batches_count(batches) : 0;
    for (int32_t i = 0; code == ABL_CODE_OK && i < prompts->batch_count; i++) {
        abl_batch batch = abl_batches_at(batches, i);
        code = own->knockouts_of != NULL
                   ? abl_knockouts_check_batch(own, &batch, ret_status)
                   : abl_faithfulness_check(own->faithfulness_target, &batch, ret_status);
    }
    if (code != ABL_CODE_OK) {
        return code;
    }
    prompts->clean = abl_calloc((size_t)prompts->batch_count, sizeof *prompts->clean);
    const abl_ablator_options ablator = abl_training_ablator(options, batches);
    return prompts->clean == NULL ? abl_fail_oom(ret_status)
                                  : abl_ablator_create(&ablator, &prompts->ablator, ret_status);
}

void abl_training_prompts_close(abl_training_prompts *prompts) {
    for (int32_t i = 0; prompts->clean != NULL && i < prompts->batch_count; i++) {
        abl_tensor_release(prompts->clean[i]);
    }
    abl_free(prompts->clean);
    abl_ablator_destroy(prompts->ablator);
}
