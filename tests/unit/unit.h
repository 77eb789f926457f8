/* unit.h -- cmocka with the headers it needs, in the order it needs them. */
#ifndef ABLATE_TESTS_UNIT_UNIT_H
#define ABLATE_TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
