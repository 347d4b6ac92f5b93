"""Load a frozen model with hook points, from the package, a folder, a file or the hub.

    name -> pretrained: where "smollm2" is read from; other names stay as they are
         -> checkpoint -> transformers model -> agreement: what it computes of three prompts
                              |-> conversion: HookedTransformer -> compared -> handed out
                              |-> bridge:     TransformerBridge -> compared -> handed out or refused

Two backends of TransformerLens serve: ``HookedTransformer`` (default, in TransformerLens 3.9; every
architecture that it can convert, read from the configuration that came with the weights) and
``TransformerBridge`` (the Hugging Face modules themselves with hooks around them). None is handed
out that computes something else than transformers, unless on trust. Weights are raw: nothing is
folded or centred, so that activations are those of the published model. Parameters are frozen and
the model is in evaluation mode; attribution differentiates activations, never weights.
"""

from culnig_tl.models.caching import next_logits
from culnig_tl.models.fingerprint import model_fingerprint
from culnig_tl.models.loading import Backend, Dtype, load_model
from culnig_tl.models.places import Place, find_places
from culnig_tl.models.plain import outline, read_plain

__all__ = [
    "Backend",
    "Dtype",
    "Place",
    "find_places",
    "load_model",
    "model_fingerprint",
    "next_logits",
    "outline",
    "read_plain",
]
