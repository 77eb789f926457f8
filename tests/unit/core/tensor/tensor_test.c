/* SPDX-License-Identifier: Apache-2.0
 *
 * The shim as C sees it (that this file compiles is the test that tensor.h is C): lifetimes, sticky
 * failures, products against three nested loops, and every backward against finite differences. */
#include "core/tensor/tensor.h"

#include "core/base/mem.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <string.h>

static const abl_device cpu = {.type = ABL_DEVICE_CPU};

#define SHAPE(...) ABL_COUNT_OF(((const int64_t[]){__VA_ARGS__})), ((const int64_t[]){__VA_ARGS__})
#define RANDOM(scope, seed, ...) random_tensor(scope, seed, (int)SHAPE(__VA_ARGS__))

static abl_scope *open_scope(void) {
    abl_scope *scope = abl_scope_create(cpu);
    assert_non_null(scope);
    return scope;
}

/* Uniform in [-1, 1). */
static abl_tensor *random_tensor(abl_scope *scope, uint64_t seed, int rank, const int64_t *shape) {
    abl_tensor *x = abl_tensor_uniform(scope, rank, shape, seed);
    return abl_tensor_add_scalar(scope, abl_tensor_scale(scope, x, 2), -1);
}

static void assert_fine(abl_scope *scope) {
    abl_status status = {.reason = "", .message = ""};
    abl_code code = abl_scope_status(scope, &status);
    if (code != ABL_CODE_OK) {
        fail_msg("%s: %s", status.reason, status.message);
    }
}

static float *floats(abl_scope *scope, const abl_tensor *x) {
    assert_fine(scope);
    size_t count = (size_t)abl_tensor_count(x);
    float *values = abl_calloc(count, sizeof *values);
    assert_non_null(values);
    abl_tensor_to_floats(scope, x, values, count);
    assert_fine(scope);
    return values;
}

static void assert_close(abl_scope *scope, const abl_tensor *a, const abl_tensor *b,
                         double tolerance) {
    assert_fine(scope);
    assert_int_equal(abl_tensor_count(a), abl_tensor_count(b));
    float *x = floats(scope, a);
    float *y = floats(scope, b);
    for (int64_t i = 0; i < abl_tensor_count(a); i++) {
        if (!(fabs((double)x[i] - (double)y[i]) <= tolerance)) {
            fail_msg("element %lld: %.9g and %.9g", (long long)i, (double)x[i], (double)y[i]);
        }
    }
    abl_free(x);
    abl_free(y);
}

/* ---- Lifetimes --------------------------------------------------------------------------- */

static void a_kept_tensor_outlives_its_scope(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    abl_tensor *x = abl_tensor_keep(abl_tensor_full(scope, ABL_DTYPE_F32, SHAPE(2, 3), 7));
    abl_scope_destroy(scope);
    assert_int_equal(abl_tensor_count(x), 6);
    const float *data = abl_tensor_host_data(x);
    assert_true(data[5] == 7.0F);
    abl_tensor_release(x);
}

static void a_view_keeps_the_memory_of_what_it_views(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    abl_tensor *x = abl_tensor_full(scope, ABL_DTYPE_F32, SHAPE(4, 3), 2);
    abl_tensor *row = abl_tensor_keep(abl_tensor_select(scope, x, 0, 3));
    assert_true(abl_tensor_same_storage(x, row));
    abl_scope_destroy(scope);
    const float *data = abl_tensor_host_data(row);
    assert_true(data[2] == 2.0F);
    abl_tensor_release(row);
}

static void rewinding_drops_all_but_the_survivors(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    abl_tensor *before = abl_tensor_full(scope, ABL_DTYPE_F32, SHAPE(1), 1);
    size_t mark = abl_scope_mark(scope);
    abl_tensor *survivor = abl_tensor_full(scope, ABL_DTYPE_F32, SHAPE(1), 2);
    (void)abl_tensor_add(scope, before, survivor);
    abl_scope_rewind(scope, mark, &survivor, 1);
    assert_int_equal(abl_scope_mark(scope), mark + 1);
    assert_true(abl_tensor_item(scope, abl_tensor_add(scope, before, survivor)) == 3.0);
    abl_scope_destroy(scope);
}

static void an_expanded_view_takes_no_memory_of_its_own(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    abl_tensor *x = abl_tensor_zeros(scope, ABL_DTYPE_F32, SHAPE(2, 1, 8));
    abl_tensor *wide = abl_tensor_expand(scope, x, 3, (const int64_t[]){-1, 100, -1});
    assert_int_equal(abl_tensor_bytes(wide), 6400);
    assert_int_equal(abl_tensor_storage_bytes(wide), 64);
    abl_scope_destroy(scope);
}

