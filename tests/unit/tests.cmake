# One line a unit test; keep it sorted.
abl_unit_test(clients/cli/complete_test LIBS abl_cli abl_proto abl_base PkgConfig::JANSSON)
abl_unit_test(clients/cli/graph_json_test LIBS abl_cli abl_proto PkgConfig::JANSSON)
abl_unit_test(clients/cli/interventions_test LIBS abl_cli abl_proto abl_base)
abl_unit_test(clients/cli/json_test LIBS abl_cli abl_proto PkgConfig::JANSSON m)
abl_unit_test(clients/cli/options_test LIBS abl_cli)
abl_unit_test(clients/cli/progress_test LIBS abl_cli)
abl_unit_test(clients/cli/scores_file_test LIBS abl_cli abl_proto PkgConfig::JANSSON)
abl_unit_test(clients/cli/table_test LIBS abl_cli abl_base)
abl_unit_test(clients/cli/watch_test LIBS abl_cli abl_proto abl_base PkgConfig::JANSSON)
abl_unit_test(clients/cli/text_test LIBS abl_cli abl_base)
abl_unit_test(core/base/arena_test LIBS abl_base)
abl_unit_test(core/base/status_test LIBS abl_base)
abl_unit_test(core/data/dataset_test LIBS abl_data abl_base)
abl_unit_test(core/graph/graph_test LIBS abl_graph abl_base)
abl_unit_test(core/graph/scores_test LIBS abl_graph abl_base m)
abl_unit_test(core/metric/area_test LIBS abl_core abl_base m)
abl_unit_test(core/metric/metric_test LIBS abl_core abl_base m)
abl_unit_test(core/metric/similarity_test LIBS abl_core abl_graph abl_base m)
abl_unit_test(core/patch/backward_test LIBS abl_core abl_loader abl_graph abl_tensor abl_base m)
abl_unit_test(core/patch/mask_function_test LIBS abl_core abl_base m)
abl_unit_test(core/patch/idle_test LIBS abl_core abl_graph abl_base)
abl_unit_test(core/patch/mask_rows_test LIBS abl_core abl_base)
abl_unit_test(core/patch/simple_test LIBS abl_core abl_loader abl_data abl_graph abl_tensor abl_base m)
abl_unit_test(core/prune/acdc_plan_test LIBS abl_core abl_graph abl_base)
abl_unit_test(core/prune/mask_training_test
    LIBS abl_core abl_loader abl_data abl_graph abl_tensor abl_base m)
abl_unit_test(core/tensor/memory_test LIBS abl_test_device abl_tensor abl_base)
abl_unit_test(core/tensor/tensor_test LIBS abl_tensor abl_base m)
abl_unit_test(core/tokenizer/tokenizer_test LIBS abl_tokenizer abl_base)
abl_unit_test(server/convert/prune_test LIBS abl_server abl_proto abl_graph abl_base)
abl_unit_test(server/page_test LIBS abl_base PkgConfig::CRYPTO)
abl_unit_test(server/convert/wire_test LIBS abl_server abl_proto abl_base)
abl_unit_test(server/runtime/executor_test LIBS abl_runtime abl_base Threads::Threads)
abl_unit_test(server/runtime/hooks_test
    LIBS PkgConfig::UV abl_server abl_core abl_loader abl_tensor abl_base) # libuv before torch's
abl_unit_test(server/runtime/job_test
    LIBS PkgConfig::UV abl_server abl_transport abl_runtime abl_proto abl_core abl_loader abl_data
        abl_graph abl_tokenizer abl_tensor abl_json abl_base) # libuv before torch's, as in ablated
abl_unit_test(server/runtime/loop_test LIBS abl_runtime abl_base Threads::Threads)
abl_unit_test(server/runtime/mailbox_test LIBS abl_runtime abl_base Threads::Threads)
abl_unit_test(server/runtime/registry_test LIBS abl_server abl_base)
abl_unit_test(server/service/server_test
    LIBS PkgConfig::UV abl_test_device abl_server abl_transport abl_runtime abl_core abl_loader
        abl_tensor abl_base) # libuv before torch's
abl_unit_test(core/model/config_test LIBS abl_loader abl_base)
abl_unit_test(core/model/dir_test LIBS abl_loader abl_base)
abl_unit_test(core/model/family_test LIBS abl_loader abl_base)
abl_unit_test(core/model/forward_test LIBS abl_core abl_loader abl_tensor abl_base)
abl_unit_test(core/model/hooks_test LIBS abl_core abl_base)
abl_unit_test(core/model/intervene_test LIBS abl_core abl_loader abl_tensor abl_base m)
abl_unit_test(core/model/parameters_test LIBS abl_core abl_loader abl_tensor abl_base)
abl_unit_test(core/model/prefix_test
    LIBS abl_core abl_loader abl_data abl_graph abl_tensor abl_base m)
abl_unit_test(core/model/safetensors_test LIBS abl_loader abl_base)
abl_unit_test(server/transport/grpc_server_test
    LIBS abl_test_server abl_transport abl_runtime abl_proto abl_base PkgConfig::GRPC Threads::Threads)
abl_unit_test(server/transport/web_frame_test LIBS abl_transport abl_proto abl_base)
abl_unit_test(server/transport/web_http_test
    LIBS abl_test_server abl_transport abl_runtime abl_base Threads::Threads)
