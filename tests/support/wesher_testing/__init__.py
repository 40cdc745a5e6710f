"""What the tests share: fakes, the virtual network, real programs and hosts."""