static void mapped_memory_is_not_copied(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    float numbers[] = {1, 2, 3, 4};
    abl_tensor *x = abl_tensor_from_mapped(scope, ABL_DTYPE_F32, SHAPE(2, 2), numbers);
    assert_ptr_equal(abl_tensor_host_data(x), numbers);
    abl_scope_destroy(scope);
}

/* ---- Failures ---------------------------------------------------------------------------- */

static void the_first_failure_stays_and_later_operations_do_nothing(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    abl_tensor *a = abl_tensor_zeros(scope, ABL_DTYPE_F32, SHAPE(2, 3));
    abl_tensor *bad = abl_tensor_matmul(scope, a, a);
    assert_null(bad);
    abl_tensor *later = abl_tensor_add(scope, a, bad);
    assert_null(later);
    abl_tensor_add_(scope, a, bad, 1);
    assert_true(isnan(abl_tensor_item(scope, bad)) != 0);
    abl_status status;
    assert_int_equal(abl_scope_status(scope, &status), ABL_CODE_INTERNAL);
    assert_string_equal(status.reason, "BACKEND_EXCEPTION");
    abl_scope_destroy(scope);
}

static void a_null_operand_in_a_sound_scope_is_a_failure(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    assert_null(abl_tensor_exp(scope, NULL));
    abl_status status;
    assert_int_equal(abl_scope_status(scope, &status), ABL_CODE_INTERNAL);
    assert_string_equal(status.reason, "TENSOR_NULL");
    abl_scope_destroy(scope);
}

static void memory_that_is_not_there_is_resource_exhausted(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    assert_null(abl_tensor_empty(scope, ABL_DTYPE_F32, SHAPE(1LL << 50)));
    abl_status status;
    assert_int_equal(abl_scope_status(scope, &status), ABL_CODE_RESOURCE_EXHAUSTED);
    assert_string_equal(status.reason, "OUT_OF_HOST_MEMORY");
    abl_scope_destroy(scope);
}

static void every_failing_allocation_of_a_handle_is_reported(void **state) {
    (void)state;
    for (uint64_t n = 1;; n++) {
        abl_mem_fail_after(n);
        abl_scope *scope = abl_scope_create(cpu);
        abl_code code = ABL_CODE_RESOURCE_EXHAUSTED;
        if (scope != NULL) {
            abl_tensor *x = abl_tensor_zeros(scope, ABL_DTYPE_F32, SHAPE(2, 2));
            abl_tensor *rstd = NULL;
            (void)abl_tensor_norm(scope, ABL_TENSOR_NORM_LAYER, abl_tensor_exp(scope, x), NULL,
                                  NULL, 1e-5, NULL, &rstd);
            code = abl_scope_status(scope, NULL);
        }
        abl_mem_fail_after(0);
        abl_scope_destroy(scope);
        if (code == ABL_CODE_OK) {
            assert_true(n > 3);
            return;
        }
        assert_int_equal(code, ABL_CODE_RESOURCE_EXHAUSTED);
    }
}

static void host_memory_of_another_size_is_refused(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    float values[3] = {0};
    abl_tensor *x = abl_tensor_zeros(scope, ABL_DTYPE_F32, SHAPE(4));
    abl_tensor_to_host(scope, x, values, sizeof values);
    assert_true(abl_scope_failed(scope));
    abl_scope_destroy(scope);
}

/* ---- Products ---------------------------------------------------------------------------- */

/* beta * out + alpha * a b by definition, whatever the strides of a and b. */
static void check_product(int64_t m, int64_t n, int64_t k, int layout, double beta, double alpha) {
    abl_scope *scope = open_scope();
    bool a_t = (layout & 1) != 0;
    bool b_t = (layout & 2) != 0;
    abl_tensor *a = a_t ? RANDOM(scope, 1, k, m) : RANDOM(scope, 1, m, k);
    abl_tensor *b = b_t ? RANDOM(scope, 2, n, k) : RANDOM(scope, 2, k, n);
    a = a_t ? abl_tensor_transpose(scope, a, 0, 1) : a;
    b = b_t ? abl_tensor_transpose(scope, b, 0, 1) : b;
    abl_tensor *stack = RANDOM(scope, 3, m, n + 5);
    abl_tensor *out = abl_tensor_slice(scope, stack, 1, 2, n + 2); /* rows with a gap */
    float *x = floats(scope, a);
    float *y = floats(scope, b);
    float *expected = floats(scope, out);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++) {
                sum += (double)x[i * k + l] * (double)y[l * n + j];
            }
            float *cell = &expected[i * n + j];
            *cell = (float)(alpha * sum + (beta == 0 ? 0 : beta * (double)*cell));
        }
    }
    abl_tensor_gemm_into(scope, out, a, b, beta, alpha);
    abl_tensor *want = abl_tensor_from_host(scope, ABL_DTYPE_F32, SHAPE(m, n), expected);
    assert_close(scope, out, want, 2e-5 * sqrt((double)k));
    abl_free(x);
    abl_free(y);
    abl_free(expected);
    abl_scope_destroy(scope);
}

