"""Where work runs: the device, the number of threads, and models that are loaded once per process."""
