/* compiler.h -- the few compiler attributes that the house style relies on (gcc and clang). */
#ifndef ABLATE_CORE_BASE_COMPILER_H
#define ABLATE_CORE_BASE_COMPILER_H

#ifdef __cplusplus
#define ABL_BEGIN_DECLS extern "C" {
#define ABL_END_DECLS }
#else
#define ABL_BEGIN_DECLS
#define ABL_END_DECLS
#endif

#define ABL_MUST_CHECK __attribute__((warn_unused_result))
#define ABL_PRINTF(format_index, first_argument)                                                   \
    __attribute__((format(printf, format_index, first_argument)))

/* Runs `function(&variable)` when the variable leaves its scope. */
#define ABL_CLEANUP(function) __attribute__((cleanup(function)))

#define ABL_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#endif
