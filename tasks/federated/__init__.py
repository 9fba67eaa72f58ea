"""`ponita federate`: potentials trained by labs that keep their data and come and go."""
