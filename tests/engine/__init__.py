"""A real container engine for tests: its programs, its network namespace, its images, simulated GPUs."""