static void products_equal_their_definition_at_every_layout(void **state) {
    (void)state;
    for (int layout = 0; layout < 4; layout++) {
        check_product(1, 1, 1, layout, 0, 1);
        check_product(3, 7, 5, layout, 0, 1);     /* few rows */
        check_product(8, 1100, 66, layout, 0, 1); /* few rows, several strips */
        check_product(6, 40, 19, layout, 1, 1);
        check_product(33, 129, 70, layout, 0.5, 2);
        check_product(300, 20, 600, layout, 0, 1); /* cut by rows */
        check_product(128, 900, 64, layout, 1, -1);
        check_product(5, 11, 20000, layout, 1, 2); /* cut by sums */
        check_product(9, 17, 40000, layout, 0, 1);
    }
}

static void a_product_without_beta_never_reads_its_output(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    for (int64_t m = 2; m < 40; m += 30) {
        abl_tensor *out = abl_tensor_full(scope, ABL_DTYPE_F32, SHAPE(3, m, 4), NAN);
        abl_tensor_gemm_into(scope, out, RANDOM(scope, 1, 3, m, 6), RANDOM(scope, 2, 3, 6, 4), 0,
                             1);
        double sum = abl_tensor_item(scope, abl_tensor_sum(scope, out, NULL, 0, false));
        assert_true(isfinite(sum) != 0);
    }
    abl_scope_destroy(scope);
}

static void batched_products_broadcast_as_matmul_does(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    abl_tensor *a = RANDOM(scope, 1, 2, 1, 5, 3);
    abl_tensor *b = RANDOM(scope, 2, 4, 3, 6);
    abl_tensor *all = abl_tensor_matmul(scope, a, b); /* (2, 4, 5, 6) */
    assert_fine(scope);
    assert_int_equal(abl_tensor_rank(all), 4);
    for (int64_t i = 0; i < 2; i++) {
        for (int64_t j = 0; j < 4; j++) {
            abl_tensor *one = abl_tensor_matmul(
                scope, abl_tensor_select(scope, abl_tensor_select(scope, a, 0, i), 0, 0),
                abl_tensor_select(scope, b, 0, j));
            abl_tensor *cell = abl_tensor_select(scope, abl_tensor_select(scope, all, 0, i), 0, j);
            assert_close(scope, cell, one, 1e-6);
        }
    }
    abl_scope_destroy(scope);
}

