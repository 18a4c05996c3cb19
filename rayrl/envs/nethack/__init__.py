"""NetHack 3.6 through `nle`: the game, what an agent sees of it, and ONI's tasks. The only room that imports `nle`.

The game keeps global state in C: one process may hold many games, but only one thread may play them.
"""
