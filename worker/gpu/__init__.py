"""GPUs: read through NVML, and watched for faults."""
