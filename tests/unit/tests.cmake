# One line a unit test; keep it sorted.
abl_unit_test(core/base/arena_test LIBS abl_base)
abl_unit_test(core/base/status_test LIBS abl_base)
