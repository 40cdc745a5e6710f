"""asyncio round the engine: sockets, timers and the only real clock."""
