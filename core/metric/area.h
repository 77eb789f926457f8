/* area.h -- one number for a curve of a metric over circuit sizes.
 *
 * OWNERSHIP  Nothing is kept; points are the caller's, and may be put in order of x.
 * THREADS    Any thread.
 * ERRORS     NAN where a curve has no such number; each call says when.
 */
#ifndef ABLATE_CORE_METRIC_AREA_H
#define ABLATE_CORE_METRIC_AREA_H

#include "core/metric/metric.h"

ABL_BEGIN_DECLS

typedef struct abl_point {
    double x;
    double y;
} abl_point;

/* Axes on which a curve is measured. */
typedef struct abl_axes {
    bool log_x;   /* decades; segments that touch 0 count for nothing */
    bool log_y;   /* decades above y_min, and what is below counts as y_min */
    double y_min; /* of log_y: more than 0 */
} abl_axes;

/* The axes that AutoCircuit measures (and plots) the metric on. */
abl_axes abl_metric_axes(abl_metric metric);

/* AutoCircuit's measurements_auc(): the area between the curve and its value at 0, at least 1e-3.
 * With log_y the value at 0 is not made logarithmic before it is subtracted; both are kept, so that
 * numbers agree. Curves that fall therefore give 1e-3. NAN without a point at x = 0. */
double abl_area_auc(abl_point *points, int32_t count, abl_axes axes);

/* The plain area under the curve, on linear axes, by trapezoids; NAN for less than two points. */
double abl_area_trapezoid(abl_point *points, int32_t count);

/* MIB's measures of a metric's curve. Faithfulness is (y - y at 0) / (y at x_max - y at 0); both
 * are areas over the share of edges, x / x_max, from the smallest circuit that has an edge to the
 * largest. cpr: of the faithfulness (circuit performance ratio; more is better). cmd: of its
 * distance from 1 (circuit-model distance; less is better). NAN without points at 0 and x_max. */
void abl_area_faithfulness(abl_point *points, int32_t count, double x_max, double *ret_cpr,
                           double *ret_cmd);

ABL_END_DECLS
#endif
