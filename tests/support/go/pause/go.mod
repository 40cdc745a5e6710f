module wesher.dev/tests/pause

go 1.24
