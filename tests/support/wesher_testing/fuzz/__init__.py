"""Every decoder as a target, and what runs inputs against it."""
