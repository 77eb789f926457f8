/* tsan.h -- tells ThreadSanitizer of an order that a library keeps where it cannot see.
 *
 * gRPC C core is not instrumented. What one thread writes before handing it over and another reads
 * after getting it back is ordered inside the library: release before the first, acquire after the
 * second, on the same address. Nothing without ThreadSanitizer. */
#ifndef ABLATE_SERVER_TRANSPORT_TSAN_H
#define ABLATE_SERVER_TRANSPORT_TSAN_H

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ABL_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define ABL_TSAN 1
#endif

#ifdef ABL_TSAN
void __tsan_release(void *address);
void __tsan_acquire(void *address);
#define ABL_TSAN_RELEASE(address) __tsan_release(address)
#define ABL_TSAN_ACQUIRE(address) __tsan_acquire(address)
#else
#define ABL_TSAN_RELEASE(address) ((void)(address))
#define ABL_TSAN_ACQUIRE(address) ((void)(address))
#endif

#endif
