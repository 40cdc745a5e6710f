"""The operator, command ``wesher-operator``: the only writer of mesh objects."""
