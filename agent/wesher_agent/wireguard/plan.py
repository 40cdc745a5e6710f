"""The smallest change from an observed device to the wished one."""
