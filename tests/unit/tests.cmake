# One line a unit test; keep it sorted.
abl_unit_test(core/base/arena_test LIBS abl_base)
abl_unit_test(core/base/status_test LIBS abl_base)
abl_unit_test(core/graph/graph_test LIBS abl_graph abl_base)
abl_unit_test(core/graph/scores_test LIBS abl_graph abl_base m)
