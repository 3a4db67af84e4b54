"""What stands on whole nodes: the namespace lab, the demo, simulations and benchmarks."""
