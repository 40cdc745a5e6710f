"""The agent's two calls to the API server: read our own object, patch its status."""
