"""Studies: grids of runs declared in a file, run, collected and analysed."""
