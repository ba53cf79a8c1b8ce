"""Quantizing a checkpoint on its way into a bundle: calibrated, compared with what it was, and load-checked.

The quantizer (llm-compressor) lives in an environment of its own, since it wants another compressed-tensors
than vLLM; everything that judges its work runs in ours. See docs/quantize.md.
"""
