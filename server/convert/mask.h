/* mask.h -- a SetPatchMask request as the values that the graph's mask becomes.
 *
 * OWNERSHIP  Nothing is kept.
 * THREADS    Any thread, as long as somebody holds what is passed.
 * ERRORS     Fallible calls return a code, fill *ret_status; what is in ret_values is then
 *            worthless, which is why it is not the mask itself.
 */
#ifndef ABLATE_SERVER_CONVERT_MASK_H
#define ABLATE_SERVER_CONVERT_MASK_H

#include "ablate/v1/mask.pb-c.h"
#include "server/convert/common.h"
#include "server/convert/run.h"
#include "server/runtime/resident.h"

ABL_BEGIN_DECLS

/* What can be told without the graph: that there is a mask, and a circuit's size.
 *   INVALID_ARGUMENT  MASK_MISSING, CIRCUIT_SIZE_INVALID */
ABL_MUST_CHECK abl_code abl_convert_mask_check(const Ablate__V1__SetPatchMaskRequest *message,
                                               abl_status *ret_status);

/* A circuit's size, which must be given.
 *   INVALID_ARGUMENT  CIRCUIT_SIZE_INVALID */
ABL_MUST_CHECK abl_code abl_convert_circuit_check(const char *name,
                                                  const Ablate__V1__CircuitMask *message,
                                                  abl_status *ret_status);
/* Which edges it has: a byte each, and how many. As many scores as edges.
 *   INVALID_ARGUMENT  CIRCUIT_SIZE_INVALID */
ABL_MUST_CHECK abl_code abl_convert_circuit(const Ablate__V1__CircuitMask *message,
                                            const abl_values *scores, uint8_t *ret_in_circuit,
                                            int64_t *ret_count, abl_status *ret_status);

/* Fills `ret_values`, one value an edge of the graph, its count of values other than 0 included.
 * `current` is the mask now; `scores` are those of the circuit's job, else NULL.
 *   INVALID_ARGUMENT  EDGE_NAME_MALFORMED, EDGE_NOT_IN_GRAPH, EDGE_POSITION_INVALID,
 *                     MASK_NOT_FINITE, CIRCUIT_SIZE_INVALID, and those of a tensor
 *   NOT_FOUND         NODE_UNKNOWN, MODULE_UNKNOWN */
ABL_MUST_CHECK abl_code abl_convert_mask(const Ablate__V1__SetPatchMaskRequest *message,
                                         const abl_graph *graph, const abl_values *current,
                                         const abl_values *scores, abl_values *ret_values,
                                         abl_status *ret_status);

/*   INVALID_ARGUMENT  MASK_FUNCTION_INVALID */
ABL_MUST_CHECK abl_code
abl_convert_mask_function_checked(const Ablate__V1__SetMaskFunctionRequest *message,
                                  abl_mask_function *ret_function, abl_status *ret_status);

/* As abl_convert_forward(), and
 *   INVALID_ARGUMENT  GRADIENT_SHAPE, ABLATION_MISSING, TENSOR_BYTES, ... */
ABL_MUST_CHECK abl_code abl_convert_mask_backward(const Ablate__V1__MaskBackwardRequest *message,
                                                  abl_arena *arena, abl_run_request *ret_request,
                                                  abl_status *ret_status);

/* Values of edges by name (at every position unless the entry says one), and of a module's tensor,
 * written into `values`: what masks and scores share. Not finite is allowed.
 *   INVALID_ARGUMENT  EDGE_NAME_MALFORMED, EDGE_NOT_IN_GRAPH, EDGE_POSITION_INVALID, and those of a
 *                     tensor
 *   NOT_FOUND         NODE_UNKNOWN, MODULE_UNKNOWN */
ABL_MUST_CHECK abl_code abl_convert_edge_values(Ablate__V1__EdgeValue *const *entries, size_t count,
                                                const abl_graph *graph, abl_values *values,
                                                abl_status *ret_status);
ABL_MUST_CHECK abl_code abl_convert_module_values(const Ablate__V1__NamedTensor *message,
                                                  const abl_graph *graph, abl_values *values,
                                                  abl_status *ret_status);

ABL_END_DECLS
#endif
