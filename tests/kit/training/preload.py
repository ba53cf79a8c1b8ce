"""What the forkserver loads once for all ranks of all tests."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import deepspeed

# Each engine's start imports it, and with it torch's compiler: over a second of each rank.
import deepspeed.runtime.zero.muon.muon_optimizer
import peft
import torch
import transformers
import transformers.models.llama.modeling_llama
import transformers.models.qwen2.modeling_qwen2

import kit.distill.phase
import kit.training.engines.deepspeed_engine
import kit.training.engines.torch_engine
from kit.training import attention
from submission.architectures import generating_architectures

attention.register()
generating_architectures()  # lists names in a process of its own, and remembers them
LOADED = (deepspeed, peft, torch, transformers, kit.distill.phase, kit.training.engines)
