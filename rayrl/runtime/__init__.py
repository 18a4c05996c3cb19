"""The only room that imports ray: turns plain role classes into supervised actors, or hosts the same objects in one process.

`ray_runtime.RayRuntime` and `local.LocalRuntime` fulfil the same contract (`contract.Runtime`), so the driver cannot tell which
one it has. Neither knows any role.
"""
