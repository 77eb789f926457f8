/* SPDX-License-Identifier: Apache-2.0
 *
 * The dashboard is built by clients/web and read once, at the start: what is served later cannot
 * leave the folder, and a rebuild under a running daemon mixes no versions. Vite puts everything
 * but index.html into assets/, so two folders are all there is to read. The build writes
 * "app.js.gz" beside "app.js": such a pair is one file here. */
#include "server/page.h"

#include "core/base/limits.h"
#include "core/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char index_html[] =
    "<!doctype html>\n"
    "<html lang=\"en\"><meta charset=\"utf-8\"><title>Ablate</title>\n"
    "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 "
    "1rem;"
    "color-scheme:light dark}code{font-size:.95em}</style>\n"
    "<h1>Ablate</h1>\n"
    "<p>This daemon keeps transformer models resident and ablates the edges of their computation "
    "graphs. The dashboard is not built: <code>make dashboard</code>, then start the daemon "
    "again.</p>\n"
    "<ul>\n"
    "<li><a href=\"/metrics\">/metrics</a>: Prometheus</li>\n"
    "<li>gRPC-web: <code>POST /ablate.v1.AdminService/GetServerInfo</code> and every other "
    "method</li>\n"
    "<li>On the command line: <code>ablate status</code></li>\n"
    "</ul>\n";

static const struct {
    const char *suffix;
    const char *content_type;
} CONTENT_TYPES[] = {
    {".html", "text/html; charset=utf-8"},
    {".js", "text/javascript; charset=utf-8"},
    {".css", "text/css; charset=utf-8"},
    {".svg", "image/svg+xml"},
    {".json", "application/json"},
    {".webmanifest", "application/manifest+json"},
    {".png", "image/png"},
    {".ico", "image/x-icon"},
    {".woff2", "font/woff2"},
    {".wasm", "application/wasm"},
    {".txt", "text/plain; charset=utf-8"},
};

static const char *content_type_of(const char *name) {
    const char *suffix = strrchr(name, '.');
    for (size_t i = 0; suffix != NULL && i < ABL_COUNT_OF(CONTENT_TYPES); i++) {
        if (strcmp(suffix, CONTENT_TYPES[i].suffix) == 0) {
            return CONTENT_TYPES[i].content_type;
        }
    }
    return "application/octet-stream";
}

static void dir_closep(DIR **dir) {
    if (*dir != NULL) {
        (void)closedir(*dir);
    }
}

static void file_closep(FILE **file) {
    if (*file != NULL) {
        (void)fclose(*file);
    }
}

/* Takes `path` and `data`, abl_malloc blocks, on OK only. */
static abl_code page_add(abl_page *page, char *path, uint8_t *data, size_t bytes,
                         abl_status *ret_status) {
    if (page->file_count == ABL_PAGE_FILE_COUNT_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "WEB_ROOT_TOO_BIG",
                        "web-root: more than %d files", ABL_PAGE_FILE_COUNT_MAX);
    }
    page->files[page->file_count++] = (abl_web_file){
        .path = path, .content_type = content_type_of(path), .data = data, .bytes = bytes};
    return ABL_CODE_OK;
}

