"""Learning one thing after another: potentials of one molecule after the other, digits two at a time."""
