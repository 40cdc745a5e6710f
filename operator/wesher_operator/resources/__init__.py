"""The custom resources as models: what a WesherMesh, a WesherNode and a WesherPeer may say.

The CRDs are generated from these models (`wesher_operator.crd`), and the
operator reads objects through them, so what the API server admits and what
the operator understands are one text.

Left to others: how the schemas become YAML (`crd`), what is done about a spec
(`reconcile`).
"""
