"""The SWIM state machine as memberlist runs it, without I/O.

An engine is told the time and handed its dice; it never sleeps, reads a clock
or opens a socket.
"""
