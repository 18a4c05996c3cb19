"""A run as a discrete-event simulation: what a configuration will do on machines that nobody has started yet.

`scenario.py` holds the numbers that a run follows from, `world.py` lets driver, engines, scorers and learner act on them in
simulated time (with the pacing of the real driver), `calibrate.py` reads the numbers off a recorded run, `hardware.py` estimates
them for GPUs, `sweep.py` varies staleness and the share of engines over cluster sizes, `drawing.py` draws what comes out.
"""
