"""The commands ``wesher`` offers."""
