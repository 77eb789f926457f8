/* config_families.h -- what each family's config.json says, as its authors spell it; internal to
 * config.c.
 *
 * OWNERSHIP  Nothing is kept.
 * THREADS    Pure functions.
 * ERRORS     Kept in the keys; see config_keys.h.
 */
#ifndef ABLATE_CORE_MODEL_CONFIG_FAMILIES_H
#define ABLATE_CORE_MODEL_CONFIG_FAMILIES_H

#include "core/model/config.h"
#include "core/model/config_keys.h"

ABL_BEGIN_DECLS

/* Fills what config->family says of itself. The config may be half filled after a failure. */
void abl_config_read_family(abl_keys *in, abl_model_config *config);

ABL_END_DECLS
#endif
