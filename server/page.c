/* SPDX-License-Identifier: Apache-2.0
 *
 * The start page: what answers here, for whoever opens the address in a browser. The dashboard will
 * take its place in this table. */
#include "server/page.h"

static const char index_html[] =
    "<!doctype html>\n"
    "<html lang=\"en\"><meta charset=\"utf-8\"><title>Ablate</title>\n"
    "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 "
    "1rem;"
    "color-scheme:light dark}code{font-size:.95em}</style>\n"
    "<h1>Ablate</h1>\n"
    "<p>This daemon keeps transformer models resident and ablates the edges of their computation "
    "graphs.</p>\n"
    "<ul>\n"
    "<li><a href=\"/metrics\">/metrics</a>: Prometheus</li>\n"
    "<li>gRPC-web: <code>POST /ablate.v1.AdminService/GetServerInfo</code> and every other "
    "method</li>\n"
    "<li>On the command line: <code>ablate status</code></li>\n"
    "</ul>\n";

const abl_web_file abl_page_files[] = {
    {.path = "/index.html",
     .content_type = "text/html; charset=utf-8",
     .data = (const uint8_t *)index_html,
     .bytes = sizeof index_html - 1},
};
const size_t abl_page_file_count = ABL_COUNT_OF(abl_page_files);
