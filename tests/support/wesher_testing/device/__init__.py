"""What every WireGuard device must do, on this machine and in a virtual one."""