/* Weights stored in 16 bits are the numbers that they are, in every operation that reads them. */
static void sixteen_bit_weights_compute_as_the_same_numbers_in_float32(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    abl_tensor *x = RANDOM(scope, 1, 2, 9, 24);
    abl_tensor *stack = RANDOM(scope, 4, 3, 5, 24);
    for (int kind = 0; kind < 2; kind++) {
        abl_dtype dtype = (kind == 0) ? ABL_DTYPE_BF16 : ABL_DTYPE_F16;
        for (int turned = 0; turned < 2; turned++) {
            abl_tensor *w = turned ? abl_tensor_transpose(scope, RANDOM(scope, 2, 50, 24), 0, 1)
                                   : RANDOM(scope, 2, 24, 50);
            abl_tensor *narrow = abl_tensor_to_dtype(scope, w, dtype);
            abl_tensor *bias = abl_tensor_to_dtype(scope, RANDOM(scope, 3, 50), dtype);
            abl_tensor *gain = abl_tensor_to_dtype(scope, RANDOM(scope, 5, 24), dtype);
            abl_tensor *wide = abl_tensor_to_dtype(scope, narrow, ABL_DTYPE_F32);
            abl_tensor *wide_bias = abl_tensor_to_dtype(scope, bias, ABL_DTYPE_F32);
            abl_tensor *wide_gain = abl_tensor_to_dtype(scope, gain, ABL_DTYPE_F32);
            abl_tensor *got = abl_tensor_linear(scope, x, narrow, bias);
            assert_int_equal(abl_tensor_dtype(got), ABL_DTYPE_F32);
            assert_close(scope, got, abl_tensor_linear(scope, x, wide, wide_bias), 0);
            assert_close(
                scope,
                abl_tensor_linear_activate(scope, ABL_TENSOR_ACT_GELU, x, narrow, bias, NULL),
                abl_tensor_linear_activate(scope, ABL_TENSOR_ACT_GELU, x, wide, wide_bias, NULL),
                0);
            assert_close(scope, abl_tensor_matmul(scope, stack, narrow),
                         abl_tensor_matmul(scope, stack, wide), 0);
            abl_tensor *out = abl_tensor_zeros(scope, ABL_DTYPE_F32, SHAPE(9, 50));
            abl_tensor *want = abl_tensor_zeros(scope, ABL_DTYPE_F32, SHAPE(9, 50));
            abl_tensor *rows = abl_tensor_select(scope, x, 0, 0);
            abl_tensor_gemm_into(scope, out, rows, narrow, 1, 2);
            abl_tensor_gemm_into(scope, want, rows, wide, 1, 2);
            assert_close(scope, out, want, 0);
            abl_tensor_linear_into(scope, out, rows, narrow, bias);
            abl_tensor_linear_into(scope, want, rows, wide, wide_bias);
            assert_close(scope, out, want, 0);
            for (int norm = ABL_TENSOR_NORM_LAYER; norm <= ABL_TENSOR_NORM_NONE; norm++) {
                abl_tensor_norm_kind how = (abl_tensor_norm_kind)norm;
                assert_close(scope, abl_tensor_norm(scope, how, x, gain, gain, 1e-5, NULL, NULL),
                             abl_tensor_norm(scope, how, x, wide_gain, wide_gain, 1e-5, NULL, NULL),
                             0);
            }
        }
    }
    abl_scope_destroy(scope);
}

static void a_fused_linear_layer_equals_its_parts(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    for (int act = ABL_TENSOR_ACT_GELU; act <= ABL_TENSOR_ACT_SILU; act++) {
        for (int64_t rows = 2; rows <= 40; rows += 38) {
            abl_tensor *x = RANDOM(scope, 1, 2, rows, 24);
            abl_tensor *w = RANDOM(scope, 2, 24, 50);
            abl_tensor *b = RANDOM(scope, 3, 50);
            abl_tensor *pre = NULL;
            abl_tensor *post =
                abl_tensor_linear_activate(scope, (abl_tensor_act)act, x, w, b, &pre);
            abl_tensor *want = abl_tensor_add(scope, abl_tensor_matmul(scope, x, w), b);
            assert_close(scope, pre, want, 1e-5);
            assert_close(scope, abl_tensor_linear(scope, x, w, b), want, 1e-5);
            assert_close(scope, post, abl_tensor_activate(scope, (abl_tensor_act)act, want), 1e-5);
            assert_close(scope, post,
                         abl_tensor_linear_activate(scope, (abl_tensor_act)act, x, w, b, NULL),
                         1e-6);
        }
    }
    abl_scope_destroy(scope);
}

/* ---- Backwards --------------------------------------------------------------------------- */

/* A function of one tensor, and the gradient that the shim claims for <weights, f(x)>. */
typedef struct differentiable {
    abl_tensor *(*value)(abl_scope *scope, abl_tensor *x, void *user_data);
    abl_tensor *(*gradient)(abl_scope *scope, abl_tensor *x, abl_tensor *grad, void *user_data);
    void *user_data;
} differentiable;

static double weighted(abl_scope *scope, const differentiable *f, abl_tensor *x, abl_tensor *grad) {
    abl_tensor *y = f->value(scope, x, f->user_data);
    y = abl_tensor_to_dtype(scope, abl_tensor_mul(scope, y, grad), ABL_DTYPE_F64);
    return abl_tensor_item(scope, abl_tensor_sum(scope, y, NULL, 0, false));
}

