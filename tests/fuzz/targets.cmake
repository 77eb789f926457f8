# One line a fuzz target; keep it sorted. Its corpus is fuzz/corpus/<name without _fuzz>.
