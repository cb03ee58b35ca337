"""What an attempt uses of its machine: processors, memory, disk and GPUs, sampled over time."""