/* One file; `path` is what it is asked for as. Anything but a plain file is passed over. */
static abl_code file_read(abl_page *page, const char *file_path, const char *path,
                          abl_status *ret_status) {
    struct stat status;
    if (lstat(file_path, &status) != 0 || !S_ISREG(status.st_mode)) {
        return ABL_CODE_OK;
    }
    if (status.st_size > ABL_PAGE_FILE_BYTES_MAX) {
        return abl_fail(ret_status, ABL_CODE_RESOURCE_EXHAUSTED, "WEB_ROOT_TOO_BIG",
                        "web-root: %.120s has more than %d bytes", path, ABL_PAGE_FILE_BYTES_MAX);
    }
    ABL_CLEANUP(file_closep) FILE *file = fopen(file_path, "rbe");
    size_t bytes = (size_t)status.st_size;
    uint8_t *data = abl_malloc(bytes + 1);
    char *copy = abl_strdup(path);
    abl_code code = ABL_CODE_OK;
    if (data == NULL || copy == NULL) {
        code = abl_fail_oom(ret_status);
    } else if (file == NULL || fread(data, 1, bytes, file) != bytes) {
        code = abl_fail(ret_status, ABL_CODE_FAILED_PRECONDITION, "WEB_ROOT_UNREADABLE",
                        "web-root: cannot read %.120s: %s", path, strerror(errno));
    } else {
        code = page_add(page, copy, data, bytes, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_free(data);
        abl_free(copy);
    }
    return code;
}

/* The files of one folder, without those below it. */
static abl_code folder_read(abl_page *page, const char *root, const char *folder,
                            abl_status *ret_status) {
    char path[ABL_PATH_BYTES_MAX];
    (void)snprintf(path, sizeof path, "%.3000s%s", root, folder);
    ABL_CLEANUP(dir_closep) DIR *dir = opendir(path);
    if (dir == NULL) {
        return ABL_CODE_OK; /* a dashboard without assets is none of ours to judge */
    }
    abl_code code = ABL_CODE_OK;
    for (struct dirent *entry = readdir(dir); code == ABL_CODE_OK && entry != NULL;
         entry = readdir(dir)) {
        char name[ABL_PATH_BYTES_MAX];
        (void)snprintf(path, sizeof path, "%.3000s%s/%s", root, folder, entry->d_name);
        (void)snprintf(name, sizeof name, "%s/%s", folder, entry->d_name);
        code = file_read(page, path, name, ret_status);
    }
    return code;
}

/* ---- what belongs together ---- */

static abl_web_file *file_find(abl_page *page, const char *path, size_t length) {
    for (size_t i = 0; i < page->file_count; i++) {
        const char *name = page->files[i].path;
        if (strlen(name) == length && strncmp(name, path, length) == 0) {
            return &page->files[i];
        }
    }
    return NULL;
}

/* Whether a file is gzip, and of content as long as `plain`, as its last four bytes say. */
static bool is_gzip_of(const abl_web_file *file, const abl_web_file *plain) {
    static const uint8_t magic[3] = {0x1f, 0x8b, 8};
    if (file->bytes < 18 || memcmp(file->data, magic, sizeof magic) != 0) {
        return false;
    }
    const uint8_t *end = file->data + file->bytes;
    return ((uint32_t)end[-4] | (uint32_t)end[-3] << 8 | (uint32_t)end[-2] << 16 |
            (uint32_t)end[-1] << 24) == plain->bytes;
}

static void file_free(abl_web_file *file) {
    abl_free((void *)(uintptr_t)file->path);
    abl_free((void *)(uintptr_t)file->data);
    abl_free((void *)(uintptr_t)file->gzip);
    abl_free((void *)(uintptr_t)file->tag);
}

/* Puts each "x.gz" with its "x", and drops one that cannot be of it: another build left it. */
static void pairs_join(abl_page *page) {
    size_t kept = 0;
    for (size_t i = 0; i < page->file_count; i++) {
        abl_web_file *file = &page->files[i];
        size_t length = strlen(file->path);
        bool is_gzip = length > 3 && strcmp(file->path + length - 3, ".gz") == 0;
        abl_web_file *plain = is_gzip ? file_find(page, file->path, length - 3) : NULL;
        if (plain != NULL && is_gzip_of(file, plain)) {
            plain->gzip = file->data;
            plain->gzip_bytes = file->bytes;
            file->data = NULL;
        }
        if (plain != NULL) {
            file_free(file);
            *file = (abl_web_file){.path = ""}; /* found by nobody, until it is overwritten */
        }
    }
    for (size_t i = 0; i < page->file_count; i++) {
        if (page->files[i].path[0] != '\0') {
            page->files[kept++] = page->files[i];
        }
    }
    page->file_count = kept;
}

#define TAG_BYTES 16 /* of the sha256 */

static abl_code tags_make(abl_page *page, abl_status *ret_status) {
    for (size_t i = 0; i < page->file_count; i++) {
        unsigned char digest[EVP_MAX_MD_SIZE];
        char *tag = abl_malloc(2 * TAG_BYTES + 1);
        abl_web_file *file = &page->files[i];
        if (tag == NULL ||
            EVP_Digest(file->data, file->bytes, digest, NULL, EVP_sha256(), NULL) != 1) {
            abl_free(tag);
            return abl_fail_oom(ret_status);
        }
        for (size_t byte = 0; byte < TAG_BYTES; byte++) {
            (void)snprintf(tag + 2 * byte, 3, "%02x", digest[byte]);
        }
        file->tag = tag;
    }
    return ABL_CODE_OK;
}

static abl_code builtin_add(abl_page *page, abl_status *ret_status) {
    char *path = abl_strdup("/index.html");
    uint8_t *data = abl_malloc(sizeof index_html);
    abl_code code = path == NULL || data == NULL ? abl_fail_oom(ret_status) : ABL_CODE_OK;
    if (code == ABL_CODE_OK) {
        memcpy(data, index_html, sizeof index_html);
        code = page_add(page, path, data, sizeof index_html - 1, ret_status);
    }
    if (code != ABL_CODE_OK) {
        abl_free(path);
        abl_free(data);
    }
    return code;
}

abl_code abl_page_open(const char *root, abl_page *ret_page, abl_status *ret_status) {
    bool asked = root[0] != '\0';
    const char *folder = asked ? root : ABLATE_WEB_ROOT;
    abl_page page = {.files = abl_calloc(ABL_PAGE_FILE_COUNT_MAX, sizeof *page.files)};
    abl_code code =
        page.files == NULL ? abl_fail_oom(ret_status) : folder_read(&page, folder, "", ret_status);
    if (code == ABL_CODE_OK) {
        code = folder_read(&page, folder, "/assets", ret_status);
    }
    if (code == ABL_CODE_OK) {
        pairs_join(&page);
    }
    page.built = file_find(&page, "/index.html", strlen("/index.html")) != NULL;
    if (code == ABL_CODE_OK && !page.built) {
        code = asked ? abl_fail(ret_status, ABL_CODE_NOT_FOUND, "WEB_ROOT_MISSING",
                                "web-root: there is no index.html in '%.150s'", root)
                     : builtin_add(&page, ret_status);
    }
    code = code == ABL_CODE_OK ? tags_make(&page, ret_status) : code;
    if (code != ABL_CODE_OK) {
        abl_page_close(&page);
        return code;
    }
    *ret_page = page;
    return ABL_CODE_OK;
}

void abl_page_close(abl_page *page) {
    for (size_t i = 0; i < page->file_count; i++) {
        file_free(&page->files[i]);
    }
    abl_free(page->files);
    *page = (abl_page){0};
}
