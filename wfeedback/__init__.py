"""What one does with the networks: commands, training, an engine in C, NIR, export.

`wfeedback.idle_threads`, which a script imports before torch, is a part of this
package. So nothing here may import torch.
"""
