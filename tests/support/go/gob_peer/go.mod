module wesher.dev/tests/gob_peer

go 1.21
