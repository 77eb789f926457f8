# One line a unit test; keep it sorted.
abl_unit_test(core/base/arena_test LIBS abl_base)
abl_unit_test(core/base/status_test LIBS abl_base)
abl_unit_test(core/graph/graph_test LIBS abl_graph abl_base)
abl_unit_test(core/graph/scores_test LIBS abl_graph abl_base m)
abl_unit_test(server/runtime/executor_test LIBS abl_runtime abl_base Threads::Threads)
abl_unit_test(server/runtime/loop_test LIBS abl_runtime abl_base Threads::Threads)
abl_unit_test(server/runtime/mailbox_test LIBS abl_runtime abl_base Threads::Threads)
abl_unit_test(server/transport/grpc_server_test
    LIBS abl_test_server abl_transport abl_runtime abl_proto abl_base PkgConfig::GRPC Threads::Threads)
