"""What only a CUDA device can show: `pytest tests/gpu`."""