/* Along random directions d: <gradient, d> against (F(x + h d) - F(x - h d)) / 2h. */
static void check_gradient(abl_scope *scope, const differentiable *f, abl_tensor *x) {
    abl_tensor *y = f->value(scope, x, f->user_data);
    assert_fine(scope);
    int64_t shape[ABL_DIMENSION_COUNT_MAX];
    for (int i = 0; i < abl_tensor_rank(y); i++) {
        shape[i] = abl_tensor_size(y, i);
    }
    abl_tensor *grad = random_tensor(scope, 99, abl_tensor_rank(y), shape);
    abl_tensor *claimed = f->gradient(scope, x, grad, f->user_data);
    assert_fine(scope);
    for (int i = 0; i < abl_tensor_rank(x); i++) {
        shape[i] = abl_tensor_size(x, i);
    }
    for (uint64_t seed = 50; seed < 54; seed++) {
        abl_tensor *direction = random_tensor(scope, seed, abl_tensor_rank(x), shape);
        double h = 1e-2;
        abl_tensor *step = abl_tensor_scale(scope, direction, h);
        double slope = (weighted(scope, f, abl_tensor_add(scope, x, step), grad) -
                        weighted(scope, f, abl_tensor_sub(scope, x, step), grad)) /
                       (2 * h);
        double want =
            abl_tensor_item(scope, abl_tensor_sum(scope, abl_tensor_mul(scope, claimed, direction),
                                                  NULL, 0, false));
        if (!(fabs(slope - want) <= 4e-3 * (1 + fabs(want)))) {
            fail_msg("slope %.6g, gradient says %.6g", slope, want);
        }
    }
}

static abl_tensor *norm_value(abl_scope *scope, abl_tensor *x, void *user_data) {
    return abl_tensor_norm(scope, *(abl_tensor_norm_kind *)user_data, x, NULL, NULL, 1e-5, NULL,
                           NULL);
}

static abl_tensor *norm_gradient(abl_scope *scope, abl_tensor *x, abl_tensor *grad,
                                 void *user_data) {
    abl_tensor_norm_kind kind = *(abl_tensor_norm_kind *)user_data;
    abl_tensor *xhat = NULL;
    abl_tensor *rstd = NULL;
    (void)abl_tensor_norm(scope, kind, x, NULL, NULL, 1e-5, &xhat, &rstd);
    return abl_tensor_norm_backward(scope, kind, grad, xhat, rstd);
}

static void norms_differentiate(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    for (int kind = ABL_TENSOR_NORM_LAYER; kind <= ABL_TENSOR_NORM_NONE; kind++) {
        abl_tensor_norm_kind which = (abl_tensor_norm_kind)kind;
        const differentiable f = {norm_value, norm_gradient, &which};
        check_gradient(scope, &f, RANDOM(scope, 1, 3, 5, 37));
    }
    abl_scope_destroy(scope);
}

static abl_tensor *act_value(abl_scope *scope, abl_tensor *x, void *user_data) {
    return abl_tensor_activate(scope, *(abl_tensor_act *)user_data, x);
}

static abl_tensor *act_gradient(abl_scope *scope, abl_tensor *x, abl_tensor *grad,
                                void *user_data) {
    return abl_tensor_activate_backward(scope, *(abl_tensor_act *)user_data, grad, x);
}

/* x (rows, 2 d): the gate, then the linear part. */
static abl_tensor *gate_value(abl_scope *scope, abl_tensor *x, void *user_data) {
    int64_t d = abl_tensor_size(x, -1) / 2;
    return abl_tensor_gate(scope, *(abl_tensor_act *)user_data,
                           abl_tensor_slice(scope, x, -1, 0, d),
                           abl_tensor_slice(scope, x, -1, d, 2 * d));
}

static abl_tensor *gate_gradient(abl_scope *scope, abl_tensor *x, abl_tensor *grad,
                                 void *user_data) {
    int64_t d = abl_tensor_size(x, -1) / 2;
    abl_tensor *out = abl_tensor_clone(scope, x);
    abl_tensor_gate_backward(scope, *(abl_tensor_act *)user_data, grad,
                             abl_tensor_slice(scope, x, -1, 0, d),
                             abl_tensor_slice(scope, x, -1, d, 2 * d), out);
    return out;
}

static void activations_and_gates_differentiate(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    for (int act = ABL_TENSOR_ACT_GELU; act <= ABL_TENSOR_ACT_SILU; act++) {
        abl_tensor_act which = (abl_tensor_act)act;
        if (which == ABL_TENSOR_ACT_RELU) {
            continue; /* finite differences across its corner mean nothing */
        }
        const differentiable plain = {act_value, act_gradient, &which};
        const differentiable gated = {gate_value, gate_gradient, &which};
        abl_tensor *x = abl_tensor_scale(scope, RANDOM(scope, 1, 4, 6, 34), 3);
        check_gradient(scope, &plain, x);
        check_gradient(scope, &gated, x);
    }
    abl_scope_destroy(scope);
}

