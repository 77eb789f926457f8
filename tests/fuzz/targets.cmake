# One line a fuzz target; keep it sorted. Its corpus is fuzz/corpus/<name without _fuzz>.
abl_fuzz_target(dataset_fuzz SOURCES fuzz/dataset_fuzz.c LIBS abl_data abl_base)
