"""Ideas beyond the paper, a file or folder each, all off by default. `model` knows none of them: `registry` hands them in."""
