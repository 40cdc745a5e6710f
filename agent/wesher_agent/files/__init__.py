"""Files of the host: replaced atomically, and kept as their other writers left them."""
