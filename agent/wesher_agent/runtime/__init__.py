"""The shell round a member, and what comes before it starts; `app` starts and ends the process.

`mesh.member` decides; what is here does what it asks for with the sockets, the device,
the files and the API server, which do not know each other.
"""
