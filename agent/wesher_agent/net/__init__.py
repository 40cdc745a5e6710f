"""asyncio round the SWIM engine: sockets, deadlines and the only real clock."""
