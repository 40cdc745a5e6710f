"""Real agents as processes in a lab's hosts, alone and as a mesh."""
