# One line a fuzz target; keep it sorted. Its corpus is fuzz/corpus/<name without _fuzz>.
abl_fuzz_target(config_fuzz SOURCES fuzz/config_fuzz.c LIBS abl_loader abl_base)
abl_fuzz_target(dataset_fuzz SOURCES fuzz/dataset_fuzz.c LIBS abl_data abl_base)
abl_fuzz_target(safetensors_fuzz SOURCES fuzz/safetensors_fuzz.c LIBS abl_loader abl_base)
abl_fuzz_target(tokenizer_fuzz SOURCES fuzz/tokenizer_fuzz.c LIBS abl_tokenizer abl_base)
abl_fuzz_target(tokenizer_text_fuzz SOURCES fuzz/tokenizer_text_fuzz.c LIBS abl_tokenizer abl_base)
abl_fuzz_target(web_frame_fuzz SOURCES fuzz/web_frame_fuzz.c LIBS abl_transport abl_proto abl_base)
