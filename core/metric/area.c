// SPDX-License-Identifier: Apache-2.0
/* Areas under curves. A curve has as many points as a sweep has circuits, a few hundred at most, so
 * they are put in order by insertion, which keeps equal ones in their order as AutoCircuit's sort
 * does. */
#include "core/metric/area.h"

#include <math.h>

#define AUC_MIN 1e-3 /* AutoCircuit's: never 0, so that ratios of areas exist */

abl_axes abl_metric_axes(abl_metric metric) {
    abl_axes axes = {.log_x = true};
    if (metric == ABL_METRIC_CLEAN_KL_DIV) {
        axes.y_min = 1e-2;
    } else if (metric == ABL_METRIC_CORRUPT_KL_DIV || metric == ABL_METRIC_ANSWER_LOGPROB ||
               metric == ABL_METRIC_ANSWER_LOGPROB_DIFF) {
        axes.y_min = 1e-6;
    }
    axes.log_y = axes.y_min > 0;
    return axes;
}

static void sort_by_x(abl_point *points, int32_t count) {
    for (int32_t i = 1; i < count; i++) {
        abl_point point = points[i];
        int32_t at = i;
        for (; at > 0 && points[at - 1].x > point.x; at--) {
            points[at] = points[at - 1];
        }
        points[at] = point;
    }
}

static double height(double y, abl_axes axes) {
    return axes.log_y ? log10(fmax(y, axes.y_min)) - log10(axes.y_min) : y;
}

double abl_area_auc(abl_point *points, int32_t count, abl_axes axes) {
    sort_by_x(points, count);
    if (count < 1 || points[0].x != 0) {
        return NAN;
    }
    const double baseline = points[0].y;
    double area = 0;
    for (int32_t i = 1; i < count; i++) {
        abl_point a = points[i - 1];
        abl_point b = points[i];
        if (axes.log_x && (a.x == 0 || b.x == 0)) {
            continue;
        }
        double width = axes.log_x ? log10(b.x) - log10(a.x) : b.x - a.x;
        area += width * (height(a.y, axes) - baseline + height(b.y, axes) - baseline) / 2;
    }
    return area > AUC_MIN || isnan(area) ? area : AUC_MIN;
}

double abl_area_trapezoid(abl_point *points, int32_t count) {
    sort_by_x(points, count);
    double area = count < 2 ? NAN : 0;
    for (int32_t i = 1; i < count; i++) {
        area += (points[i].x - points[i - 1].x) * (points[i].y + points[i - 1].y) / 2;
    }
    return area;
}

void abl_area_faithfulness(abl_point *points, int32_t count, double x_max, double *ret_cpr,
                           double *ret_cmd) {
    *ret_cpr = *ret_cmd = NAN;
    sort_by_x(points, count);
    if (count < 2 || points[0].x != 0 || points[count - 1].x != x_max) {
        return;
    }
    const double empty = points[0].y;
    const double whole = points[count - 1].y;
    double cpr = 0;
    double cmd = 0;
    for (int32_t i = 1; i < count; i++) {
        if (points[i - 1].x == 0) {
            continue;
        }
        double width = (points[i].x - points[i - 1].x) / x_max;
        double a = (points[i - 1].y - empty) / (whole - empty);
        double b = (points[i].y - empty) / (whole - empty);
        cpr += width * (a + b) / 2;
        cmd += width * (fabs(1 - a) + fabs(1 - b)) / 2;
    }
    *ret_cpr = cpr;
    *ret_cmd = cmd;
}
