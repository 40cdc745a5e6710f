module wesher.dev/tests/attacker

go 1.21
