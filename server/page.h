/* page.h -- the files that the HTTP port serves besides RPCs and /metrics.
 *
 * OWNERSHIP  Static.
 * THREADS    Any.
 */
#ifndef ABLATE_SERVER_PAGE_H
#define ABLATE_SERVER_PAGE_H

#include "server/transport/web.h"

ABL_BEGIN_DECLS

extern const abl_web_file abl_page_files[];
extern const size_t abl_page_file_count;

ABL_END_DECLS
#endif
