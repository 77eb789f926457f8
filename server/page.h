/* page.h -- the files that the HTTP port serves besides RPCs and /metrics: the dashboard.
 *
 * OWNERSHIP  abl_page_open() hands the page to the caller; abl_page_close() ends it and its files.
 * THREADS    Immutable after open: any thread may read.
 * ERRORS     Fallible calls return a code, fill *ret_status, leave every other ret_ alone.
 */
#ifndef ABLATE_SERVER_PAGE_H
#define ABLATE_SERVER_PAGE_H

#include "server/transport/web.h"

ABL_BEGIN_DECLS

#define ABL_PAGE_FILE_COUNT_MAX 256
#define ABL_PAGE_FILE_BYTES_MAX (8 * 1024 * 1024)

typedef struct abl_page {
    abl_web_file *files;
    size_t file_count;
    bool built; /* the dashboard, not the page that says how to build it */
} abl_page;

/* Reads the folder that clients/web builds (index.html, and what lies beside it and in assets/)
 * into memory; "x.gz" beside "x" is x compressed. An empty root is the one that the daemon was
 * built beside; where that holds no index.html, the page is a short one that says how to build the
 * dashboard.
 *   NOT_FOUND           WEB_ROOT_MISSING  a root that was asked for has no index.html
 *   RESOURCE_EXHAUSTED  WEB_ROOT_TOO_BIG  over ABL_PAGE_..._MAX */
ABL_MUST_CHECK abl_code abl_page_open(const char *root, abl_page *ret_page, abl_status *ret_status);
void abl_page_close(abl_page *page);

ABL_END_DECLS
#endif
