/* interventions.h -- interventions as they are written on a command line.
 *
 *   POINT OPERATION [NUMBER...] [heads=N,...] [pos=N,...] [rows=N,...] [over=rows,pos]  [; ...]
 *
 *   blocks.9.attn.hook_z zero heads=1,6
 *   blocks.3.hook_mlp_out scale 0.5 pos=-1; ln_final.hook_scale mean over=pos
 *
 * Operations: zero, mean, scale FACTOR, clamp LOW HIGH. Those that take vectors are the Python
 * client's.
 *
 * OWNERSHIP  abl_interventions_read() hands the set over, ended with abl_interventions_free().
 * THREADS    One thread.
 */
#ifndef ABLATE_CLI_INTERVENTIONS_H
#define ABLATE_CLI_INTERVENTIONS_H

#include "ablate/v1/hooks.pb-c.h"
#include "core/base/compiler.h"

#include <stdbool.h>
#include <stddef.h>

ABL_BEGIN_DECLS

typedef struct abl_cli_interventions {
    Ablate__V1__Intervention **items;
    size_t count;
} abl_cli_interventions;

/* On a fault writes the sentence into `problem` and returns false; there is nothing to end then. */
ABL_MUST_CHECK bool abl_interventions_read(const char *text, abl_cli_interventions *ret_set,
                                           char *problem, size_t problem_size);
void abl_interventions_free(abl_cli_interventions *set); /* all zeros is allowed */

ABL_END_DECLS
#endif
