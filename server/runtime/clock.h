/* clock.h -- what time it is.
 *
 * OWNERSHIP  Nothing.
 * THREADS    Any.
 * ERRORS     None.
 */
#ifndef ABLATE_SERVER_RUNTIME_CLOCK_H
#define ABLATE_SERVER_RUNTIME_CLOCK_H

#include "core/base/compiler.h"

#include <stdint.h>

ABL_BEGIN_DECLS

int64_t abl_time_ms(void);  /* since 1970, UTC */
uint64_t abl_time_us(void); /* monotonic, for durations */

ABL_END_DECLS
#endif
