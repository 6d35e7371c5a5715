"""GDSS: scores of atoms and bonds together, as a system of two stochastic equations. Names only; import what you need from the modules."""
