"""Load a frozen model with hook points, from the package, a folder or the hub.

Two backends of TransformerLens serve: ``HookedTransformer`` (default; every architecture it can
convert, from hub names and from local Hugging Face folders alike) and ``TransformerBridge`` (the
Hugging Face modules themselves with hooks around them). Weights are raw: nothing is folded or
centred, so that activations are those of the published model. Parameters are frozen and the model
is in evaluation mode; attribution differentiates activations, never weights.
"""

from culnig_tl.models.fingerprint import model_fingerprint
from culnig_tl.models.loading import Backend, Dtype, load_model

__all__ = ["Backend", "Dtype", "load_model", "model_fingerprint"]
