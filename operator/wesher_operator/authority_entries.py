"""The entries of the Secret ``<mesh>-authority``; each is base64, and base64 once more in the API.

``kubectl wesher new-authority`` writes them and the operator only reads them. So a replacement of
the authority is one write, and an operator that is killed during it continues from what it finds.
"""

from __future__ import annotations

from typing import Final

SEED: Final = "seed"
"""The private key that signs: 32 random bytes."""
FORMER_SEED: Final = "former-seed"
"""The one that signs until all agents trust the new one."""
REPLACES: Final = "replaces"
"""The public key of the authority that the new one replaces. Agents trust it while it is in use."""
DROPS: Final = "drops"
"""In place of `REPLACES`: agents stop trusting that authority at once, as after a theft."""
