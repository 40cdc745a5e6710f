"""WireGuard's cross-platform configuration protocol, as text to values and back."""
