# One line a fuzz target; keep it sorted. Its corpus is fuzz/corpus/<name without _fuzz>.
abl_fuzz_target(config_fuzz SOURCES fuzz/config_fuzz.c LIBS abl_loader abl_base)
abl_fuzz_target(dataset_fuzz SOURCES fuzz/dataset_fuzz.c LIBS abl_data abl_base)
abl_fuzz_target(safetensors_fuzz SOURCES fuzz/safetensors_fuzz.c LIBS abl_loader abl_base)
abl_fuzz_target(tokenizer_fuzz SOURCES fuzz/tokenizer_fuzz.c LIBS abl_tokenizer abl_base)
abl_fuzz_target(tokenizer_text_fuzz SOURCES fuzz/tokenizer_text_fuzz.c LIBS abl_tokenizer abl_base)
abl_fuzz_target(web_frame_fuzz SOURCES fuzz/web_frame_fuzz.c LIBS abl_transport abl_proto abl_base)
# By its sources: the library that they are in needs libtorch, which this target stands in for.
set(convert ${PROJECT_SOURCE_DIR}/server/convert)
set(runtime ${PROJECT_SOURCE_DIR}/server/runtime)
abl_fuzz_target(convert_fuzz
    SOURCES fuzz/convert_fuzz.c ${convert}/ablation.c ${convert}/acdc.c ${convert}/common.c
        ${convert}/graph.c ${convert}/hooks.c ${convert}/kv_cache.c ${convert}/mask.c
        ${convert}/prune.c ${convert}/run.c ${convert}/scores.c ${convert}/sweep.c
        ${convert}/training.c ${convert}/wire.c ${PROJECT_SOURCE_DIR}/core/model/hooks.c
        ${runtime}/clock.c ${runtime}/registry.c ${runtime}/resident.c
    LIBS abl_proto abl_graph abl_base PkgConfig::PROTOBUF_C PkgConfig::JANSSON PkgConfig::CRYPTO
        m)