static void activations_hold_at_the_ends(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    const float ends[] = {-1e30F, -200, -20, 0, 20, 200, 1e18F};
    const float wanted[] = {0, 0, 0, 0, 20, 200, 1e18F};
    abl_tensor *x = abl_tensor_from_host(scope, ABL_DTYPE_F32, SHAPE(7), ends);
    for (int act = ABL_TENSOR_ACT_GELU; act <= ABL_TENSOR_ACT_SILU; act++) {
        float *y = floats(scope, abl_tensor_activate(scope, (abl_tensor_act)act, x));
        for (int i = 0; i < 7; i++) {
            assert_true(fabsf(y[i] - wanted[i]) <= 1e-7F * fabsf(wanted[i]) + 1e-7F);
        }
        abl_free(y);
    }
    abl_scope_destroy(scope);
}

typedef struct attention_case {
    abl_tensor_sees sees;
    abl_tensor *fixed[3];
    int which; /* the one of q, k, v that varies */
} attention_case;

static abl_tensor *attention_value(abl_scope *scope, abl_tensor *x, void *user_data) {
    attention_case *c = user_data;
    abl_tensor *in[3] = {c->fixed[0], c->fixed[1], c->fixed[2]};
    in[c->which] = x;
    return abl_tensor_attention(scope, c->sees, in[0], in[1], in[2], 0.3, NULL, NULL);
}

static abl_tensor *attention_gradient(abl_scope *scope, abl_tensor *x, abl_tensor *grad,
                                      void *user_data) {
    attention_case *c = user_data;
    abl_tensor *in[3] = {c->fixed[0], c->fixed[1], c->fixed[2]};
    in[c->which] = x;
    abl_tensor *pattern = NULL;
    (void)abl_tensor_attention(scope, c->sees, in[0], in[1], in[2], 0.3, NULL, &pattern);
    const abl_attention_grads out = {.q = abl_tensor_clone(scope, in[0]),
                                     .k = abl_tensor_clone(scope, in[1]),
                                     .v = abl_tensor_clone(scope, in[2])};
    abl_tensor_attention_backward(scope, c->sees, grad, in[0], in[1], in[2], pattern, 0.3, &out);
    abl_tensor *all[3] = {out.q, out.k, out.v};
    return all[c->which];
}

static void grouped_attention_differentiates_in_q_k_and_v(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    attention_case c = {.fixed = {RANDOM(scope, 1, 2, 7, 6, 16), RANDOM(scope, 2, 2, 7, 2, 16),
                                  RANDOM(scope, 3, 2, 7, 2, 16)}};
    for (int sees = ABL_TENSOR_SEES_PAST; sees <= ABL_TENSOR_SEES_SELF; sees++) {
        c.sees = (abl_tensor_sees)sees;
        for (c.which = 0; c.which < 3; c.which++) {
            const differentiable f = {attention_value, attention_gradient, &c};
            check_gradient(scope, &f, c.fixed[c.which]);
        }
    }
    abl_scope_destroy(scope);
}

/* ---- Attention --------------------------------------------------------------------------- */

/* softmax(q k / ...) v for one query that sees the first keys, by definition. */
static void attend_one(const float *q, const float *k, const float *v, int64_t seen, int64_t d,
                       int64_t stride, double scale, double *ret_z) {
    double weights[512];
    double total = 0;
    double largest = -INFINITY;
    for (int64_t j = 0; j < seen; j++) {
        weights[j] = 0;
        for (int64_t e = 0; e < d; e++) {
            weights[j] += scale * (double)q[e] * (double)k[j * stride + e];
        }
        largest = fmax(largest, weights[j]);
    }
    for (int64_t j = 0; j < seen; j++) {
        weights[j] = exp(weights[j] - largest);
        total += weights[j];
    }
    for (int64_t e = 0; e < d; e++) {
        ret_z[e] = 0;
        for (int64_t j = 0; j < seen; j++) {
            ret_z[e] += weights[j] / total * (double)v[j * stride + e];
        }
    }
}

