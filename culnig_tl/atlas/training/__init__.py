"""How the embedded model was trained and verified; nothing here is needed to use it.

| module | what |
|---|---|
| ``train`` | the training itself, one seed |
| ``interventions``, ``sampling`` | what is switched off in a sample, and which samples are drawn |
| ``tokenizer``, ``artifacts`` | the tokenizer, and the files of a trained model |
| ``ablation`` | exact ablation, by hooks of its own: a witness of the library's |
| ``validation`` | what is measured while it trains |
| ``verify`` | the verified key, and every figure of the model card |
| ``recovery`` | what the library's own method recovers of the key |
| ``summary``, ``card`` | the figures that it is judged by, and the model card |
| ``seeds`` | three seeds and the natural twin |
"""
