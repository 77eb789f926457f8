/* graph_json.h -- the graph files of EAP-IG 2.0 and the MIB benchmark: cfg, nodes, edges with score
 * and in_graph. In them in_graph true means kept.
 *
 * OWNERSHIP  As each call says.
 * THREADS    One thread.
 * ERRORS     False, and a sentence in `problem`.
 */
#ifndef ABLATE_CLI_GRAPH_JSON_H
#define ABLATE_CLI_GRAPH_JSON_H

#include "ablate/v1/model.pb-c.h"
#include "core/base/compiler.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

ABL_BEGIN_DECLS

/* A file for a model, without edges; json_decref() ends it, NULL: no memory. */
ABL_MUST_CHECK json_t *abl_graph_json_create(const Ablate__V1__ModelConfig *config);
/* Adds an edge by EAP's name, and its two nodes; everything is in the graph. False: no memory. */
ABL_MUST_CHECK bool abl_graph_json_add(json_t *file, const char *edge, double score);
/* Writes the file, whole or not at all. */
ABL_MUST_CHECK bool abl_graph_json_save(const json_t *file, const char *path, char *problem,
                                        size_t problem_size);

/* The edges (an object: name -> score, in_graph) of a file that is of this model, borrowed from
 * *ret_file, which json_decref() ends. A file of another model is refused by the fields that
 * differ. */
ABL_MUST_CHECK bool abl_graph_json_load(const char *path, const Ablate__V1__ModelConfig *config,
                                        json_t **ret_file, json_t **ret_edges, char *problem,
                                        size_t problem_size);

ABL_END_DECLS
#endif