static void check_attention(bool causal, int64_t queries, int64_t keys) {
    enum { B = 2, H = 4, K = 2, D = 8 };
    abl_scope *scope = open_scope();
    abl_tensor *q = RANDOM(scope, 1, B, queries, H, D);
    abl_tensor *k = abl_tensor_scale(scope, RANDOM(scope, 2, B, keys, K, D), 4);
    abl_tensor *v = RANDOM(scope, 3, B, keys, K, D);
    abl_tensor *scores = NULL;
    abl_tensor *pattern = NULL;
    abl_tensor_sees sees = causal ? ABL_TENSOR_SEES_PAST : ABL_TENSOR_SEES_ALL;
    float *z = floats(scope, abl_tensor_attention(scope, sees, q, k, v, 0.5, &scores, &pattern));
    float *qs = floats(scope, q);
    float *ks = floats(scope, k);
    float *vs = floats(scope, v);
    for (int64_t b = 0; b < B; b++) {
        for (int64_t i = 0; i < queries; i++) {
            for (int64_t h = 0; h < H; h++) {
                double want[D];
                int64_t kv = (b * keys * K + h / (H / K)) * D;
                int64_t at = ((b * queries + i) * H + h) * D;
                int64_t seen = causal ? keys - queries + i + 1 : keys;
                attend_one(qs + at, ks + kv, vs + kv, seen, D, (int64_t)K * D, 0.5, want);
                for (int e = 0; e < D; e++) {
                    assert_true(fabs((double)z[at + e] - want[e]) < 1e-5);
                }
            }
        }
    }
    float *s = floats(scope, scores);
    float *p = floats(scope, pattern);
    for (int64_t i = 0; i < abl_tensor_count(scores); i++) {
        bool future = causal && i % keys > keys - queries + (i / keys) % queries;
        assert_true(future ? (isinf(s[i]) && s[i] < 0 && p[i] == 0) : isfinite(s[i]));
    }
    abl_free(s);
    abl_free(p);
    abl_free(z);
    abl_free(qs);
    abl_free(ks);
    abl_free(vs);
    abl_scope_destroy(scope);
}

static void attention_equals_its_definition(void **state) {
    (void)state;
    check_attention(true, 1, 1);
    check_attention(true, 9, 9);
    check_attention(true, 1, 9);     /* the last query alone */
    check_attention(true, 130, 130); /* long: by products */
    check_attention(true, 3, 150);
}

static void attention_that_looks_ahead_follows_its_definition_too(void **state) {
    (void)state;
    check_attention(false, 9, 9);
    check_attention(false, 3, 9);
    check_attention(false, 130, 130);
}

static void attention_to_oneself_is_the_value(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    abl_tensor *q = RANDOM(scope, 1, 2, 3, 4, 8);
    abl_tensor *v = RANDOM(scope, 2, 2, 5, 2, 8);
    abl_tensor *pattern = NULL;
    abl_tensor *z = abl_tensor_attention(scope, ABL_TENSOR_SEES_SELF, q, v, v, 0.5, NULL, &pattern);
    abl_tensor *late = abl_tensor_slice(scope, v, 1, 2, 5);
    for (int64_t head = 0; head < 4; head++) {
        assert_close(scope, abl_tensor_select(scope, z, 2, head),
                     abl_tensor_select(scope, late, 2, head / 2), 0);
    }
    abl_tensor *diagonal = abl_tensor_select(scope, abl_tensor_select(scope, pattern, 2, 1), 2, 3);
    assert_close(scope, diagonal, abl_tensor_full(scope, ABL_DTYPE_F32, SHAPE(2, 4), 1), 0);
    abl_scope_destroy(scope);
}

static void a_partial_rotation_leaves_the_rest_of_the_head(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    const float zeros[6] = {0};
    float ones[6];
    for (int i = 0; i < 6; i++) {
        ones[i] = 1;
    }
    /* A quarter turn of (0, 1) to (-1's partner): cos 0, sin 1. */
    abl_tensor *cosine = abl_tensor_from_host(scope, ABL_DTYPE_F32, SHAPE(6, 1), zeros);
    abl_tensor *sine = abl_tensor_from_host(scope, ABL_DTYPE_F32, SHAPE(6, 1), ones);
    abl_tensor *x = RANDOM(scope, 1, 2, 6, 3, 8);
    abl_tensor *turned = abl_tensor_rope(scope, x, cosine, sine, false);
    assert_close(scope, abl_tensor_select(scope, turned, 3, 0),
                 abl_tensor_neg(scope, abl_tensor_select(scope, x, 3, 1)), 1e-6);
    assert_close(scope, abl_tensor_select(scope, turned, 3, 1), abl_tensor_select(scope, x, 3, 0),
                 1e-6);
    assert_close(scope, abl_tensor_slice(scope, turned, 3, 2, 8),
                 abl_tensor_slice(scope, x, 3, 2, 8), 0);
    abl_scope_destroy(scope);
}

