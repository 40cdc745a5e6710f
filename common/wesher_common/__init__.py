"""The vocabulary that agent and operator share.

Everything here is pure: values and rules, no clock, no socket, no file. What
one side writes and the other reads (names, keys, overlay addresses, the mesh
document, conditions) is defined here once, so that the two cannot drift apart.
"""
