"""An agent's side of Kubernetes: its own objects read, its own status written.

Imported only by agents that run there. An API server that is away, refuses or
talks nonsense is normal and changes nothing on the data path.
"""