static void rotating_back_gives_what_was_rotated(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    abl_tensor *angles = RANDOM(scope, 5, 6, 4);
    float *a = floats(scope, angles);
    float cosines[24];
    float sines[24];
    for (int i = 0; i < 24; i++) {
        cosines[i] = cosf(a[i]);
        sines[i] = sinf(a[i]);
    }
    abl_free(a);
    abl_tensor *cosine = abl_tensor_from_host(scope, ABL_DTYPE_F32, SHAPE(6, 4), cosines);
    abl_tensor *sine = abl_tensor_from_host(scope, ABL_DTYPE_F32, SHAPE(6, 4), sines);
    abl_tensor *x = RANDOM(scope, 1, 2, 6, 3, 8);
    abl_tensor *there = abl_tensor_rope(scope, x, cosine, sine, false);
    assert_close(scope, abl_tensor_rope(scope, there, cosine, sine, true), x, 1e-6);
    abl_scope_destroy(scope);
}

/* ---- The rest ---------------------------------------------------------------------------- */

static void kl_is_zero_against_itself_and_positive_against_others(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    abl_tensor *a = RANDOM(scope, 1, 3, 40);
    abl_tensor *b = RANDOM(scope, 2, 3, 40);
    abl_tensor *logp = abl_tensor_log_softmax(scope, a, -1);
    float *same = floats(scope, abl_tensor_kl(scope, logp, a));
    float *other = floats(scope, abl_tensor_kl(scope, logp, b));
    for (int i = 0; i < 3; i++) {
        assert_true(fabsf(same[i]) < 1e-6F);
        assert_true(other[i] > 0.01F);
    }
    abl_free(same);
    abl_free(other);
    abl_scope_destroy(scope);
}

static void the_same_seed_gives_the_same_numbers(void **state) {
    (void)state;
    abl_scope *scope = open_scope();
    assert_close(scope, RANDOM(scope, 7, 100), RANDOM(scope, 7, 100), 0);
    abl_scope_destroy(scope);
}

static void the_backend_says_what_it_is(void **state) {
    (void)state;
    assert_non_null(strstr(abl_backend_version(), "libtorch"));
    assert_true(strlen(abl_backend_blas_name()) > 0);
    abl_backend_init(2);
    assert_int_equal(abl_backend_threads(), 2);
    assert_true(abl_device_available(cpu));
    assert_false(abl_device_available((abl_device){.type = ABL_DEVICE_CUDA, .index = 99}));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kept_tensor_outlives_its_scope),
        cmocka_unit_test(a_view_keeps_the_memory_of_what_it_views),
        cmocka_unit_test(rewinding_drops_all_but_the_survivors),
        cmocka_unit_test(an_expanded_view_takes_no_memory_of_its_own),
        cmocka_unit_test(mapped_memory_is_not_copied),
        cmocka_unit_test(the_first_failure_stays_and_later_operations_do_nothing),
        cmocka_unit_test(a_null_operand_in_a_sound_scope_is_a_failure),
        cmocka_unit_test(memory_that_is_not_there_is_resource_exhausted),
        cmocka_unit_test(every_failing_allocation_of_a_handle_is_reported),
        cmocka_unit_test(host_memory_of_another_size_is_refused),
        cmocka_unit_test(products_equal_their_definition_at_every_layout),
        cmocka_unit_test(a_product_without_beta_never_reads_its_output),
        cmocka_unit_test(batched_products_broadcast_as_matmul_does),
        cmocka_unit_test(sixteen_bit_weights_compute_as_the_same_numbers_in_float32),
        cmocka_unit_test(a_fused_linear_layer_equals_its_parts),
        cmocka_unit_test(norms_differentiate),
        cmocka_unit_test(activations_and_gates_differentiate),
        cmocka_unit_test(activations_hold_at_the_ends),
        cmocka_unit_test(grouped_attention_differentiates_in_q_k_and_v),
        cmocka_unit_test(attention_equals_its_definition),
        cmocka_unit_test(attention_that_looks_ahead_follows_its_definition_too),
        cmocka_unit_test(attention_to_oneself_is_the_value),
        cmocka_unit_test(a_partial_rotation_leaves_the_rest_of_the_head),
        cmocka_unit_test(rotating_back_gives_what_was_rotated),
        cmocka_unit_test(kl_is_zero_against_itself_and_positive_against_others),
        cmocka_unit_test(the_same_seed_gives_the_same_numbers),
        cmocka_unit_test(the_backend_says_what_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
