"""`ponita export`: a trained potential as a file for LAMMPS and the other programs that run metatomic models."""
