"""GPU sampler: NVML or nvidia-smi, one thread for each GPU."""
