"""Trajectories of bodies: simulators, the question of their future, and GeoTDM. Names only; import what you need from the modules."""
