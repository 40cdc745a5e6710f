"""The command ``kubectl wesher``: what an administrator asks of a cluster, with no operator needed to answer.

Starts at once, so it loads neither kopf nor the operator's models, and reads objects as the API
server sends them. Of a Secret, `doctor` alone reads one, to measure its key.
"""
